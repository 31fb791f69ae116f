"""Parameters and multiply-accumulates, counted from shapes of weights."""

from __future__ import annotations

import pytest

from sae.config import STRIDE
from sae.errors import SaeError
from sae.model import families
from sae.model.families import FAMILIES
from sae.model.residual_layer import ResidualLayer
from sae.training import presets
from tools import complexity

SIDE = 64


def counted_by_tensorflow(transform, shape):
    """Returns half the operations of a traced transform: those of products and sums."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    traced = tf.function(transform).get_concrete_function(tf.TensorSpec(shape))
    graph = convert_variables_to_constants_v2(traced).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    return tf.compat.v1.profiler.profile(graph, options=options).total_float_ops / 2


@pytest.mark.parametrize("name", ["base", "el2"])
def test_macs_are_those_that_tensorflow_counts(name):
    config = presets.residual(name, families.named("residual-mse"), "default")[0]
    layer = ResidualLayer(config)
    shapes = {key: array.shape for key, array in layer.arrays().items()}
    macs = complexity.count(shapes)
    side = SIDE // STRIDE
    for part, shape in (
        ("analysis", [1, SIDE, SIDE, 3]),
        ("synthesis", [1, side, side, config.latent_depth]),
    ):
        expected = counted_by_tensorflow(getattr(layer, part), shape)
        # TensorFlow also counts activations and what they divide by.
        assert macs[part] == pytest.approx(expected / SIDE**2, rel=0.1)


def test_all_released_layers_are_counted():
    for family in (family for family in FAMILIES if family.kind == "residual"):
        found = complexity.of_family(family)
        assert tuple(found) == family.layers
        encode = [one.encode for one in found.values()]
        assert encode == sorted(encode) and min(encode) > 0


def test_families_without_weights_are_passed_over(tiny_checkpoints, capsys):
    complexity.main(["--checkpoints", str(tiny_checkpoints)])
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["residual-mse"] * 5


def test_an_unknown_kernel_is_not_left_out():
    with pytest.raises(SaeError, match="synthesis/conv_9/kernel"):
        complexity.count({"synthesis/conv_9/kernel": (3, 3, 8, 8)})
