"""What `layer.json` may hold: all else is one sentence that names the field."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sae.config import DEFAULT_FOLDER, LayerConfig
from sae.errors import SaeError
from sae.model import families, layer_metadata
from sae.model.layer_store import LayerStore

RECORD = {
    "options": {"lmbda": 300.0, "batchsize": 8, "below": None},
    "steps": {"on whole patches": 20},
    "photos": {"train": 3},
    "validation": [{"step": 20, "loss": 1.0, "bpp": 0.1, "distortion": 1.0, "psnr": 30.0}],
    "hours": 1,
}
SOUND = {
    "format": 1,
    "family": "residual-mse",
    "layer": dataclasses.asdict(LayerConfig("base", 8)),
    "fingerprint": "0f" * 32,
    "below": None,
    "training": RECORD,
}


def changed(place, value):
    """Returns a sound description but for one value."""
    found = copy.deepcopy(SOUND)
    *outer, last = place
    inner = found
    for key in outer:
        inner = inner[key]
    inner[last] = value
    return found


@pytest.fixture
def read(tmp_path):
    def read(found):
        path = tmp_path / "layer.json"
        path.write_text(found if isinstance(found, str) else json.dumps(found))
        return layer_metadata.read(path)

    return read


def test_sound_ones_are_read(read):
    assert read(SOUND) == SOUND
    assert read({**SOUND, "training": {}})["training"] == {}
    for family in families.FAMILIES:
        if family.kind == "residual":
            assert LayerStore(family, DEFAULT_FOLDER).names() == family.layers


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (["format"], 2, "format"),
        (["format"], True, "format"),
        (["family"], "other", "family"),
        (["family"], ["residual-mse"], "family"),
        (["family"], "progressive-mse", "progressive-mse are progressive"),
        (["fingerprint"], "abc", "fingerprint"),
        (["fingerprint"], None, "fingerprint"),
        (["below"], 3, "below"),
        (["further"], 3, "further"),
        (["layer"], None, "layer"),
        (["layer", "further"], 3, "further"),
        (["layer", "name"], "el9", "name"),
        (["layer", "latent_depth"], "8", "latent_depth"),
        (["layer", "latent_depth"], 8.5, "latent_depth"),
        (["layer", "latent_depth"], 10**12, "latent_depth"),
        (["layer", "hidden_filters"], None, "hidden_filters"),
        (["layer", "step"], float("nan"), "step"),
        (["layer", "gdn"], "", "gdn"),
        (["layer", "kind"], "conditional", "kind"),
        (["layer", "transforms"], {}, "transforms"),
        (["training"], [], "training"),
        (["training", "options"], [], "options"),
        (["training", "options", "lmbda"], "300", "lmbda"),
        (["training", "options", "last_step"], None, "last_step"),
        (["training", "photos", "train"], "3", "photos"),
        (["training", "validation"], {}, "validation"),
        (["training", "validation", 0], 3, "validation"),
        (["training", "validation", 0], {"step": 20}, "validation"),
        (["training", "validation", 0, "loss"], "1", "loss"),
        (["training", "hours"], True, "hours"),
    ],
)
def test_what_is_wrong_is_named(read, place, value, said):
    with pytest.raises(SaeError, match=rf"layer\.json is damaged: .*{said}"):
        read(changed(place, value))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "[" * 100_000])
def test_what_is_no_description_is_one_sentence(read, text):
    with pytest.raises(SaeError, match="is damaged"):
        read(text)


@pytest.mark.parametrize("name", SOUND)
def test_what_is_missing_is_named(read, name):
    with pytest.raises(SaeError, match=f"has no {name}"):
        read({key: value for key, value in SOUND.items() if key != name})


def _places(found, place=()):
    yield from [place] if place else []
    for key in (
        found if isinstance(found, dict) else range(len(found) if isinstance(found, list) else 0)
    ):
        yield from _places(found[key], (*place, key))


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2)
    | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(list(_places(SOUND))), _VALUES)
def test_anything_in_place_of_a_value_is_read_or_refused(read, place, value):
    try:
        found = read(changed(place, value))
    except SaeError as error:
        assert "\n" not in str(error)
        return
    layer = LayerConfig(**found["layer"])
    assert (layer.kind, found["training"].get("options", {}).get("batchsize", 8) >= 1) == (
        "residual",
        True,
    )


def test_a_file_in_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SaeError, match="file is a file; name a folder of checkpoints"):
        layer_metadata.read(tmp_path / "file" / "residual-mse" / "base" / "layer.json")
