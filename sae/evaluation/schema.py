"""The schema of results files, checked in this one place.

Files are our own, CompressAI's, or written by hand, and nothing in them is trusted. The result of
`read` requires no further checks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from sae.errors import SaeError

# These bounds exceed the bits per pixel of any image and the dB of any codec.
_RATES = 1e-9, 1e9
_DECIBELS = 0.0, 1e3
# An MS-SSIM in float32 may exceed 1 by its rounding.
_SIMILARITIES = 0.0, 1 + 1e-6
_COUNTS = 1, 1e12
_SECONDS = 0, 1e12

# Name of the metric of the training in files of 1.x.
_EARLIER_METRIC = "optimised_for"

# Names of each quality, the present one first; CompressAI's files of 2021 lack "-rgb".
_PSNR = "psnr-rgb", "psnr"
_MS_SSIM = "ms-ssim-rgb", "ms-ssim"
_MS_SSIM_DB = "ms-ssim-db-rgb", "ms-ssim-db"
_KNOWN = {*_PSNR, *_MS_SSIM, *_MS_SSIM_DB}
# Parts of the names of qualities, known or not.
_MEASURES = "psnr", "ssim", "mse", "vmaf", "lpips"


class _Fault(Exception):
    """A fault of a document, to which `read` adds the file."""


def read(path: str | Path) -> dict:
    """Reads a results file.

    Returns:
      The document, with these fields:
        "name", "description", "source", "optimized_for", "family": texts.
        "scalable": boolean.
        "effort", "cuts": whole numbers.
        "fingerprints": texts by label.
        "labels": texts, one for each setting.
        "results": at least "bpp", "psnr-rgb" and "ms-ssim-rgb", lists of a number for each setting,
          None where a quality is unknown or infinite.
        "images": lists of rows, one for each setting, or an empty list.
        "unused": names of qualities that are ignored.

    Raises:
      SaeError: the file cannot be read, or is invalid; the error names field and reason.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        return _document(document)
    except OSError as error:
        reason = error.strerror or str(error)
    except RecursionError:
        reason = "it is nested too deeply"
    except ValueError as error:
        reason = f"it is not JSON, {text(str(error))}"
    except _Fault as fault:
        reason = str(fault)
    raise SaeError(f"{path} is not a results file: {reason}; correct or remove it.")


def text(value: str) -> str:
    """Returns text on one line, without characters that cannot be printed."""
    return " ".join("".join(c if c.isprintable() else " " for c in value).split())


def _document(document: object) -> dict:
    if not isinstance(document, dict):
        raise _Fault("it is no JSON object")
    found = document.get("results")
    if not isinstance(found, dict):
        raise _Fault("it lacks results" if found is None else "results is no JSON object")
    if "bpp" not in found:
        raise _Fault("results lacks bpp")
    rates = _numbers("bpp", found["bpp"], _RATES)
    if not rates:
        raise _Fault("bpp is empty")
    count = len(rates)
    source = document.get("source") or _origin(document.get("meta"))
    metric = "optimized_for" if "optimized_for" in document else _EARLIER_METRIC
    return {
        **document,
        "name": _text(document, "name", None),
        "description": _text(document, "description"),
        "source": _text({"source": source}, "source"),
        "optimized_for": _text(document, metric, "-"),
        "scalable": _boolean(document, "scalable"),
        "family": _text(document, "family"),
        "effort": _whole(document, "effort"),
        "cuts": _whole(document, "cuts"),
        "fingerprints": _fingerprints(document.get("fingerprints")),
        "results": {**found, "bpp": rates, **_qualities(found, count)},
        "labels": _labels(document.get("labels"), count),
        "images": _images(document.get("images"), count),
        "unused": [
            text(key)
            for key in found
            if key not in _KNOWN and any(part in key.lower() for part in _MEASURES)
        ],
    }


def _qualities(found: dict, count: int) -> dict[str, list]:
    """Returns PSNR and MS-SSIM of every setting, under their present names."""

    def of(names: Sequence[str], bounds: tuple[float, float]) -> list | None:
        name = next((name for name in names if name in found), None)
        if name is None:
            return None
        return _same_length(name, _numbers(name, found[name], bounds, unknown=True), count)

    psnr, ms_ssim, decibels = of(_PSNR, _DECIBELS), of(_MS_SSIM, _SIMILARITIES), None
    if ms_ssim is None:
        decibels = of(_MS_SSIM_DB, _DECIBELS)
    if psnr is ms_ssim is decibels is None:
        others = ", ".join(text(key) for key in found if key != "bpp") or "bpp alone"
        raise _Fault(f"results has neither {_PSNR[0]} nor {_MS_SSIM[0]} but {others}")
    if decibels is not None:
        ms_ssim = [None if value is None else 1 - 10 ** (-value / 10) for value in decibels]
    unknown = [None] * count
    ms_ssim = [None if value is None else min(value, 1) for value in ms_ssim or unknown]
    return {_PSNR[0]: psnr or unknown, _MS_SSIM[0]: ms_ssim}


def _images(images: object, count: int) -> list[list[dict]]:
    """Returns the rows of every setting, none where only means are known."""
    if images is None or images == []:
        return []
    if not isinstance(images, list):
        raise _Fault("images is no list")
    for index, rows in enumerate(_same_length("images", images, count)):
        if not isinstance(rows, list) or not rows:
            raise _Fault(f"images[{index}] is no list of rows")
        for row in rows:
            _check_row(f"images[{index}]", row)
        if len({row["image"] for row in rows}) < len(rows):
            raise _Fault(f"images[{index}] has two rows of one image")
    return images


def _check_row(place: str, row: object) -> None:
    """Checks one row of an image, and replaces an infinite PSNR by None."""
    if not isinstance(row, dict):
        raise _Fault(f"a row of {place} is no JSON object")
    name = row.get("image")
    if not isinstance(name, str) or not name or Path(name).name != name:
        raise _Fault(f"image in {place} is {_shown(name)}, not the name of a file")
    needed = {
        "width": _COUNTS,
        "height": _COUNTS,
        "bytes": (0, _COUNTS[1]),
        "bpp": _RATES,
        "psnr-rgb": _DECIBELS,
        "ms-ssim-rgb": _SIMILARITIES,
    }
    for key, bounds in needed.items():
        if key not in row:
            raise _Fault(f"{name} in {place} lacks {key}")
        unknown = key in (_PSNR[0], _MS_SSIM[0])
        row[key] = _number(f"{key} of {name}", row[key], bounds, unknown)
    for key in ("encode-seconds", "decode-seconds"):
        if key in row:
            row[key] = _number(f"{key} of {name}", row[key], _SECONDS, unknown=True)


def _numbers(name: str, values: object, bounds: tuple, unknown: bool = False) -> list:
    if not isinstance(values, list):
        raise _Fault(f"{name} is {_shown(values)}, not a list")
    return [_number(f"{name}[{i}]", value, bounds, unknown) for i, value in enumerate(values)]


def _number(name: str, value: object, bounds: tuple, unknown: bool = False) -> float | None:
    """Returns a number within bounds, or None for null and infinity if these are allowed."""
    low, high = bounds
    if unknown and (value is None or value == math.inf):
        return None
    # A boolean is an int in Python.
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _Fault(f"{name} is {_shown(value)}, not a number")
    if not low <= value <= high:
        hint = "; MS-SSIM in dB belongs under ms-ssim-db-rgb" if high == _SIMILARITIES[1] else ""
        raise _Fault(f"{name} is {_shown(value)}, not between {low:g} and {high:g}{hint}")
    return value


def _labels(labels: object, count: int) -> list[str]:
    if labels is None:
        return [""] * count
    if not isinstance(labels, list):
        raise _Fault(f"labels is {_shown(labels)}, not a list")
    for label in labels:
        if isinstance(label, bool) or not isinstance(label, (str, int, float)):
            raise _Fault(f"{_shown(label)} in labels is not text")
    return [text(str(label)) for label in _same_length("labels", labels, count)]


def _same_length(name: str, values: list, count: int) -> list:
    if len(values) != count:
        raise _Fault(f"bpp has {count} entries and {name} {len(values)}")
    return values


def _text(document: dict, key: str, default: str | None = "") -> str:
    value = document.get(key)
    if value is None and default is not None:
        return default
    if key not in document:
        raise _Fault(f"it lacks {key}")
    if not isinstance(value, str):
        raise _Fault(f"{key} is {_shown(value)}, not text")
    return text(value)


def _boolean(document: dict, key: str) -> bool:
    value = document.get(key, False)
    if not isinstance(value, bool):
        raise _Fault(f"{key} is {_shown(value)}, not true or false")
    return value


def _whole(document: dict, key: str) -> int:
    value = document.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 10**6:
        raise _Fault(f"{key} is {_shown(value)}, not a whole number from 0 up")
    return value


def _fingerprints(found: object) -> dict[str, str]:
    """Returns the fingerprints of weights by label; none where the file has none."""
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise _Fault(f"fingerprints is {_shown(found)}, not an object of texts")
    return found


def _origin(meta: object) -> object:
    """Returns the source of numbers in CompressAI's field "meta"."""
    if not isinstance(meta, dict):
        return None
    return meta.get("url") or meta.get("source")


def _shown(value: object) -> str:
    """Returns the beginning of a JSON value as text."""
    shown = json.dumps(value)
    return shown if len(shown) <= 40 else shown[:40] + "..."
