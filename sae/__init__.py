"""Scalable auto-encoder for layered image compression, in TensorFlow.

    data = sae.compress(image)          # uint8 [H, W, 3] or a file -> bytes
    image = sae.decompress(data)        # also of sae.truncate(data, max_bytes=10_000)

TensorFlow is imported when a function first needs it.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from sae.errors import SaeError

if TYPE_CHECKING:
    from sae.coding.codec import Decoder, compress, decompress
    from sae.coding.stream import truncate

# TensorFlow reads these variables when it is imported. Its log at start-up is of no use to users.
# It enables oneDNN only with AVX-512, but oneDNN doubles the speed of training on other CPUs, too.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

__version__ = "2.1.1"
__all__ = ["Decoder", "SaeError", "compress", "decompress", "truncate"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        module = "sae.coding.stream" if name == "truncate" else "sae.coding.codec"
        return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'sae' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
