"""The training input pipeline."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from sae import images
from sae.errors import SaeError
from sae.training.patches import Patches

SIDE = 64


def batches(patches, count, **options):
    return np.stack(
        list(itertools.islice(patches.dataset(4, **options).as_numpy_iterator(), count))
    )


def test_batches_have_static_shape_and_bytes(photos):
    dataset = Patches([photos], SIDE).dataset(4)
    assert dataset.element_spec.shape == (4, 64, 64, 3)
    assert dataset.element_spec.dtype == "uint8"


@pytest.mark.slow
def test_the_sequence_resumes_anywhere(photos):
    patches = Patches([photos], SIDE)
    whole = batches(patches, 40)
    for first in (0, 1, 31, 32, 33):
        np.testing.assert_array_equal(batches(patches, 40 - first, first=first), whole[first:])


def test_seeds_and_workers_differ(photos):
    one = batches(Patches([photos], SIDE), 2)
    assert np.any(one != batches(Patches([photos], SIDE), 2, worker=1))
    assert np.any(one != batches(Patches([photos], SIDE, seed=1), 2))


def test_patches_are_cut_from_the_photos(
    photos,
):
    patches = Patches([photos], 32, smallest_scale=1.0)
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


def test_held_out_photos_are_not_trained_on(photos):
    patches = Patches([photos], SIDE)
    assert patches.held_out and not set(patches.held_out) & set(patches.photos)
    assert patches.validation().shape == (len(patches.held_out), 64, 64, 3)


def test_unusable_photos_are_named_once(photos, tmp_path, capfd):
    for path in photos.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    Image.new("RGB", (63, 400)).save(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("not an image")
    whole = (photos / "astronaut.png").read_bytes()
    for k in range(40):
        (tmp_path / f"cut{k}.png").write_bytes(whole[: len(whole) // 2])
    patches = Patches([tmp_path], SIDE)
    batches(patches, 60)
    errors = capfd.readouterr().err
    assert errors.count("small.png") == errors.count("text.png") == 1
    assert "cut" in errors
    assert all(errors.count(f"cut{k}.png") <= 1 for k in range(40))


def test_too_few_photos_is_an_error(tmp_path):
    with pytest.raises(SaeError, match="missing"):
        Patches([tmp_path / "missing"], SIDE)
    Image.new("RGB", (63, 400)).save(tmp_path / "small.png")
    with pytest.raises(SaeError, match="0 of 1 photos can be used"):
        Patches([tmp_path], SIDE)


def by_hash(folder):
    """The photos of a folder in the order in which they are chosen to be held out."""
    return sorted(folder.iterdir(), key=lambda path: hashlib.sha256(path.name.encode()).digest())


@pytest.fixture
def copy(photos, tmp_path):
    """A folder of photos to change."""
    return shutil.copytree(photos, tmp_path / "photos")


def test_the_first_photos_by_hash_are_held_out(photos):
    patches = Patches([photos], SIDE)
    assert [*patches.held_out, *patches.photos] == by_hash(photos)
    assert len(patches.held_out) == 1


def test_in_place_of_a_damaged_photo_another_is_held_out(copy, capsys):
    first, second, *rest = by_hash(copy)
    first.write_bytes(first.read_bytes()[: first.stat().st_size // 2])
    patches = Patches([copy], SIDE)
    assert (patches.held_out, patches.photos) == ([second], rest)
    assert patches.validation().shape == (1, 64, 64, 3)
    assert capsys.readouterr().err.count(first.name) == 1


@pytest.mark.parametrize("sound", [0, 1])
def test_without_photos_to_read_is_one_sentence(tmp_path, sound):
    for k in range(3):
        Image.new("RGBA", (80, 80)).save(tmp_path / f"clear{k}.png")
    if sound:
        Image.new("RGB", (80, 80)).save(tmp_path / "sound.png")
    with pytest.raises(SaeError, match=f"{sound} of {3 + sound} photos can be used"):
        Patches([tmp_path], SIDE)


@pytest.mark.parametrize("again", ["", "sub/..", "sub", "link", "link to a photo"])
def test_a_photo_counts_once(copy, again):
    (copy / "sub").mkdir()
    (copy / "astronaut.png").rename(copy / "sub/astronaut.png")
    before = Patches([copy], SIDE)
    (copy.parent / "link").symlink_to(copy)
    if again == "link to a photo":
        # Its name comes first, and has another hash.
        (copy / "a.png").symlink_to(before.held_out[0])
        after = Patches([copy], SIDE)
    else:
        after = Patches([copy, copy.parent / again if again == "link" else copy / again], SIDE)
    assert (after.held_out, after.photos) == (before.held_out, before.photos)
    assert (after.counts, after.digest) == (before.counts, before.digest)


def test_a_photo_with_two_names_is_held_out_or_trained_on(copy):
    for path in list(copy.iterdir()):
        os.link(path, copy / f"again-{path.name}")
    patches = Patches([copy], SIDE)
    files = [path.stat().st_ino for path in (*patches.held_out, *patches.photos)]
    assert len(files) == len(set(files)) == len(list(copy.iterdir())) // 2


def test_folders_behind_links_are_searched_and_hidden_ones_not(copy):
    place = copy.parent / "place"
    place.mkdir()
    (place / "link").symlink_to(copy)
    # Around in circles.
    (copy / "up").symlink_to(place)
    (copy / "itself").symlink_to(copy / "itself")
    shutil.copytree(copy, place / ".thumbnails", symlinks=True)
    found = images.find(place, recursive=True)
    assert found == sorted(place / "link" / path.name for path in copy.glob("*.png"))


def test_counts_keep_folders_of_one_name_apart(copy):
    for name, photos in (("a/train", 2), ("b/train", 3)):
        (copy.parent / name).mkdir(parents=True)
        for path in by_hash(copy)[:photos]:
            shutil.copy(path, copy.parent / name)
    train = [copy.parent / "a/train", copy.parent / "b/train"]
    assert Patches(train, SIDE).counts == {"a/train": 2, "b/train": 3}
    assert Patches([train[0], copy], SIDE).counts == {"train": 2, "photos": 15}


def test_modes_and_sizes_mix(tmp_path):
    rng = np.random.default_rng(0)
    for k, mode in enumerate(["RGB", "L", "P", "CMYK", "1"]):
        picture = Image.fromarray(rng.integers(0, 255, (64 + 9 * k, 90, 3), dtype=np.uint8))
        picture.convert(mode).save(tmp_path / f"{k}.tif")
    assert batches(Patches([tmp_path], SIDE), 14).shape == (14, 4, 64, 64, 3)
