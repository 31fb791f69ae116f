"""Images to progressive streams, and any prefix of them back to an image.

Latents are coded in integers, the same on every machine. The transforms compute in floating point:
on another machine, single values of a decoded image may differ by 1. onnxruntime runs them;
TensorFlow is imported for latent optimization alone.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sae import images
from sae.coding.context_models import ContextModels
from sae.coding.header import FINGERPRINT_BYTES, require_memory
from sae.coding.onnx_session import session
from sae.coding.plane_coder import PartialLatent, PlaneCoder, PlaneDecoder
from sae.coding.progressive_container import Header, Reader, pack
from sae.config import DEFAULT_FOLDER, MAX_PIXELS, STRIDE
from sae.errors import SaeError
from sae.model import onnx_transforms
from sae.model.model_store import ModelStore, StoredModel
from sae.model.tiling import in_tiles

if TYPE_CHECKING:
    from sae.model.progressive import ProgressiveModel


class ProgressiveCodec:
    """The codec of one model.

    Args:
      model: stored model.
    """

    def __init__(self, model: StoredModel):
        self._reach = model.config.reach
        self.coder = PlaneCoder(ContextModels(model), model.tables)
        self._analysis = session(onnx_transforms.analysis(model))
        self._synthesis = session(onnx_transforms.synthesis(model))

    def analysis(self, image: np.ndarray) -> np.ndarray:
        """Returns the latent of an image, float32 [h, w, depth].

        Args:
          image: uint8 [H, W, 3] of any size.
        """
        padded = images.pad(image, STRIDE)[None]

        def tile(*ranges: slice) -> list[np.ndarray]:
            rows, columns = (slice(STRIDE * r.start, STRIDE * r.stop) for r in ranges)
            return self._analysis.run(["y"], {"image": padded[:, rows, columns]})

        height, width = (side // STRIDE for side in padded.shape[1:3])
        return in_tiles(tile, height, width, self._reach)[0][0]

    def synthesis(self, decoded: PartialLatent, height: int, width: int) -> np.ndarray:
        """Returns an image, uint8 [height, width, 3].

        Args:
          decoded: decoded latent.
          height, width: size of the image.
        """
        level = np.array([decoded.level], np.float32)

        def tile(rows: slice, columns: slice) -> list[np.ndarray]:
            y_hat, expected = (x[None, rows, columns] for x in (decoded.y_hat, decoded.expected))
            inputs = {"y_hat": y_hat, "expected": expected, "level": level}
            return self._synthesis.run(["image"], inputs)

        rows, columns, _ = decoded.y_hat.shape
        return in_tiles(tile, rows, columns, self._reach)[0][0, :height, :width]


@functools.lru_cache(maxsize=4)
def _loaded(store: ModelStore, fingerprint: str) -> ProgressiveCodec:
    return ProgressiveCodec(store.load())


def load(store: ModelStore) -> tuple[ProgressiveCodec, bytes]:
    """Returns codec and fingerprint of a checkpoint, which is loaded again only after a change.

    Raises:
      SaeError: as `ModelStore.load`.
    """
    fingerprint = store.metadata()["fingerprint"]
    return _loaded(store, fingerprint), bytes.fromhex(fingerprint)[:FINGERPRINT_BYTES]


def compress(
    image: np.ndarray,
    store: ModelStore,
    effort: int = 0,
    progress: Callable[[int, int], object] = lambda done, count: None,
) -> bytes:
    """Returns the stream of an image.

    Args:
      image: uint8 [H, W, 3].
      store: checkpoint of the model.
      effort: effort of the latent optimization, an index of `EFFORTS`; it requires TensorFlow.
      progress: function that is called after each step of the optimization.

    Raises:
      SaeError: the model is missing, or the memory does not suffice.
    """
    height, width, _ = image.shape
    require_memory(store.family, width, height)
    codec, fingerprint = load(store)
    code = codec.coder.encode(_latent(codec, image, store, effort, progress))
    header = Header(store.family, fingerprint, width, height, tuple(code.ends))
    return pack(header, code.string)


def _latent(codec, image, store, effort, progress):
    """Returns the latent of an image that is coded."""
    y = codec.analysis(image)
    if not effort:
        return y

    import tensorflow as tf

    from sae.coding.latent_optimization import count_steps, optimized
    from sae.coding.objectives import PlanesObjective

    size, padded = image.shape[:2], images.pad(image, STRIDE)
    x = tf.cast(padded[None], tf.float32) / 255.0
    objective = PlanesObjective(_restored(store, store.metadata()["fingerprint"]), *store.losses())
    steps, done = count_steps(effort, padded.shape[:2]), itertools.count(1)
    found = optimized(
        x,
        tf.zeros_like(x),
        tf.constant(y[None]),
        objective,
        effort,
        size,
        lambda: progress(next(done), steps),
    )
    return found[0].numpy()


@functools.lru_cache(maxsize=4)
def _restored(store: ModelStore, fingerprint: str) -> ProgressiveModel:
    """Returns the model in floating point, which is loaded again only after a change."""
    from sae.model.progressive import ProgressiveModel

    return ProgressiveModel.restored(store.load())


class ProgressiveDecoder:
    """Decodes a stream as its bytes arrive.

    Args:
      checkpoints: folder of all checkpoints.
      max_pixels: largest number of pixels of an image.

    Attributes:
      reader: reader of the stream.
    """

    def __init__(self, checkpoints: str | Path = DEFAULT_FOLDER, max_pixels: int = MAX_PIXELS):
        self.reader, self._checkpoints = Reader(max_pixels), Path(checkpoints)
        self._codec: ProgressiveCodec | None = None
        self._planes: PlaneDecoder | None = None
        self._taken = 0

    def feed(self, data: bytes) -> None:
        """Takes the next bytes, and decodes what they determine.

        Raises:
          SaeError: the data are no stream of a progressive family, or its model is missing.
        """
        self.reader.feed(data)
        header = self.reader.header
        if header is None:
            return
        if self._codec is None:
            require_memory(header.family, header.width, header.height)
            store = ModelStore(header.family, self._checkpoints)
            codec, fingerprint = load(store)
            if fingerprint != header.fingerprint:
                raise SaeError(
                    f"The stream was made with weights {header.fingerprint.hex()}, and those "
                    f"in {store.path} are {fingerprint.hex()}; name the checkpoints that made it."
                )
            self._codec = codec
        code = self.reader.code
        if self._planes is None or len(code) < self._taken:
            # After a damaged chunk, the verified code is decoded anew.
            height, width = (-(-side // STRIDE) for side in (header.height, header.width))
            self._planes, self._taken = self._codec.coder.decoder(height, width), 0
        self._planes.feed(code[self._taken :])
        self._taken = len(code)

    @property
    def layers(self) -> int:
        """Number of complete layers."""
        header = self.reader.header
        if header is None:
            return 0
        # The last layer is complete with the checksum behind it.
        taken = self._taken if self.reader.complete else min(self._taken, header.ends[-1] - 1)
        return sum(end <= taken for end in header.ends)

    def image(self) -> np.ndarray | None:
        """Returns the image of the bytes so far, uint8 [H, W, 3]; None before the header."""
        header = self.reader.header
        if self._codec is None or self._planes is None or header is None:
            return None
        return self._codec.synthesis(self._planes.decoded(), header.height, header.width)
