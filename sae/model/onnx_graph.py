"""ONNX graphs under construction, on the helpers of the package onnx."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Union

import numpy as np
import onnx
from onnx import helper, numpy_helper

# All versions of onnxruntime since 1.12 support these.
_IR_VERSION, _OPSET = 8, 17

# Lengths of the axes, or names of axes of any length.
Shape = Sequence[Union[int, str]]


class Graph:
    """A graph under construction, whose tensors have names."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._count = 0

    def input(self, name: str, dtype: type, shape: Shape) -> str:
        """Declares an input and returns its name."""
        self._inputs.append(helper.make_tensor_value_info(name, _type(dtype), list(shape)))
        return name

    def output(self, name: str, value: str, dtype: type, shape: Shape) -> None:
        """Declares an output.

        Args:
          name: name of the output.
          value: name of the tensor.
          dtype: type of its elements.
          shape: lengths or names of its axes.
        """
        self._nodes.append(helper.make_node("Identity", [value], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, _type(dtype), list(shape)))

    def constant(self, array: np.ndarray) -> str:
        """Returns the name of a constant tensor."""
        name = self._name()
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def __call__(self, operator: str, *inputs: str | float, **attributes: Any) -> str:
        """Returns the name of the only result of an operator.

        Args:
          operator: name of the operator.
          inputs: names of its inputs, or float32 scalars; "" stands for an omitted one.
          attributes: attributes by name: integers, lists of integers, or texts.
        """
        names = [
            value if isinstance(value, str) else self.constant(np.array(value, np.float32))
            for value in inputs
        ]
        name = self._name()
        self._nodes.append(helper.make_node(operator, names, [name], **attributes))
        return name

    def cast(self, value: str, dtype: type) -> str:
        """Returns the name of a tensor with its elements converted."""
        return self("Cast", value, to=_type(dtype))

    def axes(self, *axes: int) -> str:
        """Returns the name of a list of axes, or of other integers."""
        return self.constant(np.array(axes, np.int64))

    def channels_first(self, value: str) -> str:
        """Returns the name of [1, C, H, W] for [1, H, W, C]."""
        return self("Transpose", value, perm=(0, 3, 1, 2))

    def channels_last(self, value: str) -> str:
        """Returns the name of [1, H, W, C] for [1, C, H, W]."""
        return self("Transpose", value, perm=(0, 2, 3, 1))

    def serialized(self) -> bytes:
        """Returns the bytes of an ONNX file."""
        graph = helper.make_graph(self._nodes, "sae", self._inputs, self._outputs, self._constants)
        opset = [helper.make_opsetid("", _OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=_IR_VERSION)
        return model.SerializeToString()

    def _name(self) -> str:
        self._count += 1
        return f"t{self._count}"


def _type(dtype: type) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
