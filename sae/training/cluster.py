"""The machines of a distributed training, described by the environment variable TF_CONFIG."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING

from sae.errors import SaeError

if TYPE_CHECKING:
    import tensorflow as tf

# Other tasks, such as evaluators and parameter servers, take no part in training steps.
_TRAINING = ("chief", "worker")


def configuration() -> dict:
    """Returns chief, workers and the task of this machine; {} for a single machine.

    Raises:
      SaeError: TF_CONFIG is malformed, or the task of this machine takes no part in training.
    """
    text = os.environ.get("TF_CONFIG", "").strip()
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise SaeError(f"TF_CONFIG is not JSON ({error}); correct it or unset it.") from error
    found = _part({"TF_CONFIG": found}, "TF_CONFIG")
    cluster = _part(found, "cluster")
    task = _part(found, "task")
    machines = {kind: _addresses(kind, cluster[kind]) for kind in _TRAINING if cluster.get(kind)}
    kind, index = task.get("type"), task.get("index")
    if kind is not None and kind not in _TRAINING:
        raise SaeError(
            f"TF_CONFIG gives this machine the task {kind!r}, which is not a training; start the "
            "script on the chief and the workers alone."
        )
    if len(machines.get("chief", ())) > 1:
        raise SaeError("TF_CONFIG has more than one chief in its cluster; name one.")
    if not machines or (kind is None and count({"cluster": machines}) == 1):
        return {}
    # Some schedulers write the index as a string.
    if isinstance(index, str) and index.isdecimal():
        index = int(index)
    alike = [] if kind is None else machines.get(kind, [])
    if not isinstance(index, int) or index not in range(len(alike)):
        raise SaeError(
            f"TF_CONFIG gives this machine the task {kind!r} with the index {index!r}, which its "
            "cluster does not have; correct one of them."
        )
    return {"cluster": machines, "task": {"type": kind, "index": index}}


def count(found: dict) -> int:
    """Returns the number of machines in a configuration, at least 1."""
    return max(1, sum(map(len, found.get("cluster", {}).values())))


def join(found: dict) -> tf.distribute.Strategy:
    """Returns the strategy of a configuration, once its machines are connected.

    Raises:
      SaeError: a machine cannot be reached, or this machine's address is in use.
    """
    # TensorFlow reads this variable, and would wait for the parameter servers of the original.
    os.environ["TF_CONFIG"] = json.dumps(found)
    import tensorflow as tf

    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise SaeError(
            f"The machines of TF_CONFIG cannot train together: {reason}; correct it."
        ) from error


def _part(found: dict, name: str) -> dict:
    """Returns an object within another, {} where it is absent."""
    part = {} if found.get(name) is None else found[name]
    if not isinstance(part, dict):
        where = name if name == "TF_CONFIG" else f"{name} in TF_CONFIG"
        raise SaeError(f"{where} is not an object of JSON, but {part!r}; correct it.")
    return part


def _addresses(kind: str, found: object) -> list[str]:
    """Returns the addresses of one kind of machine."""
    if isinstance(found, list) and all(
        isinstance(address, str) and re.fullmatch(r"\S+:\d{1,5}", address) for address in found
    ):
        return found
    raise SaeError(
        f"{kind} in the cluster of TF_CONFIG is not a list of addresses such as "
        f'"10.0.0.1:2222", but {found!r}; correct it.'
    )
