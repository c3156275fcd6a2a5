"""Check of ONNX files before onnxruntime loads them: their weights lie in them, dense, and nowhere else.

A sparse tensor of a few bytes becomes gigabytes when it is loaded, and a tensor may lie in any file beside the model.
`modelscope-ext export` writes neither. The numbers are those of fields in `onnx.proto`.
"""

from collections.abc import Iterator
from pathlib import Path

#: Most bytes of a file: protobuf reads no larger ones.
MOST_BYTES = 2**31 - 1
GRAPH, TRAINING, FUNCTIONS = 7, 20, 25
NODE, INITIALIZER, SPARSE = 1, 5, 15
ATTRIBUTE = 5
#: Of an attribute: a tensor, a graph, tensors, graphs, a sparse tensor, sparse tensors.
INNER = (5, 6, 10, 11, 22, 23)
#: Of a tensor: where external data are, and that they are.
ELSEWHERE = (13, 14)


def read_checked(path: Path) -> bytes:
    """Return the content of an ONNX file that takes about its own size in memory when it is loaded.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is too large or damaged, or has sparse or external weights, or graphs within its graph.
    """
    size = path.stat().st_size
    if not 0 < size <= MOST_BYTES:
        raise ValueError(f"has {size:,} bytes, which no exported file has")
    content = path.read_bytes()
    for number, graph in _fields(memoryview(content)):
        if number in (TRAINING, FUNCTIONS):
            raise ValueError("has functions or a training graph, which no exported file has")
        for kind, part in _fields(graph) if number == GRAPH else ():
            _check(kind, part)
    return content


def _check(kind: int, part: memoryview) -> None:
    if kind == SPARSE:
        raise ValueError("has sparse weights, which may take any memory")
    if kind == INITIALIZER and any(number in ELSEWHERE for number, _ in _fields(part)):
        raise ValueError("has weights in another file")
    for number, attribute in _fields(part) if kind == NODE else ():
        if number == ATTRIBUTE and any(inner in INNER for inner, _ in _fields(attribute)):
            raise ValueError("has tensors or graphs in a node, which no exported file has")


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield the number and the content of each field of a protobuf message; numbers have none."""
    at = 0
    while at < len(message):
        key, at = _number(message, at)
        length = {0: 0, 1: 8, 5: 4}.get(key & 7)
        if key & 7 == 0:
            _, at = _number(message, at)
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
