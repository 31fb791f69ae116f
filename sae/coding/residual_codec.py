"""Images to streams of residual families, and back layer by layer.

Encoder and decoder sum the same reconstructions, functions of the rounded latents alone. All of
them run on the CPU, since a GPU sums in another order.
"""

from __future__ import annotations

import functools
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from sae import images, metrics
from sae.coding import residual_container as container
from sae.coding.header import FINGERPRINT_BYTES, require_memory
from sae.coding.latent_optimization import count_steps, optimized
from sae.coding.objectives import ResidualObjective
from sae.coding.residual_container import Header, Reader, Record
from sae.config import DEFAULT_FOLDER, LAYER_NAMES, MAX_PIXELS, STRIDE
from sae.errors import SaeError
from sae.model.layer_store import LayerStore
from sae.model.residual_layer import ResidualLayer
from sae.model.residual_transforms import REACH
from sae.model.tiling import in_tiles

# Largest number of positions of a latent that is not synthesized in tiles, 3 megapixels.
_POSITIONS = 12_000
# A range coder omits redundant bytes at the end of a string.
_SLACK_BYTES = 8

# The order of floating-point sums depends on the number of threads. A fixed number makes every
# process decode alike, on any number of cores.
_THREADS = 8

# Restored layers, by their store and fingerprints.
_LOADED: dict[tuple[LayerStore, tuple[str, ...]], Sequence[ResidualLayer]] = {}
_MOST_LOADED = 16


def compress(
    image: np.ndarray,
    store: LayerStore,
    layers: int | None = None,
    psnr: float = math.inf,
    effort: int = 0,
    progress: Callable[[int, int], object] = lambda done, count: None,
) -> bytes:
    """Returns the stream of an image.

    Args:
      image: uint8 [H, W, 3].
      store: checkpoints of the layers.
      layers: largest number of layers; all trained layers by default.
      psnr: PSNR in dB; the first layer to reach it is the last.
      effort: effort of the latent optimization, an index of `EFFORTS`.
      progress: function that is called after each step of the optimization.

    Raises:
      SaeError: a layer is not trained, or the memory does not suffice.
    """
    height, width, _ = image.shape
    require_memory(store.family, width, height)
    found, fingerprints = _load(store, layers)
    with tf.device("CPU:0"):
        x = tf.cast(images.pad(image, STRIDE)[None], tf.float32) / 255.0
        x_hat = tf.zeros_like(x)
    steps, done = count_steps(effort, x.shape[1:3]), itertools.count(1)
    records: list[Record] = []
    for layer, fingerprint in zip(found, fingerprints):
        with tf.device("CPU:0"):
            y = layer.analysis(x - x_hat)
        if effort:
            # This may run on a GPU, since no decoder has to repeat it.
            y = optimized(
                x,
                x_hat,
                y,
                ResidualObjective(layer, store.loss(layer.name)),
                effort,
                (height, width),
                lambda: progress(next(done), len(found) * steps),
            )
        with tf.device("CPU:0"):
            y_hat = tf.round(y)
            records.append(Record(fingerprint, layer.compress(y_hat).numpy()[0]))
            if len(records) == len(found) and psnr == math.inf:
                break
            x_hat = x_hat + _synthesis(layer, y_hat)
            if metrics.psnr(image, _pixels(x_hat, height, width)) >= psnr:
                break
    return container.pack(Header(store.family, width, height), records)


class ResidualDecoder:
    """Decodes a stream as its bytes arrive, like `sae.coding.codec.Decoder`.

    Args:
      checkpoints: folder of all checkpoints.
      max_pixels: largest number of pixels of an image.

    Attributes:
      reader: reader of the stream.
    """

    def __init__(self, checkpoints: str | Path = DEFAULT_FOLDER, max_pixels: int = MAX_PIXELS):
        self.reader, self._checkpoints = Reader(max_pixels), Path(checkpoints)
        self._state: _State | None = None

    @property
    def layers(self) -> int:
        """Number of complete layers."""
        return len(self.reader.records)

    def feed(self, data: bytes) -> None:
        """Takes the next bytes, and decodes the layers that they complete.

        Raises:
          SaeError: the header or a string is damaged, or the weights are missing.
        """
        for record in self.reader.feed(data):
            if self._state is None:
                assert self.reader.header is not None, "records come after a header"
                self._state = _State(self.reader.header, record, self._checkpoints)
            self._state.decode(record, self.layers)

    def image(self) -> np.ndarray | None:
        """Returns the image so far, uint8 [H, W, 3]; None before the base is complete."""
        return None if self._state is None else self._state.image()


class _State:
    """The state of a decoder: the sum of the reconstructions so far."""

    def __init__(self, header: Header, base: Record, checkpoints: Path):
        require_memory(header.family, header.width, header.height)
        self._header = header
        self._store = LayerStore(header.family, checkpoints)
        self._prefixes: Sequence[bytes] = _shortened(self._store.fingerprints())
        _require_weights(0, base, self._prefixes)
        self._layers: Sequence[ResidualLayer] = ()
        sides = (header.height, header.width)
        height, width = (side + -side % STRIDE for side in sides)
        self._size = height, width
        self._x_hat: tf.Tensor | None = None
        self._done = 0

    def decode(self, record: Record, count: int) -> None:
        """Decodes the next layer.

        Args:
          record: layer of the stream.
          count: number of layers that have arrived. Only their weights are loaded, since others may
            not be trained.
        """
        index, name = self._done, self._header.family.layers[self._done]
        if index == len(self._layers):
            trained = len(self._store.names())
            if index >= trained:
                raise SaeError(
                    f"Layer {name} of the stream has no trained weights here; name the "
                    "checkpoints that made it."
                )
            self._layers, self._prefixes = _load(self._store, min(count, trained))
        _require_weights(index, record, self._prefixes)
        layer = self._layers[index]
        # This check precedes the allocation of memory for an image that the string cannot fill.
        if len(record.string) + _SLACK_BYTES < layer.smallest_bytes(self._size):
            raise SaeError(
                f"Layer {name} is damaged: {len(record.string)} bytes cannot fill "
                f"{self._header.width} x {self._header.height} pixels; fetch the stream again."
            )
        try:
            with tf.device("CPU:0"):
                y_hat = layer.decompress(tf.constant([record.string]), self._size)
                added = _synthesis(layer, y_hat)
                self._x_hat = added if self._x_hat is None else self._x_hat + added
        except tf.errors.InvalidArgumentError as error:
            raise SaeError(
                f"Layer {name} is damaged: its string cannot be decoded; fetch the stream again."
            ) from error
        self._done += 1

    def image(self) -> np.ndarray:
        """Returns the image after the layers so far."""
        return _pixels(self._x_hat, self._header.height, self._header.width)


def _synthesis(layer: ResidualLayer, y_hat: tf.Tensor) -> tf.Tensor:
    """Returns the synthesis of one latent, [1, H, W, 3]."""
    _, height, width, _ = y_hat.shape
    results = in_tiles(
        lambda rows, columns: [layer.synthesis(y_hat[:, rows, columns]).numpy()],
        height,
        width,
        REACH,
        _POSITIONS,
    )
    return tf.constant(results[0])


def _pixels(x_hat: tf.Tensor, height: int, width: int) -> np.ndarray:
    with tf.device("CPU:0"):
        cropped = x_hat[0, :height, :width]
        return tf.saturate_cast(tf.round(255.0 * cropped), tf.uint8).numpy()


@functools.lru_cache(maxsize=1)
def use_fixed_threads() -> None:
    """Sets TensorFlow's number of threads; warns where it can no longer be set."""
    try:
        tf.config.threading.set_intra_op_parallelism_threads(_THREADS)
    except RuntimeError:
        warnings.warn(
            "TensorFlow ran before the first stream was coded: single values of a decoded image "
            "may differ by 1 from those that other processes decode.",
            stacklevel=2,
        )


def _shortened(fingerprints: Iterable[str]) -> list[bytes]:
    """Returns fingerprints as records have them."""
    return [bytes.fromhex(fingerprint)[:FINGERPRINT_BYTES] for fingerprint in fingerprints]


def _require_weights(index: int, record: Record, fingerprints: Sequence[bytes]) -> None:
    """Raises SaeError where the weights of a layer are not those that made its record."""
    if index < len(fingerprints) and record.fingerprint != fingerprints[index]:
        raise SaeError(
            f"Layer {LAYER_NAMES[index]} was made with weights {record.fingerprint.hex()}, and "
            f"these are {fingerprints[index].hex()}; name the checkpoints that made the stream."
        )


def _load(
    store: LayerStore, count: int | None = None
) -> tuple[Sequence[ResidualLayer], Sequence[bytes]]:
    """Returns the first `count` layers, by default all there are, and their fingerprints.

    Layers are restored once while their fingerprints stay the same.
    """
    use_fixed_threads()
    metadata = store.all_metadata(count)
    fingerprints = tuple(entry["fingerprint"] for entry in metadata.values())
    if (store, fingerprints) not in _LOADED:
        if len(_LOADED) == _MOST_LOADED:
            _LOADED.clear()
        with tf.device("CPU:0"):
            _LOADED[store, fingerprints] = store.load(metadata=metadata).layers
    return _LOADED[store, fingerprints], _shortened(fingerprints)
