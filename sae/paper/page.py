"""HTML pages that are one file and need neither server nor network."""

from __future__ import annotations

import base64
import importlib.resources
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from sae import files

# Of the WebP images in a page.
_QUALITY = 92


def write(target: str | Path, template: str, data: object, **parts: str) -> Path:
    """Writes a page; returns its path.

    Args:
      target: the HTML file.
      template: name of a file beside this one, with {{name}} for each part, for "data" and
        for "quality".
      data: JSON value for the page's scripts.
      **parts: HTML.
    """
    page = importlib.resources.files("sae.paper").joinpath(template).read_text(encoding="utf-8")
    parts["quality"] = str(_QUALITY)
    # Inside a script element only its end tag must not appear.
    parts["data"] = json.dumps(data).replace("</", "<\\/")
    for name, part in parts.items():
        page = page.replace("{{" + name + "}}", part)
    files.write_bytes(target, page.encode())
    return Path(target)


def source(image: np.ndarray) -> str:
    """Returns an image, uint8 [H, W, 3], as a data URL of a WebP that looks like it."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "WEBP", quality=_QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
