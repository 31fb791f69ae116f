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

# Quality of the WebP images in pages, and the largest side that WebP allows.
QUALITY = 92
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
    parts["quality"] = str(QUALITY)
    # HTML parsers would interpret tags and comments inside a script element.
    parts["data"] = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    # All placeholders are replaced at once, since a part may contain the text of another.
    page = re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], page)
    files.write_bytes(target, page.encode())
    return Path(target)


def encoded(image: np.ndarray, lossless: bool = False) -> tuple[bytes, str]:
    """Returns a file of an image, and its suffix: a WebP, or a PNG where it is too large for that.

    Args:
      image: uint8 [H, W, 3].
      lossless: whether a WebP has the pixels as they are, or is of high quality.
    """
    buffer, picture = io.BytesIO(), Image.fromarray(image)
    if max(image.shape[:2]) > _LARGEST:
        picture.save(buffer, "PNG")
        return buffer.getvalue(), "png"
    if lossless:
        picture.save(buffer, "WEBP", lossless=True, quality=60, method=3)
    else:
        picture.save(buffer, "WEBP", quality=QUALITY, method=4)
    return buffer.getvalue(), "webp"


def source(image: np.ndarray) -> str:
    """Returns an image, uint8 [H, W, 3], as a data URL of high quality."""
    data, suffix = encoded(image)
    return f"data:image/{suffix};base64," + base64.b64encode(data).decode()
