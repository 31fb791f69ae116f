"""The notebook under examples/ runs, and shows what it claims."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

PATH = Path(__file__).resolve().parents[1] / "examples/progressive.ipynb"


@pytest.mark.slow
def test_the_notebook_runs():
    notebook = nbformat.read(PATH, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are not committed"
    NotebookClient(notebook, timeout=120).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "".join(output.text for output in outputs if output.output_type == "stream")
    qualities = [
        float(line.split()[3]) for line in text.splitlines() if line.startswith(("base", "el"))
    ]
    assert len(qualities) == 5 and qualities == sorted(qualities)
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 2
