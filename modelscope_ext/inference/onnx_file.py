"""Check of ONNX files before onnxruntime loads them: a file takes some times its own size in memory.

Weights lie in the file, dense, and nowhere else: a sparse tensor of a few bytes becomes gigabytes as it is loaded, and
a tensor may lie in any file beside the model. What depends on weights alone onnxruntime computes while it loads the
file; the shapes of these results are computed here first. `modelscope-ext export` uses few operators there. The numbers
are those of fields in `onnx.proto`.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

#: Most bytes of a file: protobuf reads no larger ones.
MOST_BYTES = 2**31 - 1
#: Most parts of a graph, of which an empty one takes a hundred times its bytes; the largest of our files has 10,000.
MOST_PARTS = 200_000
#: Most numbers that are computed while a file is loaded: for each of its bytes, and in all.
COMPUTED_PER_BYTE, COMPUTED = 4, 2**22
#: Most axes of a tensor, most numbers of a computed list of axes, most nodes that add axes.
MOST_AXES, MOST_LENGTHS, MOST_UNSQUEEZES = 8, 32, 16
GRAPH, METADATA, TRAINING, FUNCTIONS = 7, 14, 20, 25
#: Of an entry of the metadata.
KEY, VALUE, EMPTY = 1, 2, memoryview(b"")
NODE, INITIALIZER, SPARSE = 1, 5, 15
INPUT, OUTPUT, OPERATOR, ATTRIBUTE = 1, 2, 4, 5
#: Of a tensor: its shape, its type, its name and its content. Of an attribute: a whole number.
DIMS, TYPE, NAME, RAW, NUMBER = 1, 2, 8, 9, 3
#: Types of tensors by their names in safetensors files.
TYPES = {"F32": 1, "I8": 3, "F16": 10}
#: Of an attribute: a tensor, a graph, tensors, graphs, a sparse tensor, sparse tensors.
INNER = (5, 6, 10, 11, 22, 23)
#: Of a tensor: where external data are, and that they are.
ELSEWHERE = (13, 14)
#: Operators of constants: element by element; those with no more numbers than their first input has; others.
ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Mod", "Where", "Neg", "IsNaN", "Cast", "Identity", "Exp", "Log", "Sqrt"}
SMALLER = {"Reshape", "Squeeze", "Unsqueeze", "Split", "Slice", "ReduceSum", "ReduceMean", "ReduceMax", "CumSum"}
OF_CONSTANTS = {"Shape", "Transpose", "Concat", "Gather"} | ELEMENTWISE | SMALLER
#: All operators of all files that any version exported. None but `Gather` of what is no constant adds axes unseen.
OPERATORS = {
    "Conv",
    "ConvTranspose",
    "DynamicQuantizeMatMul",
    "GRU",
    "LSTM",
    "LayerNormalization",
    "LeakyRelu",
    "MatMul",
}
OPERATORS |= {"Pad", "ReduceL2", "ReduceSumSquare", "Relu", "Sigmoid", "Softmax", "Tanh"} | OF_CONSTANTS

#: The shape of a constant, or how many numbers it has at most.
Shape = tuple[int, ...] | int


class _Node(NamedTuple):
    operator: str
    inputs: list[str]
    outputs: list[str]
    axis: int | None  # the only whole number among the attributes


def read_checked(path: Path, weights: Path | None = None) -> bytes:
    """Return the content of an ONNX file that takes some times its own size in memory when it is loaded.

    Args:
        path: the file.
        weights: a safetensors file whose tensors are added to the graph by their names.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is too large or damaged, or has sparse or external weights, or graphs within its graph, or
            computes large constants.
    """
    size = path.stat().st_size
    if not 0 < size <= MOST_BYTES:
        raise ValueError(f"has {size:,} bytes, which no exported file has")
    content = path.read_bytes() + (_initializers(weights) if weights else b"")
    constants: dict[str, Shape] = {}
    nodes, parts = [], 0
    for number, graph in _fields(memoryview(content)):
        if number in (TRAINING, FUNCTIONS):
            raise ValueError("has functions or a training graph, which no exported file has")
        for kind, part in _fields(graph) if number == GRAPH else ():
            parts += 1 + (kind == NODE and sum(1 for _ in _fields(part)))
            if kind == SPARSE:
                raise ValueError("has sparse weights, which may take any memory")
            if kind == INITIALIZER:
                constants.update([_tensor(part)])
            elif kind == NODE:
                nodes.append(_node(part))
            if parts > MOST_PARTS:
                raise ValueError("has more parts than any exported file")
    _bound(nodes, constants, COMPUTED_PER_BYTE * len(content) + COMPUTED)
    return content


def metadata(content: bytes) -> dict[str, str]:
    """Return the metadata of an ONNX file."""
    entries = (dict(_fields(part)) for number, part in _fields(memoryview(content)) if number == METADATA)
    return {_text(entry.get(KEY, EMPTY)): _text(entry.get(VALUE, EMPTY)) for entry in entries}


def _initializers(weights: Path) -> bytes:
    """Return the tensors of a safetensors file as one more part of a graph, which follows the others in the file."""
    content = weights.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    try:
        found = json.loads(content[8:start])
        tensors = [
            b"".join(_whole(DIMS, length) for length in each["shape"])
            + _whole(TYPE, TYPES[each["dtype"]])
            + _part(NAME, name.encode())
            + _part(RAW, content[slice(*(start + offset for offset in each["data_offsets"]))])
            for name, each in found.items()
            if name != "__metadata__"
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"its weights {weights.name} are damaged ({error})") from error
    if not tensors:
        raise ValueError(f"its weights {weights.name} are damaged (no tensors)")
    return _part(GRAPH, b"".join(_part(INITIALIZER, tensor) for tensor in tensors))


def _part(number: int, content: bytes) -> bytes:
    """Return a field of a protobuf message; see `_fields`."""
    return _coded(number << 3 | 2) + _coded(len(content)) + content


def _whole(number: int, value: int) -> bytes:
    return _coded(number << 3) + _coded(value)


def _coded(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + _coded(value >> 7)


def _tensor(tensor: memoryview) -> tuple[str, tuple[int, ...]]:
    name, shape = "", []
    for number, part in _fields(tensor):
        if number in ELSEWHERE:
            raise ValueError("has weights in another file")
        if number == NAME:
            name = _text(part)
        while number == DIMS and part:  # one number, or packed ones
            length, used = _number(part, 0)
            shape, part = [*shape, length], part[used:]
            if len(shape) > MOST_AXES or length > MOST_BYTES:
                raise ValueError("has weights of an absurd shape")
    return name, tuple(shape)


def _node(node: memoryview) -> _Node:
    texts: dict[int, list[str]] = {INPUT: [], OUTPUT: [], OPERATOR: []}
    numbers = []
    for number, part in _fields(node):
        if number in texts:
            texts[number].append(_text(part))
        for inner, value in _fields(part) if number == ATTRIBUTE else ():
            if inner in INNER:
                raise ValueError("has tensors or graphs in a node, which no exported file has")
            if inner == NUMBER:
                numbers.append(_number(value, 0)[0])
    axis = numbers[0] if len(numbers) == 1 else None
    return _Node("".join(texts[OPERATOR]), texts[INPUT], texts[OUTPUT], axis)


def _bound(nodes: list[_Node], constants: dict[str, Shape], most: int) -> None:
    """Raise ValueError if more numbers than `most` may be computed of constants."""
    if sum(node.operator == "Unsqueeze" for node in nodes) > MOST_UNSQUEEZES:
        raise ValueError("has tensors of absurd shapes")
    for node in nodes:
        inputs = [constants.get(name) for name in node.inputs if name]
        if node.operator not in OPERATORS or (node.operator == "Gather" and None in inputs):
            raise ValueError(f"uses the operator {node.operator[:40]!r} as no exported file does")
        if node.operator in ("Reshape", "Unsqueeze") and inputs and _size(inputs[-1] or 0) > MOST_LENGTHS:
            raise ValueError("has tensors of absurd shapes")
        if node.operator == "Shape":
            inputs = [MOST_AXES]
        if None in inputs:
            continue
        result = _result(node, inputs)
        most -= _size(result)
        if most < 0:
            raise ValueError("computes constants that are far larger than the file")
        constants.update(dict.fromkeys(node.outputs, result))


def _size(shape: Shape) -> int:
    return shape if isinstance(shape, int) else math.prod(shape)


def _result(node: _Node, inputs: list[Shape]) -> Shape:
    """Return the shape of what a node makes of constants, or a bound of its size."""
    if node.operator not in OF_CONSTANTS or not inputs:
        raise ValueError(f"computes constants by {node.operator!r}, as no exported file does")
    sizes = [_size(each) for each in inputs]
    shapes = [each for each in inputs if isinstance(each, tuple)]
    known = len(shapes) == len(inputs)
    if node.operator in ELEMENTWISE:
        return np.broadcast_shapes(*shapes) if known else math.prod(sizes)
    if node.operator == "Transpose" and known and node.axis is None:
        return shapes[0][::-1]
    if node.operator == "Concat":
        return _joined(shapes, node.axis) if known and node.axis is not None else sum(sizes)
    if node.operator == "Gather" and known and (len(shapes[0]) == 1 or len(shapes[1]) <= 1):
        axis = node.axis or 0
        rows = shapes[0][axis] if axis < len(shapes[0]) else 1
        return shapes[1] if len(shapes[0]) == 1 else sizes[0] * sizes[1] // max(1, rows)
    if node.operator == "Gather":  # the axes of both
        raise ValueError("has tensors of absurd shapes")
    return sizes[0]


def _joined(shapes: list[tuple[int, ...]], axis: int) -> Shape:
    if axis >= len(shapes[0]) or len({len(shape) for shape in shapes}) > 1:
        return sum(map(_size, shapes))
    return (*shapes[0][:axis], sum(shape[axis] for shape in shapes), *shapes[0][axis + 1 :])


def _text(part: memoryview) -> str:
    return bytes(part).decode(errors="replace")


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield the number and the content of each field of a protobuf message; a whole number is in its own coding."""
    at = 0
    while at < len(message):
        key, at = _number(message, at)
        length = {0: 0, 1: 8, 5: 4}.get(key & 7)
        if key & 7 == 0:
            length = _number(message, at)[1] - at
        elif key & 7 == 2:
            length, at = _number(message, at)
        if length is None or at + length > len(message):
            raise ValueError("not an ONNX file, or damaged")
        yield key >> 3, message[at : at + length]
        at += length


def _number(message: memoryview, at: int) -> tuple[int, int]:
    """Return the number at a position and the position after it."""
    value = 0
    for shift, byte in enumerate(message[at : at + 10]):
        value |= (byte & 127) << 7 * shift
        if byte < 128:
            return value & (2**64 - 1), at + shift + 1
    raise ValueError("not an ONNX file, or damaged")
