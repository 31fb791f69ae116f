"""The contents of `layer.json`, checked in this one place."""

from __future__ import annotations

import dataclasses
import json
import re
import reprlib
from pathlib import Path

from sae.config import LayerConfig, TrainingConfig, fault
from sae.errors import SaeError
from sae.model import families

FORMAT = 1

# Fields that version 1 stored, with the only values that residual layers had.
_RETIRED = {
    "transforms": "paper",
    "latent_support": 5,
    "post_filter": 0,
    "step": 1.0,
    "prior_filters": 64,
    "prior_support": 5,
    "prior_slices": 1,
}

_NUMBER = (int, float)
# Types of fields in the record of a training, none of which is required.
_RECORD = {
    "options": dict,
    "steps": dict,
    "patches": int,
    "hours": _NUMBER,
    "photos": dict,
    "validation": list,
    "date": str,
    "commit": (str, type(None)),
    "python": str,
    "packages": dict,
    "machine": str,
}
_SCORES = {"step": int, "loss": _NUMBER, "bpp": _NUMBER, "distortion": _NUMBER, "psnr": _NUMBER}


def read(path: Path) -> dict:
    """Returns the valid contents of a `layer.json`.

    Raises:
      FileNotFoundError: the file does not exist.
      SaeError: the file cannot be read, or is invalid.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise
    except NotADirectoryError as error:
        file = next(parent for parent in path.parents if parent.exists())
        raise SaeError(f"{file} is a file; name a folder of checkpoints.") from error
    except UnicodeDecodeError as error:
        raise _damaged(path, "it is no text in UTF-8") from error
    except OSError as error:
        raise SaeError(f"Cannot read {path}: {error.strerror or error}; fetch it again.") from error
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"it is no JSON ({error})") from error
    if reason := _fault(found):
        raise _damaged(path, reason)
    return found


def _damaged(path: Path, reason: str) -> SaeError:
    return SaeError(
        f"{path} is damaged: {reason}; fetch it again, or train the layer again with --force."
    )


def layer_config(found: dict) -> LayerConfig:
    """Returns the architecture in valid metadata."""
    return LayerConfig(**{k: v for k, v in found["layer"].items() if k not in _RETIRED})


def _fault(found: object) -> str | None:
    """Returns the first fault of metadata, None where there is none."""
    if not isinstance(found, dict):
        return "it is no object of JSON"
    expected = ("format", "family", "layer", "fingerprint", "below", "training")
    if names := [name for name in expected if name not in found]:
        return f"it has no {names[0]}"
    if names := [name for name in found if name not in expected]:
        return f"it has a field {reprlib.repr(names[0])}, which is unknown"
    if found["format"] != FORMAT or isinstance(found["format"], bool):
        return f"format has to be {FORMAT}, and is {reprlib.repr(found['format'])}"
    names = [family.name for family in families.FAMILIES]
    if found["family"] not in names:
        return f"family has to be one of {', '.join(names)}, and is {reprlib.repr(found['family'])}"
    fingerprint, below = found["fingerprint"], found["below"]
    if not (isinstance(fingerprint, str) and re.fullmatch("[0-9a-f]{64}", fingerprint)):
        return f"fingerprint has to be 64 hexadecimal digits, and is {reprlib.repr(fingerprint)}"
    if not isinstance(below, (str, type(None))):
        return f"below has to be a fingerprint or null, and is {reprlib.repr(below)}"
    reason = _fault_of_layer(found["layer"]) or _fault_of_training(found["training"])
    kind = families.named(found["family"]).kind
    if not reason and found["layer"].get("kind", "residual") != kind:
        reason = f"the layers of {found['family']} are {kind}, and this one is not"
    return reason


def _fault_of_layer(found: object) -> str | None:
    if not isinstance(found, dict):
        return "layer is no object of JSON"
    fields = dataclasses.fields(LayerConfig)
    for field in fields:
        if field.default is dataclasses.MISSING and field.name not in found:
            return f"layer has no {field.name}"
    if names := set(found) - {field.name for field in fields} - set(_RETIRED):
        return f"layer has a field {reprlib.repr(min(names))}, which is unknown"
    for name, value in _RETIRED.items():
        if name in found and found[name] != value:
            return f"{name} of a residual layer has to be {value}, and is {found[name]!r:.80}"
    try:
        layer_config({"layer": found})
    except SaeError as error:
        return str(error).removesuffix(".")
    return None


def _fault_of_training(found: object) -> str | None:
    reason = _fault_of_types("training", found, _RECORD)
    if reason:
        return reason
    assert isinstance(found, dict), "anything else has a reason"
    for name in ("steps", "photos"):
        counted = found.get(name, {})
        if reason := _fault_of_types(name, counted, dict.fromkeys(counted, int)):
            return reason
    for scores in found.get("validation", []):
        if reason := _fault_of_types("validation", scores, _SCORES):
            return reason
        if names := set(_SCORES) - set(scores):
            return f"validation has no {min(names)}"
    fields = {
        field.name for kind in (LayerConfig, TrainingConfig) for field in dataclasses.fields(kind)
    }
    for name, value in found.get("options", {}).items():
        if name in fields and (reason := fault(name, value)):
            return f"{name} of training {reason}"
    return None


def _fault_of_types(where: str, found: object, types: dict) -> str | None:
    """Returns the first field of an object with a wrong type, None where there is none."""
    if not isinstance(found, dict):
        return f"{where} is no object of JSON"
    for name, value in found.items():
        right = isinstance(value, types.get(name, object))
        # True and False are integers in Python.
        if not right or (name in types and isinstance(value, bool)):
            return f"{name} of {where} cannot be {reprlib.repr(value)}"
    return None
