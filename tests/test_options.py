"""Numbers that are given to a training: refused where nothing can be trained with them."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae import scripts
from sae.config import (
    CHOICES,
    LAYER_NAMES,
    RANGES,
    LayerConfig,
    ProgressiveTrainingConfig,
    TrainingConfig,
    fault,
)
from sae.errors import SaeError
from sae.model import families
from sae.training import presets

WRONG = [
    *("--patchsize 0", "--patchsize -16", "--last_step 0", "--last_step -3", "--batchsize 0"),
    *("--batch-size -1", "--seed -1", "--seed 4294967296", "--latent_depth 0"),
    *("--hidden_filters 0", "--small_until 2"),
    *("--decoder_from 1.5", "--smallest_scale 0", "--lambda 0", "--lmbda nan", "--lambda inf"),
    *("--learning_rate nan", "--learning_rate 0", "--save_every -1"),
    *("--save_every nan", "--clip -1", "--noise inf"),
    "--final_learning_rate -1",
]


@pytest.mark.parametrize("option", WRONG)
def test_a_number_that_does_not_suit_is_one_sentence(option, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        scripts.train("base", ["--data", "absent", "--checkpoints", str(tmp_path), *option.split()])
    (said,) = capsys.readouterr().err.splitlines()
    name, number = option.split()
    name = {"--batch-size": "--batchsize", "--lmbda": "--lambda"}.get(name, name)
    assert said.startswith(f"{name} has to be ")
    assert float(said.rstrip(".").split()[-1]) == pytest.approx(float(number), nan_ok=True)
    assert not list(tmp_path.iterdir())


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["residual-mse", "progressive-mse"]),
    st.sampled_from(sorted(set(RANGES) & set(scripts._HELP) | {"save_every"})),
    st.integers() | st.floats(),
)
def test_any_number_is_taken_or_refused(name, option, number):
    family, parser = families.named(name), scripts.training_parser("base")
    try:
        options = parser.parse_args(["--data", "absent", f"--{option}={number!r}"])
        configurations = scripts.configurations(options, family)
    except SaeError as error:
        other = option not in (*scripts._fields(family.kind), "save_every")
        assert (f"no option of {name}" if other else "has to be") in str(error) or (
            "has to be" in str(error)
        )
        return
    except SystemExit:
        # Argparse refuses what is not a whole number.
        assert isinstance(number, float)
        return
    found = {k: v for c in configurations for k, v in dataclasses.asdict(c).items()}
    found["save_every"] = options.save_every
    assert found[option] == number and math.isfinite(number) and number in RANGES[option]


@pytest.mark.parametrize("preset", presets.PRESETS)
@pytest.mark.parametrize("family", families.FAMILIES, ids=lambda family: family.name)
def test_presets_are_within_the_ranges(preset, family):
    if family.kind == "progressive":
        if preset == "paper":
            with pytest.raises(SaeError, match="The paper has no"):
                presets.progressive(family, preset)
        else:
            assert presets.progressive(family, preset)[1].lmbda > 0
        return
    for name in family.layers:
        layer, training = presets.residual(name, family, preset)
        assert layer.name == name and training.lmbda > 0


def test_an_option_of_the_other_kind_is_refused():
    parser = scripts.training_parser("base")
    for family, option in (("progressive-mse", "--noise"), ("residual-mse", "--cuts")):
        options = parser.parse_args(["--data", "absent", option, "1"])
        with pytest.raises(SaeError, match=f"{option} is no option of {family}"):
            scripts.configurations(options, families.named(family))


def test_the_lambdas_of_planes_go_by_sevenths():
    training = presets.progressive(families.named("progressive-mse"))[1]
    assert training.lambdas == pytest.approx((3000, 3000 / 7, 3000 / 49))


@pytest.mark.parametrize("value", [None, True, "8", 8.0, [8], math.nan])
def test_a_field_has_its_type(value):
    with pytest.raises(SaeError, match="latent_depth has to be a whole number, 1 to 2048"):
        LayerConfig("base", value)


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_is_one_of_those_there_are(name):
    assert fault(name, CHOICES[name][0]) is None
    assert "has to be one of" in fault(name, "another")


def test_every_number_has_a_range():
    kinds = (LayerConfig, ProgressiveTrainingConfig, TrainingConfig)
    fields = [field for kind in kinds for field in dataclasses.fields(kind)]
    numbers = {field.name for field in fields if field.type in ("int", "float")}
    assert numbers | {"save_every"} == set(RANGES)
    assert CHOICES["name"] == LAYER_NAMES


def test_too_little_memory_is_one_sentence(tmp_path, monkeypatch, capsys):
    from sae.training import residual

    def train(*_):
        raise MemoryError

    monkeypatch.setattr(residual, "train", train)
    with pytest.raises(SystemExit, match="2"):
        scripts.train("base", ["--data", "absent", "--checkpoints", str(tmp_path)])
    assert "not enough memory" in capsys.readouterr().err
