"""TF_CONFIG: which machines train together, and what is no description of them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae.errors import SaeError
from sae.training import cluster

A, B, C = "10.0.0.1:2222", "10.0.0.2:2222", "host.example:2222"


@pytest.fixture
def configuration(monkeypatch):
    """What is found in a TF_CONFIG."""

    def read(value):
        monkeypatch.setenv("TF_CONFIG", value if isinstance(value, str) else json.dumps(value))
        return cluster.configuration()

    return read


def described(kind="worker", index=0, **machines):
    return {"cluster": machines, "task": {"type": kind, "index": index}}


@pytest.mark.parametrize(
    "text", ["", " ", "{}", "null", '{"cluster": {}}', '{"environment": "cloud"}']
)
def test_without_machines_there_is_this_one(configuration, text):
    assert configuration(text) == {} and cluster.count({}) == 1


def test_without_the_variable_there_is_this_one(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert cluster.configuration() == {}


@pytest.mark.parametrize(
    ("machines", "kind", "count"),
    [
        ({"chief": [A], "worker": [B]}, "chief", 2),
        ({"chief": [A], "worker": [B]}, "worker", 2),
        ({"worker": [A, B]}, "worker", 2),
        ({"chief": [A], "worker": [B], "ps": [C], "evaluator": [C]}, "worker", 2),
        ({"chief": [A]}, "chief", 1),
        ({"chief": [], "worker": [A]}, "worker", 1),
    ],
)
def test_chief_and_workers_train_together(configuration, machines, kind, count):
    found = configuration({**described(kind, "0", **machines), "environment": "cloud"})
    assert cluster.count(found) == count
    assert found["task"] == {"type": kind, "index": 0}
    assert set(found["cluster"]) <= {"chief", "worker"}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ([1], "TF_CONFIG is not an object"),
        ({"cluster": [A]}, "cluster in TF_CONFIG"),
        ({"cluster": {"worker": A}}, "not a list of addresses"),
        ({"cluster": {"worker": [1, 2]}}, "not a list of addresses"),
        ({"cluster": {"worker": ["10.0.0.1", B]}}, "not a list of addresses"),
        ({"cluster": {"worker": [A, B]}}, "the task None"),
        ({"cluster": {"worker": [A, B]}, "task": 3}, "task in TF_CONFIG"),
        (described("worker", 2, worker=[A, B]), "index 2"),
        (described("worker", -1, worker=[A, B]), "index -1"),
        (described("worker", 0.0, worker=[A, B]), "index 0.0"),
        (described("chief", 0, worker=[A, B]), "does not have"),
        (described("chief", 0, chief=[A, B]), "more than one chief"),
        (described("evaluator", 0, worker=[A, B]), "'evaluator', which is not a training"),
        (described("ps", 0, worker=[A], ps=[B]), "'ps', which is not a training"),
        (described(["worker"], 0, worker=[A, B]), "not a training"),
    ],
)
def test_what_describes_no_machines_is_one_sentence(configuration, value, said):
    with pytest.raises(SaeError, match=said) as raised:
        configuration(value)
    assert "\n" not in str(raised.value)


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["worker", "chief", A]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["cluster", "task", "worker", "chief", "type", "index"]), inner
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=50)
@given(_JSON)
def test_anything_is_a_cluster_or_one_sentence(value):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TF_CONFIG", json.dumps(value))
        try:
            found = cluster.configuration()
        except SaeError:
            return
    if found:
        kind, index = found["task"].values()
        assert found["cluster"][kind][index]
