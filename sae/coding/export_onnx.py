"""A progressive model as ONNX files, for decoders in other languages.

    analysis.onnx                    image -> y
    synthesis.onnx                   y_hat, expected, level -> image
    plane_0_slice_K.onnx             values, pass, context -> means and scales of a pass
    plane_0_channel_context_K.onnx   values, context -> context of the next slice
    plane_P.onnx                     integers of the planes below -> means and scales
    tables.npz, settings.json        tables and constants of `sae.coding.plane_coder`

The context models compute in float32 on integers below 2^24, so that a sum has the same result in
any order. Runtimes that convolve in lower precision or by transformed kernels are not exact.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from sae import files
from sae.coding.plane_coder import LAYER_SHARES
from sae.config import STRIDE
from sae.errors import SaeError
from sae.model import integer_context, onnx_priors, onnx_transforms, plane_tables, stores
from sae.model.arrays import save_arrays
from sae.model.model_store import ModelStore, StoredModel
from sae.model.progressive_config import PLANES, RATIO


def export(store: ModelStore, folder: Path) -> None:
    """Writes the model of a checkpoint.

    Args:
      store: checkpoint to export.
      folder: folder of the files; it is made if there is none.

    Raises:
      SaeError: the checkpoint cannot be read, or a file cannot be written.
    """
    model = store.load()
    for name, graph in graphs(model):
        files.write_bytes(folder / f"{name}.onnx", graph)
    save_arrays(folder / "tables.npz", dataclasses.asdict(model.tables))
    settings = {
        "family": store.family.name,
        "code": store.family.code,
        "fingerprint": model.fingerprint,
        "config": dataclasses.asdict(model.config),
        "slice_sizes": model.config.slice_sizes,
        "stride": STRIDE,
        "reach": model.config.reach,
        "planes": PLANES,
        "ratio": RATIO,
        "passes": integer_context.PASSES,
        "means_per_step": integer_context.MEANS,
        "scales": integer_context.SCALES,
        "largest_distance": plane_tables.LARGEST_DISTANCE,
        "layer_shares": LAYER_SHARES,
        "entropy_unit": plane_tables.ENTROPY_UNIT,
        "expected_unit": plane_tables.EXPECTED_UNIT,
    }
    files.write_json(folder / "settings.json", settings)


def run(options: argparse.Namespace) -> None:
    """The command `export`.

    Raises:
      SaeError: the family is not progressive, or as `export`.
    """
    store = stores.store(options.family, options.checkpoints)
    if not isinstance(store, ModelStore):
        raise SaeError(f"{store.family.name} is not progressive; choose a progressive family.")
    export(store, Path(options.folder))
    print(options.folder)


def graphs(model: StoredModel) -> Iterator[tuple[str, bytes]]:
    """Yields name and ONNX graph of each network of a model."""
    yield "analysis", onnx_transforms.analysis(model)
    yield "synthesis", onnx_transforms.synthesis(model)
    count = len(model.config.slice_sizes)
    for k in range(count):
        yield f"plane_0_slice_{k}", onnx_priors.slice_parameters(model, k)
        if k < count - 1:
            yield f"plane_0_channel_context_{k}", onnx_priors.channel_context(model, k)
    for plane in range(1, PLANES):
        yield f"plane_{plane}", onnx_priors.plane_parameters(model, plane)
