"""Images to streams of any family, and streams back to images.

data = compress(image, max_bytes=20_000)
image = decompress(data)
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Union

import numpy as np

from sae import files, images, metrics
from sae.coding import header, progressive_container, residual_container, stream
from sae.coding.stream import truncate
from sae.config import DEFAULT_FOLDER, EFFORTS, MAX_PIXELS
from sae.errors import SaeError
from sae.model import stores
from sae.model.layer_store import LayerStore
from sae.model.stores import Store

if TYPE_CHECKING:
    from sae.coding.progressive_codec import ProgressiveDecoder
    from sae.coding.residual_codec import ResidualDecoder

Image = Union[np.ndarray, images.Source]
Folder = Union[str, Path]
# A function of the number of steps taken and the number of all steps.
Progress = Callable[[int, int], object]


def compress(
    image: Image,
    layers: int | None = None,
    family: str = "mse",
    checkpoints: Folder = DEFAULT_FOLDER,
    *,
    max_bytes: int | None = None,
    max_bpp: float | None = None,
    psnr: float | None = None,
    effort: int = 0,
    max_pixels: int = MAX_PIXELS,
    background: str | None = None,
    progress: Progress = lambda done, count: None,
) -> bytes:
    """Returns the stream of an image.

    Args:
      image: uint8 [H, W, 3], or an image file, by name or open.
      layers: largest number of named layers; all trained layers by default.
      family: name of a family; or a metric, "mse" or "ms-ssim", for the best trained family of it.
      checkpoints: folder of all checkpoints.
      max_bytes: largest number of bytes.
      max_bpp: largest number of bits per pixel.
      psnr: PSNR in dB of the 8-bit decoded image at which the stream ends; a stream that does not
        reach it is whole.
      effort: effort of the latent optimization, an index of `EFFORTS`; it requires TensorFlow.
      max_pixels: largest number of pixels of an image.
      background: color behind transparent pixels, in CSS notation.
      progress: function that is called after each step of the optimization.

    Raises:
      SaeError: the image cannot be read or is too large, the family is not trained, or a limit
        cannot be kept.
    """
    stream.require_limits({"bpp": max_bpp, "PSNR": psnr, "bytes": max_bytes})
    if effort not in range(len(EFFORTS)):
        raise SaeError(f"The effort is 0 to {len(EFFORTS) - 1}, not {effort}.")
    store = stores.store(family, checkpoints)
    count = len(store.family.layers)
    if layers is not None and not 1 <= layers <= count:
        raise SaeError(f"The {store.family.name} family has 1 to {count} layers, not {layers}.")
    pixels = _array(image, store, max_pixels, background)
    if isinstance(store, LayerStore):
        from sae.coding import residual_codec

        target = math.inf if psnr is None else psnr
        data = residual_codec.compress(pixels, store, layers, target, effort, progress)
    else:
        from sae.coding import progressive_codec

        data = progressive_codec.compress(pixels, store, effort, progress)
        data = truncate(data, layers, max_pixels=max_pixels)
        if psnr is not None:
            data = _shortest(data, pixels, psnr, checkpoints, max_pixels)
    if max_bytes is not None or max_bpp is not None:
        data = truncate(data, max_bytes=max_bytes, max_bpp=max_bpp, max_pixels=max_pixels)
    return data


def decompress(
    data: files.Bytes,
    layers: int | None = None,
    checkpoints: Folder = DEFAULT_FOLDER,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Decodes a stream, whole or cut.

    Args:
      data: stream, or its file, by name or open. With a warning, a damaged stream is decoded up to
        the damage, and a cut residual stream up to its last complete layer.
      layers: largest number of named layers; all in the stream by default.
      checkpoints: folder of all checkpoints.
      max_pixels: largest number of pixels of an image.

    Returns:
      The image, uint8 [H, W, 3].

    Raises:
      SaeError: this is no stream, nothing of it can be decoded, the image is too large, or the
        checkpoints are not those of the stream.
    """
    data = files.read_bytes(data)
    found = stream.parse(data, max_pixels)
    stream.require_base(found)
    residual = found.family.kind == "residual"
    if layers is not None and found.layers >= layers:
        data = truncate(data, layers, max_pixels=max_pixels)
    elif found.damaged:
        warnings.warn(f"The stream is damaged after byte {found.size}.", stacklevel=2)
    elif residual and found.size != found.ends[-1]:
        warnings.warn(f"The stream is cut short; {found.last_layer} is its last.", stacklevel=2)
    elif len(data) > found.size:
        warnings.warn(f"What follows byte {found.size} is not of the stream.", stacklevel=2)
    elif layers is not None:
        warnings.warn(
            f"Complete layers of the stream: {found.layers}; {layers} were requested.", stacklevel=2
        )
    decoder = Decoder(checkpoints, max_pixels)
    decoder.feed(data)
    image = decoder.image()
    assert image is not None, "a stream with a header has an image"
    return image


class Decoder:
    """Decodes a stream as its bytes arrive.

    Args:
      checkpoints: folder of all checkpoints.
      max_pixels: largest number of pixels of an image.
    """

    def __init__(self, checkpoints: Folder = DEFAULT_FOLDER, max_pixels: int = MAX_PIXELS):
        self._checkpoints, self._max_pixels = Path(checkpoints), max_pixels
        self._start = b""
        self._decoder: ResidualDecoder | ProgressiveDecoder | None = None

    def feed(self, data: bytes) -> None:
        """Takes the next bytes of the stream, and decodes what they determine.

        Raises:
          SaeError: as `decompress`.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise SaeError(f"A decoder takes bytes, not {type(data).__name__}.")
        if self._decoder is None:
            self._start = data = self._start + bytes(data)
            if (version := header.version(data)) is None:
                return
            self._decoder = self._of_version(version)
        self._decoder.feed(data)

    def _of_version(self, version: int) -> ResidualDecoder | ProgressiveDecoder:
        stream.require_version(version)
        if version == residual_container.VERSION:
            from sae.coding.residual_codec import ResidualDecoder

            return ResidualDecoder(self._checkpoints, self._max_pixels)
        from sae.coding.progressive_codec import ProgressiveDecoder

        return ProgressiveDecoder(self._checkpoints, self._max_pixels)

    def image(self) -> np.ndarray | None:
        """Returns the image so far, uint8 [H, W, 3]; None where nothing can be decoded yet."""
        return None if self._decoder is None else self._decoder.image()

    @property
    def header(self) -> residual_container.Header | progressive_container.Header | None:
        """Family and size of the image, None until they have arrived."""
        return None if self._decoder is None else self._decoder.reader.header

    @property
    def layers(self) -> int:
        """Number of complete layers."""
        return 0 if self._decoder is None else self._decoder.layers

    @property
    def complete(self) -> bool:
        """Whether the whole stream has arrived without damage."""
        return self._decoder is not None and self._decoder.reader.complete

    @property
    def damaged(self) -> bool:
        """Whether a checksum is wrong; all that follows is ignored."""
        return self._decoder is not None and self._decoder.reader.damaged


def decode_points(
    data: bytes, checkpoints: Folder = DEFAULT_FOLDER
) -> Iterator[tuple[str, int, np.ndarray]]:
    """Yields name, number of bytes and image of each complete layer of a stream."""
    found, decoder, start = stream.parse(data), Decoder(checkpoints), 0
    for name, end in zip(found.family.layers, found.ends[: found.layers]):
        decoder.feed(data[start:end])
        start, image = end, decoder.image()
        assert image is not None, "a complete layer has an image"
        yield name, end, image


def _shortest(
    data: bytes, image: np.ndarray, psnr: float, checkpoints: Folder, max_pixels: int
) -> bytes:
    """Returns the shortest prefix of a progressive stream that reaches a PSNR, by bisection.

    Where none does, this is the stream.
    """

    def reaches(size: int) -> bool:
        decoded = decompress(data[:size], None, checkpoints, max_pixels)
        return metrics.psnr(image, decoded) >= psnr

    short, enough = stream.parse(data, max_pixels).smallest - 1, len(data)
    if not reaches(enough):
        return data
    while enough - short > 1:
        middle = (short + enough) // 2
        if reaches(middle):
            enough = middle
        else:
            short = middle
    return data[:enough]


def _array(image: Image, store: Store, max_pixels: int, background: str | None) -> np.ndarray:
    """Returns the image as uint8 [H, W, 3]."""
    if not isinstance(image, np.ndarray):
        if not (isinstance(image, (str, Path)) or hasattr(image, "read")):
            raise SaeError(
                "An image is a file, by name or open, or uint8 [H, W, 3], not "
                f"{type(image).__name__}."
            )
        # The check comes before the image is decoded, which alone may take gigabytes.
        name = str(image) if isinstance(image, (str, Path)) else "An image"
        header.require_memory(store.family, *images.size(image, max_pixels), name)
        return images.read(image, max_pixels, background)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise SaeError(f"An image is uint8 [H, W, 3], not {image.dtype} {list(image.shape)}.")
    if image.shape[0] * image.shape[1] > max_pixels:
        raise SaeError(f"The image has more pixels than the limit of {max_pixels}.")
    return image
