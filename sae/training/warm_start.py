"""Beginning with weights that were trained before."""

from __future__ import annotations

from pathlib import Path

from sae.errors import SaeError
from sae.model import checkpoint, description
from sae.model.layer import Layer


def begin(layer: Layer, folder: Path, family: str) -> dict:
    """Gives a layer of a family the weights of a checkpoint; returns the origin of these.

    Where the checkpoint has fewer channels, the further ones stay fresh. Of
    another layer the latent's side stays fresh as a whole, since channels that
    one never uses would come with a prior that keeps them silent. The origin
    has the record of its training where that is continued: for the same layer.

    Raises:
      SaeError: there is no checkpoint in the folder, or a damaged one.
    """
    try:
        found = description.read(folder / "layer.json")
    except FileNotFoundError as error:
        raise SaeError(
            f"{folder} holds no checkpoint to begin with; name the folder of a layer."
        ) from error
    origin = {
        "family": found["family"],
        "layer": found["layer"]["name"],
        "fingerprint": found["fingerprint"],
    }
    step = found["layer"].get("step", 1.0)
    arrays = {name: array.copy() for name, array in layer.arrays().items()}
    given = checkpoint.load_arrays(folder / "weights.npz")
    another = origin["layer"] != layer.config.name
    for name, array in arrays.items():
        if another and name.startswith(layer.latent_side):
            continue
        if name in given and given[name].ndim == array.ndim:
            block = tuple(slice(min(sides)) for sides in zip(array.shape, given[name].shape))
            array[block] = given[name][block]
            if name.startswith(layer.in_steps):
                array[block] *= step / layer.config.step
    layer.set_arrays(arrays)
    continued = (origin["family"], origin["layer"]) == (family, layer.config.name)
    return {**origin, "training": found["training"]} if continued else origin
