"""HTML pages in one file, which require neither server nor network."""

from __future__ import annotations

import base64
import importlib.resources
import io
import json
import re
from pathlib import Path

import numpy as np
from PIL import Image

from sae import files

# Quality of the WebP images in a page, and the largest side that WebP allows.
_QUALITY = 92
_LARGEST = 16383


def write(target: str | Path, template: str, data: object, **parts: str) -> Path:
    """Writes a page; returns its path.

    Args:
      target: HTML file to write.
      template: name of a file next to this one, with {{name}} for each part, "data" and "quality".
      data: JSON value for the page's scripts.
      **parts: HTML texts by name.
    """
    page = importlib.resources.files("sae.reporting").joinpath(template).read_text(encoding="utf-8")
    parts["quality"] = str(_QUALITY)
    # HTML parsers would interpret tags and comments inside a script element.
    parts["data"] = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    # All placeholders are replaced at once, since a part may contain the text of another.
    page = re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], page)
    files.write_bytes(target, page.encode())
    return Path(target)


def source(image: np.ndarray) -> str:
    """Returns an image, uint8 [H, W, 3], as a data URL of a WebP of high quality.

    An image too large for WebP becomes a PNG.
    """
    buffer = io.BytesIO()
    if max(image.shape[:2]) > _LARGEST:
        kind = "png"
        Image.fromarray(image).save(buffer, "PNG")
    else:
        kind = "webp"
        Image.fromarray(image).save(buffer, "WEBP", quality=_QUALITY, method=4)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()
