"""The training input pipeline."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image

from sae.errors import SaeError
from sae.training.patches import Patches


@pytest.fixture
def config(tiny_config):
    return tiny_config("base", batchsize=4, crops=3)[1]


def batches(patches, count, **options):
    return np.stack(
        list(itertools.islice(patches.dataset(4, **options).as_numpy_iterator(), count))
    )


def test_batches_have_static_shape_and_bytes(photos, config):
    dataset = Patches([photos], config).dataset(4)
    assert dataset.element_spec.shape == (4, 64, 64, 3)
    assert dataset.element_spec.dtype == "uint8"


def test_the_sequence_resumes_anywhere(photos, config):
    patches = Patches([photos], config)
    whole = batches(patches, 40)
    for first in (0, 1, 11, 12, 13, 30):
        np.testing.assert_array_equal(batches(patches, 40 - first, first=first), whole[first:])


def test_seeds_and_workers_differ(photos, config, tiny_config):
    one = batches(Patches([photos], config), 2)
    assert np.any(one != batches(Patches([photos], config), 2, worker=1))
    other = tiny_config("base", batchsize=4, crops=3, seed=1)[1]
    assert np.any(one != batches(Patches([photos], other), 2))


def test_patches_are_cut_from_the_photos(photos, tiny_config):
    config = tiny_config("base", smallest_scale=1.0, patchsize=32)[1]
    patches = Patches([photos], config)
    patch = next(iter(patches.dataset(2).as_numpy_iterator()))[0]
    corner = patch[:1, :1]
    found = False
    for path in patches.photos:
        photo = np.asarray(Image.open(path).convert("RGB"))
        for flipped in (photo, photo[:, ::-1]):
            for top, left in np.argwhere(np.all(flipped == corner, axis=-1)):
                block = flipped[top : top + 32, left : left + 32]
                found |= block.shape == patch.shape and np.array_equal(block, patch)
    assert found


def test_held_out_photos_are_not_trained_on(photos, config):
    patches = Patches([photos], config)
    assert patches.held_out and not set(patches.held_out) & set(patches.photos)
    assert patches.validation().shape == (len(patches.held_out), 64, 64, 3)


def test_unusable_photos_are_named_once(photos, config, tmp_path, capfd):
    for path in photos.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    Image.new("RGB", (63, 400)).save(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("not an image")
    whole = (photos / "astronaut.png").read_bytes()
    for k in range(40):
        (tmp_path / f"cut{k}.png").write_bytes(whole[: len(whole) // 2])
    patches = Patches([tmp_path], config)
    batches(patches, 60)
    errors = capfd.readouterr().err
    assert errors.count("small.png") == errors.count("text.png") == 1
    assert "cut" in errors
    assert all(errors.count(f"cut{k}.png") <= 1 for k in range(40))


def test_too_few_photos_is_an_error(tmp_path, config):
    with pytest.raises(SaeError, match="missing"):
        Patches([tmp_path / "missing"], config)
    Image.new("RGB", (63, 400)).save(tmp_path / "small.png")
    with pytest.raises(SaeError, match="0 of 1 photos can be used"):
        Patches([tmp_path], config)


def test_modes_and_sizes_mix(tmp_path, config):
    rng = np.random.default_rng(0)
    for k, mode in enumerate(["RGB", "L", "P", "CMYK", "1"]):
        picture = Image.fromarray(rng.integers(0, 255, (64 + 9 * k, 90, 3), dtype=np.uint8))
        picture.convert(mode).save(tmp_path / f"{k}.tif")
    assert batches(Patches([tmp_path], config), 14).shape == (14, 4, 64, 64, 3)
