"""Sessions of onnxruntime."""

from __future__ import annotations

import onnxruntime

_PROVIDERS = ["CPUExecutionProvider"]


def session(graph: bytes) -> onnxruntime.InferenceSession:
    """Returns a session that runs a graph on all cores.

    It retains the memory of its largest tensors for the next run, which is faster.

    Args:
      graph: serialized ONNX model.
    """
    return onnxruntime.InferenceSession(graph, _options(), _PROVIDERS)


def small_session(graph: bytes) -> onnxruntime.InferenceSession:
    """Returns a session that runs a graph on one core and retains no memory between runs."""
    options = _options()
    options.intra_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    return onnxruntime.InferenceSession(graph, options, _PROVIDERS)


def _options():
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Memory patterns suit inputs of one size alone.
    options.enable_mem_pattern = False
    return options
