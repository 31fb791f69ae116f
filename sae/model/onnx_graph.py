"""ONNX graphs as bytes, without the package onnx.

The package requires versions of protobuf and ml-dtypes that TensorFlow 2.14 excludes. The few
messages of the format that a graph of plain operators has are written here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Union

import numpy as np

# All versions of onnxruntime since 1.12 read these.
_IR_VERSION, _OPSET = 8, 17
# Element types of tensors.
_TYPES = {
    name: number
    for number, name in enumerate(("float32", "uint8", "int8", "uint16", "int16", "int32"), 1)
} | {"int64": 7, "float16": 10}

# An integer, a name, or a nested message.
_Value = Union[int, str, bytes]
_Attribute = Union[int, str, Sequence[int]]
# Numbers of its axes, or names of those of any length.
Shape = Sequence[Union[int, str]]


class Graph:
    """A graph under construction; tensors are known by their names."""

    def __init__(self) -> None:
        self._nodes: list[bytes] = []
        self._constants: list[bytes] = []
        self._inputs: list[bytes] = []
        self._outputs: list[bytes] = []
        self._count = 0

    def input(self, name: str, dtype: type, shape: Shape) -> str:
        """Declares an input and returns its name."""
        self._inputs.append(_value_info(name, dtype, shape))
        return name

    def output(self, name: str, value: str, dtype: type, shape: Shape) -> None:
        """Declares an output.

        Args:
          name: name of the output.
          value: name of the tensor that it has.
          dtype: type of its elements.
          shape: its shape.
        """
        self._nodes.append(_node("Identity", [value], name, {}))
        self._outputs.append(_value_info(name, dtype, shape))

    def constant(self, array: np.ndarray) -> str:
        """Returns the name of a constant tensor."""
        name = self._name()
        array = np.asarray(array)
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        dims = [(1, side) for side in array.shape]
        self._constants.append(
            _message([*dims, (2, _TYPES[array.dtype.name]), (8, name), (9, little.tobytes())])
        )
        return name

    def __call__(self, operator: str, *inputs: str | float, **attributes: _Attribute) -> str:
        """Returns the name of the only result of an operator.

        Args:
          operator: name of the operator.
          inputs: names of its inputs, or float32 scalars; "" for one that is left out.
          attributes: integers, lists of integers and texts by name.
        """
        names = [
            value if isinstance(value, str) else self.constant(np.array(value, np.float32))
            for value in inputs
        ]
        name = self._name()
        self._nodes.append(_node(operator, names, name, attributes))
        return name

    def cast(self, value: str, dtype: type) -> str:
        """Returns the name of a tensor with its elements converted."""
        return self("Cast", value, to=_TYPES[np.dtype(dtype).name])

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
        """Returns the graph as an ONNX file has it."""
        lists = {1: self._nodes, 5: self._constants, 11: self._inputs, 12: self._outputs}
        entries = [(field, message) for field, all_ in lists.items() for message in all_]
        graph = _message([*entries, (2, "sae")])
        return _message(
            [(1, _IR_VERSION), (2, "sae"), (7, graph), (8, _message([(1, ""), (2, _OPSET)]))]
        )

    def _name(self) -> str:
        self._count += 1
        return f"t{self._count}"


def _node(
    operator: str, inputs: Sequence[str], output: str, attributes: Mapping[str, _Attribute]
) -> bytes:
    found = [(5, _attribute(name, value)) for name, value in attributes.items()]
    return _message([*((1, name) for name in inputs), (2, output), (4, operator), *found])


def _attribute(name: str, value: _Attribute) -> bytes:
    if isinstance(value, int):
        return _message([(1, name), (3, value), (20, 2)])
    if isinstance(value, str):
        return _message([(1, name), (4, value), (20, 3)])
    return _message([(1, name), *((8, entry) for entry in value), (20, 7)])


def _value_info(name: str, dtype: type, shape: Shape) -> bytes:
    sides = [(1, _message([(2 if isinstance(side, str) else 1, side)])) for side in shape]
    tensor = _message([(1, _TYPES[np.dtype(dtype).name]), (2, _message(sides))])
    return _message([(1, name), (2, _message([(1, tensor)]))])


def _message(fields: Sequence[tuple[int, _Value]]) -> bytes:
    """Returns a message of protocol buffers.

    Args:
      fields: numbers and values, those of repeated fields one by one.
    """
    return b"".join(part for field in fields for part in _field(*field))


def _field(number: int, value: _Value) -> Iterator[bytes]:
    if isinstance(value, int):
        yield _varint(number << 3) + _varint(value)
    else:
        data = value.encode() if isinstance(value, str) else value
        yield _varint(number << 3 | 2) + _varint(len(data))
        yield data


def _varint(value: int) -> bytes:
    """Returns an integer in groups of seven bits, lowest first."""
    value &= (1 << 64) - 1
    groups = []
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    return struct.pack(f"{len(groups) + 1}B", *groups, value)
