"""The training input pipeline: random patches of a folder's photos.

The order is a function of the seed alone. Photos come in shuffled epochs. Each is decoded once and
gives several crops; the crops of a block of photos are shuffled and divided into batches. Batch k
does not depend on the batches before it, so that a training can resume at any step.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from sae import images
from sae.errors import SaeError

_HELD_OUT_SHARE, _MOST_HELD_OUT = 0.05, 32
# Number of patches cut from a photo each time it is decoded.
_CROPS = 8


class Patches:
    """Patches uint8 [batchsize, side, side, 3] of the photos in folders.

    Photos that are smaller than a patch or cannot be read are left out, and named once on standard
    error. A file with several paths counts once. One photo in twenty, at most 32, is held out for
    validation, selected by the hash of its file name. An unreadable one is replaced by the next.

    Args:
      folders: folders of photos, searched with all their subfolders.
      side: largest side of a patch; smaller photos are left out.
      smallest_scale: smallest of the random factors up to 1 by which photos are shrunk; their sides
        are never less than that of a patch.
      seed: seed of the order and the patches.

    Attributes:
      photos: photos for training.
      held_out: photos for validation.
      counts: number of image files by the distinct end of each folder's path.
      digest: hash of the names and sizes of all usable photos.
      failure: error in a batch, None before any.

    Raises:
      SaeError: a folder does not exist, or fewer than two photos can be used.
    """

    def __init__(
        self,
        folders: Sequence[str | Path],
        side: int,
        smallest_scale: float = 0.5,
        seed: int = 0,
    ):
        self._side, self._smallest_scale, self._seed = side, smallest_scale, seed
        self.failure: Exception | None = None
        self._named: set[Path] = set()
        found = _each_once(folders)
        photos = [path for paths in found.values() for path in paths]
        with ThreadPoolExecutor() as pool:
            usable = [path for path, ok in zip(photos, pool.map(self._usable, photos)) if ok]
        facts = sorted((path.name, path.stat().st_size) for path in usable)
        self.digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
        labels = zip(_labels(found), found.values())
        self.counts = {label: len(paths) for label, paths in labels if paths}
        usable.sort(key=lambda path: hashlib.sha256(path.name.encode()).digest())
        self.held_out, self._middles, self.photos = self._hold_out(usable)
        # One readable training photo suffices to begin. The others are checked when they are read.
        readable = any(self._read(path) is not None for path in self.photos)
        if not (self.held_out and readable):
            raise SaeError(
                f"{', '.join(map(str, folders))}: {len(self.held_out) + readable} of "
                f"{len(photos)} photos can be used; at least two of {side} x "
                f"{side} pixels are required."
            )

    def _usable(self, path: Path) -> bool:
        try:
            width, height = images.size(path)
        except SaeError as error:
            print(f"Left out: {error}", file=sys.stderr)
            return False
        if min(width, height) < self._side:
            print(
                f"Left out: {path} is smaller than a patch ({width} x {height}).", file=sys.stderr
            )
            return False
        return True

    def _hold_out(self, usable: list[Path]) -> tuple[list[Path], list[np.ndarray], list[Path]]:
        """Returns held-out photos, their central patches, and training photos."""
        side, rest = self._side, iter(usable)
        number = min(_MOST_HELD_OUT, max(1, round(_HELD_OUT_SHARE * len(usable))))
        held_out: list[Path] = []
        middles: list[np.ndarray] = []
        while len(held_out) < number and (path := next(rest, None)):
            photo = self._read(path)
            if photo is not None:
                top, left = (photo.shape[0] - side) // 2, (photo.shape[1] - side) // 2
                held_out.append(path)
                middles.append(photo[top : top + side, left : left + side].copy())
        return held_out, middles, list(rest)

    def validation(self) -> np.ndarray:
        """Returns the central patch of each held-out photo, uint8 [N, side, side, 3]."""
        return np.stack(self._middles)

    def dataset(
        self, batchsize: int, first: int = 0, worker: int = 0, side: int | None = None
    ) -> tf.data.Dataset:
        """Returns the endless sequence of batches from number `first` on.

        Args:
          batchsize: number of patches in a batch.
          first: number of batches that are skipped, at no cost.
          worker: number of the worker; different workers get different patches.
          side: side of the patches in pixels; the largest by default.
        """
        side = side or self._side
        # A block of 4 * batchsize photos gives 4 * crops batches.
        block_photos, block_batches = 4 * batchsize, 4 * _CROPS
        block, offset = divmod(first, block_batches)
        patch = (side, side, 3)

        def crops(position):
            found = tf.numpy_function(noted, [position], tf.uint8, stateful=False)
            return tf.ensure_shape(found, (_CROPS, *patch))

        def noted(position):
            try:
                return self._crops(int(position), worker, side)
            except Exception as error:
                self.failure = error
                raise

        def deal(number, found):
            found = tf.reshape(found, (-1, *patch))
            found = tf.random.experimental.stateless_shuffle(found, seed=[self._seed, number])
            return tf.reshape(found, (block_batches, batchsize, *patch))

        dataset = tf.data.Dataset.range(block * block_photos, tf.int64.max)
        dataset = dataset.map(crops, num_parallel_calls=tf.data.AUTOTUNE)
        dataset = dataset.batch(block_photos, drop_remainder=True).enumerate(block).map(deal)
        return dataset.unbatch().skip(offset).prefetch(4)

    def each(self, batches: Iterator[Any], count: int) -> Generator[Any, None, None]:
        """Yields a number of batches of a dataset's iterator.

        Raises:
          SaeError: no more photos can be read.
        """
        failure: Exception | None = None
        for _ in range(count):
            try:
                batch = next(batches)
            except tf.errors.OpError as error:
                failure = self.failure or SaeError(
                    f"No batch of patches could be made: {error.message}"
                )
                break
            yield batch
        # The pipeline is released first, since the traceback of the exception would retain it.
        del batches
        if failure:
            raise failure

    def _crops(self, position: int, worker: int, side: int) -> np.ndarray:
        """Returns the crops of the photo at a position of the endless sequence of photos."""
        count = len(self.photos)
        epoch, index = divmod(position, count)
        order = np.random.default_rng([self._seed, worker, 0, epoch]).permutation(count)
        for k in range(count):
            # An unreadable photo is replaced by the next.
            photo = self._read(self.photos[order[(index + k) % count]])
            if photo is not None:
                break
        else:
            raise SaeError("None of the training photos can be read; check the folders of --data.")
        rng = np.random.default_rng([self._seed, worker, 1, position])
        photo = self._shrink(photo, rng.uniform(self._smallest_scale, 1.0))
        result = np.empty((_CROPS, side, side, 3), np.uint8)
        for k in range(_CROPS):
            top = rng.integers(photo.shape[0] - side + 1)
            left = rng.integers(photo.shape[1] - side + 1)
            crop = photo[top : top + side, left : left + side]
            result[k] = crop[:, ::-1] if rng.random() < 0.5 else crop
        return result

    def _shrink(self, photo: np.ndarray, scale: float) -> np.ndarray:
        """Shrinks a photo by a factor, at most to the size of a patch."""
        height, width = photo.shape[:2]
        scale = max(scale, self._side / min(height, width))
        if scale >= 1:
            return photo
        size = (max(round(side * scale), self._side) for side in (width, height))
        return np.asarray(Image.fromarray(photo).resize(list(size), Image.Resampling.BICUBIC))

    def _read(self, path: Path) -> np.ndarray | None:
        """Returns a photo, uint8 [H, W, 3], or None; prints once that a photo is unreadable."""
        try:
            return images.read(path)
        except SaeError as error:
            if path not in self._named:
                self._named.add(path)
                print(f"Left out: {error}", file=sys.stderr)
            return None


def _each_once(folders: Sequence[str | Path]) -> dict[Path, list[Path]]:
    """Returns the photos in each folder, each file once in spite of links."""
    places: dict[Path, str | Path] = {}
    for folder in folders:
        places.setdefault(Path(os.path.abspath(folder)), folder)
    found = {place: images.find(folder, recursive=True) for place, folder in places.items()}
    own: dict[tuple[int, int], Path] = {}
    for path in itertools.chain(*found.values()):
        facts = path.stat()
        file = facts.st_dev, facts.st_ino
        # The file's own name counts, not a link's, since held-out photos are chosen by name.
        if file not in own or (own[file].is_symlink() and not path.is_symlink()):
            own[file] = path
    kept = set(own.values())
    result = {}
    for place, paths in found.items():
        result[place] = [path for path in paths if path in kept]
        kept.difference_update(paths)
    return result


def _labels(folders: Iterable[Path]) -> list[str]:
    """Returns the shortest end of each path that differs from those of the others."""
    folders = list(folders)
    ends = (
        [str(Path(*folder.parts[-count:])) for folder in folders] for count in itertools.count(1)
    )
    return next(labels for labels in ends if len(set(labels)) == len(labels))
