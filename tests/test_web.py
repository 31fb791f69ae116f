"""The decoder in JavaScript against that in Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WEB = ROOT / "web"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="there is no npm")
@pytest.mark.skipif(not (WEB / "node_modules").is_dir(), reason="run `make web`")
def test_javascript_decodes_what_python_decodes(tmp_path):
    photo = ROOT / "tests/data/coffee.png"
    vectors = [sys.executable, WEB / "test/vectors.py", tmp_path]
    vectors += ["--checkpoints", ROOT / "checkpoints", "--image", photo]
    subprocess.run(vectors, check=True)
    run = subprocess.run(
        ["npm", "test"],
        cwd=WEB,
        env={**os.environ, "SAE_VECTORS": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stdout
    assert "# fail 0" in run.stdout
