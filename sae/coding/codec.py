"""Image to .sae stream and back.

Encoder and decoder walk through the same contexts: each layer is coded in
what a decoder has at that point, which follows from the rounded latents
alone; the encoder keeps those and decodes nothing. All of it runs on the CPU,
since a GPU adds up in another order.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Union

import numpy as np
import tensorflow as tf

from sae import files, images, memory, metrics
from sae.coding import bitstream
from sae.coding.bitstream import Header, Record
from sae.coding.effort import count_steps, search
from sae.config import EFFORTS
from sae.errors import SaeError
from sae.model import checkpoint
from sae.model.checkpoint import Store
from sae.model.layer import Context, Layer

Image = Union[np.ndarray, images.Source]
Folder = Union[str, Path]
# Called with the number of steps done, and of all there are.
Progress = Callable[[int, int], object]

# In which order floating-point numbers are added up depends on the number of
# threads TensorFlow has. With always the same, every process decodes alike,
# whatever number of cores the machine gives it.
_THREADS = 8
# A range coder leaves out bytes at the end of a string that it can do without.
_SLACK_BYTES = 8
# So much worse in PSNR, a base layer is one of another image.
_OWN_DB = 3.0
# At the peak, with all layers (benchmarks/codec.py measures it).
_BYTES_PER_PIXEL = 230

# Restored layers, by their store and fingerprints.
_LOADED: dict[tuple[Store, tuple[str, ...]], Sequence[Layer]] = {}
_MOST_LOADED = 16

try:
    tf.config.threading.set_intra_op_parallelism_threads(_THREADS)
except RuntimeError:
    warnings.warn(
        "TensorFlow ran before sae.coding.codec was imported: single values of a decoded image may "
        "differ by 1 from what other processes decode.",
        stacklevel=2,
    )


class Encoded(NamedTuple):
    """A stream and what it reaches.

    Attributes:
      data: the stream.
      layers: how many layers it has.
      bpp: its bits per pixel, header included.
      psnr: of the 8-bit image that it decodes to, in dB; None if no PSNR was the target.
    """

    data: bytes
    layers: int
    bpp: float
    psnr: float | None


def compress(
    image: Image,
    layers: int | None = None,
    family: str = "mse",
    checkpoints: Folder = checkpoint.DEFAULT_FOLDER,
    effort: int = 0,
) -> bytes:
    """Returns the stream of an image; see `encode`."""
    return encode(image, layers, family, checkpoints, effort).data


def encode(
    image: Image,
    layers: int | None = None,
    family: str = "mse",
    checkpoints: Folder = checkpoint.DEFAULT_FOLDER,
    effort: int = 0,
    target_bpp: float | None = None,
    target_psnr: float | None = None,
    max_pixels: int = images.MAX_PIXELS,
    progress: Progress = lambda done, of: None,
    background: str | None = None,
) -> Encoded:
    """Codes an image.

    Args:
      image: uint8 [H, W, 3], or what `images.read` takes: a path or a binary file.
      layers: so many, from the base up; by default, all that are trained.
      family: of the layers; or a metric, "mse" or "ms-ssim", for the best family trained for it.
      checkpoints: the folder of all checkpoints.
      effort: 0 takes the latents of the analysis; 1 to 9 search for better ones, in
        `EFFORTS[effort]` steps for each layer. The stream is decoded as fast as any.
      target_bpp: add no layer once the stream has so many bits per pixel.
      target_psnr: add no layer once the 8-bit decoded image has this PSNR in dB.
      max_pixels: larger images are refused.
      progress: of a search.
      background: color behind transparent pixels.

    Returns:
      The stream and what was reached, which with all layers may be less than a target.

    Raises:
      SaeError: the image cannot be read or is too large, a layer is not trained, or
        there is no such effort.
    """
    for name, target in (("bpp", target_bpp), ("PSNR", target_psnr)):
        if target is not None and not 0 < target < math.inf:
            raise SaeError(f"A target {name} is a number above 0, not {target}.")
    image = _array(image, max_pixels, background)
    found = checkpoint.store(family, checkpoints).family
    header = Header(found, image.shape[1], image.shape[0])
    coder = _Coder(header, layers, checkpoints, effort, progress)
    return _encode(coder, image, [], target_bpp, target_psnr)


def extend(
    data: files.Bytes,
    image: Image,
    layers: int | None = None,
    checkpoints: Folder = checkpoint.DEFAULT_FOLDER,
    effort: int = 0,
    max_pixels: int = images.MAX_PIXELS,
    progress: Progress = lambda done, of: None,
    background: str | None = None,
) -> bytes:
    """Adds layers to a stream; the result is what coding all of them at once gives.

    Args:
      data: the stream, or the name of its file, or the file.
      image: what it was made from, as `encode` takes it.
      layers: of the result; by default, all that are trained.
      checkpoints: the folder of all checkpoints, which made the stream.
      effort: of the layers that are added; see `encode`.
      max_pixels: larger images are refused.
      progress: of a search.
      background: as `encode` takes it.

    Raises:
      SaeError: as `encode` and `decompress`, or the image is another one, or the
        stream has that many layers already.
    """
    image = _array(image, max_pixels, background)
    header, records = _parse(data, None, max_pixels)
    if (header.height, header.width) != image.shape[:2]:
        raise SaeError(
            f"The stream holds an image of {header.width} x {header.height} pixels, and the image "
            f"has {image.shape[1]} x {image.shape[0]}; extend a stream with its own image."
        )
    coder = _Coder(header, layers, checkpoints, effort, progress, records)
    if len(records) >= len(coder.layers):
        raise SaeError(
            f"The stream has {len(records)} layers already; only {len(coder.layers)} are asked for "
            "or trained."
        )
    _require_own(coder, image, records[0], checkpoints)
    for record in records[1:]:
        coder.decode(record)
    return _encode(coder, image, records).data


def decompress(
    data: files.Bytes,
    layers: int | None = None,
    checkpoints: Folder = checkpoint.DEFAULT_FOLDER,
    max_pixels: int = images.MAX_PIXELS,
) -> np.ndarray:
    """Decodes a stream, or as much of it as there is.

    Args:
      data: the stream, or the name of its file, or the file; one that was cut short
        gives its complete layers, and a warning.
      layers: decode so many, from the base up; by default, all.
      checkpoints: the folder of all checkpoints, which made the stream.
      max_pixels: larger images are refused.

    Returns:
      The image, uint8 [H, W, 3].

    Raises:
      SaeError: this is no stream, it is damaged or cut within its base layer, the
        image is too large, or the checkpoints are not those that made it.
    """
    header, records = _parse(data, layers, max_pixels)
    coder = _Coder(header, len(records), checkpoints, records=records)
    for record in records:
        coder.decode(record)
    return coder.image()


def stages(
    data: bytes, checkpoints: Folder = checkpoint.DEFAULT_FOLDER
) -> list[tuple[int, np.ndarray]]:
    """Returns, for each layer of a stream, the bytes up to it and the image they decode to."""
    records = bitstream.parse(data).records
    decoded = Decoder(checkpoints=checkpoints).feed(data)
    return [(bitstream.size(records[: k + 1]), x_hat) for k, x_hat in enumerate(decoded)]


class Decoder:
    """Decodes a stream as its bytes arrive.

    Args:
      layers: decode so many; bytes that follow them are passed over.
      checkpoints: the folder of all checkpoints, which made the stream.
      max_pixels: larger images are refused.
    """

    def __init__(
        self,
        layers: int | None = None,
        checkpoints: Folder = checkpoint.DEFAULT_FOLDER,
        max_pixels: int = images.MAX_PIXELS,
    ):
        self._parser = bitstream.Parser(max_pixels, layers)
        self._layers, self._checkpoints = layers, checkpoints
        self._coder: _Coder | None = None

    @property
    def header(self) -> Header | None:
        """Size of the image and family; None until these bytes have come."""
        return self._parser.header

    def feed(self, data: bytes) -> list[np.ndarray]:
        """Takes the next bytes; returns the image, uint8 [H, W, 3], after each layer they complete.

        Raises:
          SaeError: as `decompress`.
        """
        decoded = []
        for record in self._parser.feed(data):
            if self._coder is None:
                assert self.header is not None, "records come after a header"
                trained = Store(self.header.family, Path(self._checkpoints)).names()
                layers = len(trained[: self._layers]) or 1
                self._coder = _Coder(self.header, layers, self._checkpoints, records=[record])
            self._coder.decode(record)
            decoded.append(self._coder.image())
        return decoded


class _Coder:
    """The layers of one image, and the context that those coded so far leave."""

    def __init__(
        self,
        header: Header,
        layers: int | None,
        checkpoints: Folder,
        effort: int = 0,
        progress: Progress = lambda done, of: None,
        records: Sequence[Record] = (),
    ):
        if effort not in range(len(EFFORTS)):
            raise SaeError(f"The effort is 0 to {len(EFFORTS) - 1}, not {effort}.")
        _require_memory(header.width, header.height)
        self.header, self._effort, self._progress = header, effort, progress
        self._store = Store(header.family, Path(checkpoints))
        self.layers, self._fingerprints = _load(self._store, layers, records)
        self._stride = self.layers[0].stride
        sides = (header.height, header.width)
        height, width = (side + -side % self._stride for side in sides)
        self._size = height, width
        self._context: Context | None = None
        self._done = 0

    def encode(self, image: np.ndarray) -> Record:
        """Codes the next layer."""
        layer, context = self.layers[self._done], self._started()
        with tf.device("CPU:0"):
            x = tf.cast(images.pad(image, self._stride)[None], tf.float32) / 255.0
            y = layer.analyse(x, context)
        if self._effort:
            # On a GPU where there is one, since no decoder has to repeat it.
            y_hat = self._searched(x, layer, context)
            with tf.device("CPU:0"):
                strings = layer.write(y_hat, context)
        else:
            with tf.device("CPU:0"):
                y_hat = layer.quantize(y, context)
                strings = layer.write(y_hat, context)
        self._go_on(y_hat)
        return Record(self._fingerprints[self._done - 1], strings.numpy()[0])

    def _searched(self, x: tf.Tensor, layer: Layer, context: Context) -> tf.Tensor:
        """Returns a rounded latent that was searched for."""
        steps = count_steps(self._effort, self._size, self._stride)
        done = itertools.count(self._done * steps + 1)
        return search(
            x,
            context,
            layer,
            self._store.objective(layer.name),
            self._effort,
            (self.header.height, self.header.width),
            lambda: self._progress(next(done), len(self.layers) * steps),
        )

    def decode(self, record: Record) -> None:
        """Decodes the next layer."""
        index, name = self._done, bitstream.layer_name(self._done)
        if index == len(self.layers):
            raise SaeError(f"Layer {name} of the stream has no trained weights here.")
        _require_weights(index, record, self._fingerprints[index])
        # Before anything is allocated for an image that the string cannot fill.
        if len(record.string) + _SLACK_BYTES < self.layers[index].smallest_bytes(self._size):
            raise SaeError(
                f"Layer {name} is damaged: {len(record.string)} bytes cannot fill "
                f"{self.header.width} x {self.header.height} pixels."
            )
        try:
            with tf.device("CPU:0"):
                strings = tf.constant([record.string])
                y_hat = self.layers[index].read(strings, self._started(), self._size)
        except tf.errors.InvalidArgumentError as error:
            raise SaeError(f"Layer {name} is damaged: its string cannot be decoded.") from error
        self._go_on(y_hat)

    def image(self) -> np.ndarray:
        """Returns the image after the layers so far, uint8 [H, W, 3]."""
        with tf.device("CPU:0"):
            assert self._context is not None, "an image comes after a layer"
            x_hat = self._context.x_hat[0, : self.header.height, : self.header.width]
            return tf.saturate_cast(tf.round(255.0 * x_hat), tf.uint8).numpy()

    def _started(self) -> Context:
        if self._context is not None:
            return self._context
        return Context.empty((1, *self._size, 3))

    def _go_on(self, y_hat: tf.Tensor) -> None:
        self._context = self._started().extended(self.layers[self._done], y_hat)
        self._done += 1


def _encode(
    coder: _Coder,
    image: np.ndarray,
    records: list[Record],
    target_bpp: float | None = None,
    target_psnr: float | None = None,
) -> Encoded:
    """Codes the layers that come after `records`, which the coder has decoded."""
    pixels, psnr = image.shape[0] * image.shape[1], None
    while True:
        records.append(coder.encode(image))
        bpp = 8 * bitstream.size(records) / pixels
        last = len(records) == len(coder.layers) or (target_bpp is not None and bpp >= target_bpp)
        if target_psnr is not None:
            psnr = metrics.psnr(image, coder.image())
            last = last or psnr >= target_psnr
        if last:
            return Encoded(bitstream.pack(coder.header, records), len(records), bpp, psnr)


def _require_memory(width: int, height: int, name: str = "An image") -> None:
    memory.require(width * height * _BYTES_PER_PIXEL, f"{name} of {width} x {height} pixels")


def _array(image: Image, max_pixels: int, background: str | None) -> np.ndarray:
    """Returns the image as uint8 [H, W, 3]."""
    if not isinstance(image, np.ndarray):
        # The check comes before the image is decoded, which alone may take gigabytes.
        name = str(image) if isinstance(image, (str, Path)) else "An image"
        _require_memory(*images.size(image, max_pixels), name)
        return images.read(image, max_pixels, background)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise SaeError(f"An image is uint8 [H, W, 3], not {image.dtype} {list(image.shape)}.")
    if image.shape[0] * image.shape[1] > max_pixels:
        raise SaeError(f"The image has more pixels than the limit of {max_pixels}.")
    return image


def _parse(data: files.Bytes, layers: int | None, max_pixels: int) -> tuple[Header, list[Record]]:
    """Reads a stream; warns where it has fewer layers than it should."""
    stream = bitstream.parse(files.read_bytes(data), layers, max_pixels)
    last = bitstream.layer_name(len(stream.records) - 1)
    if stream.cut:
        warnings.warn(f"The stream is cut short; {last} is its last layer.", stacklevel=3)
    elif layers is not None and len(stream.records) < layers:
        warnings.warn(f"The stream ends with {last}; {layers} layers were asked for.", stacklevel=3)
    return stream.header, stream.records


def _require_own(coder: _Coder, image: np.ndarray, base: Record, checkpoints: Folder) -> None:
    """Decodes the base of a stream; raises SaeError where the image cannot be its own.

    A base that is the image's own is not much further from it than what the image gives now,
    whatever effort made it.
    """
    coder.decode(base)
    own = _Coder(coder.header, 1, checkpoints)
    own.encode(image)
    reached, possible = (metrics.psnr(image, one.image()) for one in (coder, own))
    if reached < possible - _OWN_DB:
        raise SaeError(
            f"The stream is not of this image: its base layer comes to {reached:.1f} dB of it, and "
            f"the image's own to {possible:.1f} dB; extend a stream with its own image."
        )


def _require_weights(index: int, record: Record, fingerprint: bytes) -> None:
    """Raises SaeError where the weights of a layer are not those that made its record."""
    if record.fingerprint != fingerprint:
        raise SaeError(
            f"Layer {bitstream.layer_name(index)} was made with weights "
            f"{record.fingerprint.hex()}, and these are {fingerprint.hex()}; name the checkpoints "
            "that made the stream."
        )


def _load(
    store: Store, count: int | None, records: Sequence[Record] = ()
) -> tuple[Sequence[Layer], Sequence[bytes]]:
    """Returns the first `count` layers, by default all there are, and their fingerprints.

    Layers are restored once while their fingerprints stay the same, and only if they made
    the records.
    """
    family = store.family
    if count is not None and not 1 <= count <= len(family.layers):
        raise SaeError(
            f"The {family.name} family has 1 to {len(family.layers)} layers, not {count}."
        )
    described = store.described(count)
    fingerprints = tuple(entry["fingerprint"] for entry in described.values())
    prefixes = [bytes.fromhex(f)[: bitstream.FINGERPRINT_BYTES] for f in fingerprints]
    for index, (record, prefix) in enumerate(zip(records, prefixes)):
        _require_weights(index, record, prefix)
    if (store, fingerprints) not in _LOADED:
        if len(_LOADED) == _MOST_LOADED:
            _LOADED.clear()
        with tf.device("CPU:0"):
            _LOADED[store, fingerprints] = store.cascade(described=described).layers
    return _LOADED[store, fingerprints], prefixes
