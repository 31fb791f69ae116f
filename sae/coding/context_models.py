"""The context models of all planes in onnxruntime, for coding."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import NamedTuple

import numpy as np

from sae.coding.onnx_session import session, small_session
from sae.model import onnx_priors
from sae.model.integer_context import PASSES
from sae.model.model_store import StoredModel
from sae.model.progressive_config import PLANES
from sae.model.tiling import in_tiles


class Parameters(NamedTuple):
    """Means and scales of the elements of a latent, of one shape.

    Attributes:
      means: means in eighths of a quantization step, int16.
      scales: indices of scales in [0, SCALES), uint8.
    """

    means: np.ndarray
    scales: np.ndarray


class Part(NamedTuple):
    """The elements of plane 0 that are coded together.

    Attributes:
      where: index of the elements in the plane [h, w, depth].
      parameters: their means and scales.
    """

    where: tuple[slice, slice, slice]
    parameters: Parameters


class ContextModels:
    """The context models of a model.

    Args:
      model: stored model.

    Attributes:
      depths: number of channels of each plane.
    """

    def __init__(self, model: StoredModel):
        self.depths, self._sizes = model.config.plane_depths, model.config.slice_sizes
        count = len(self._sizes)
        self._slices = [small_session(onnx_priors.slice_parameters(model, k)) for k in range(count)]
        self._channels = [
            small_session(onnx_priors.channel_context(model, k)) for k in range(count - 1)
        ]
        self._planes = [session(onnx_priors.plane_parameters(model, p)) for p in range(1, PLANES)]

    def parts(self, height: int, width: int) -> Generator[Part, np.ndarray, np.ndarray]:
        """Yields the parts of plane 0 in the order of coding.

        Args:
          height, width: size of the latent.

        Yields:
          Each part. The caller sends the values of its elements, integers shaped like its means.

        Returns:
          The plane, int16 [height, width, depth].
        """
        slices: list[np.ndarray] = []
        context: dict[str, np.ndarray] = {}
        first = 0
        for k, size in enumerate(self._sizes):
            values = np.zeros((height, width, size), np.int16)
            slices.append(values)
            for number, (row, column) in enumerate(PASSES):
                rows, columns = slice(row, None, 2), slice(column, None, 2)
                if values[rows, columns].size == 0:
                    continue
                inputs = {"values": values[None], "pass": np.array([number]), **context}
                means, scales = self._slices[k].run(["means", "scales"], inputs)
                where = (rows, columns, slice(first, first + size))
                values[rows, columns] = yield Part(where, Parameters(means[0], scales[0]))
            if k < len(self._channels):
                inputs = {"values": values[None], **context}
                context = {"context": self._channels[k].run(["next"], inputs)[0]}
            first += size
        return np.concatenate(slices, -1)

    def of_plane(self, planes: Sequence[np.ndarray]) -> Parameters:
        """Returns the parameters of the plane above the given planes.

        Args:
          planes: integers of all planes below, lowest first, int16 [h, w, depth].
        """
        network = self._planes[len(planes) - 1]
        height, width, _ = planes[0].shape

        def tile(rows: slice, columns: slice) -> list[np.ndarray]:
            inputs = {f"plane_{p}": q[None, rows, columns] for p, q in enumerate(planes)}
            return network.run(["means", "scales"], inputs)

        # Sums of integers are exact: tiles have the values of the whole plane.
        means, scales = in_tiles(tile, height, width, reach=2)
        return Parameters(means[0], scales[0])
