"""Files of `torch.save` that hold tensors: read as data, in memory that the file itself bounds.

A pickle is a program. It is first run with stand-ins for all that it names, which shows what it would call and how much
it would allocate. Then torch reads the same bytes, packed anew: readers of archives differ in what they look at.
"""

import io
import math
import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from modelscope_ext.atomic import atomic_write

#: Names that the pickle of a training state may use.
HARMLESS = re.compile(
    r"collections\.(OrderedDict|Counter)|torch\._utils\._rebuild_(tensor_v2|parameter)|torch\.Size"
    r"|torch\.(float16|bfloat16|float32|float64|int64|uint8)"
)
#: Bytes of a number by the kind of its storage.
SIZES = {"ComplexFloat": 8, "Double": 8, "Long": 8, "Float": 4, "Int": 4, "Half": 2, "BFloat16": 2, "Short": 2}
SIZES |= {"Byte": 1, "Char": 1, "Bool": 1}
#: Entries of an archive besides the storages.
ENTRY = re.compile(
    r"[^/]+/(data\.pkl|byteorder|version|data/\w+|\.(format_version|storage_alignment|data/serialization_id))"
)
#: Pickles of a file before archives: a number, a version, the system, the content, the order of the storages.
OLD_PICKLES = 5
#: Behind the name of a tensor in 8 bits: that of the steps of its rows.
STEPS = ".steps"
#: Numbers, from which on a tensor may be stored in 8 bits, and one of an ONNX file in 16.
LARGE = 1024


class CodeError(ValueError):
    """A pickle that would call something; the message has its name."""


def load_tensors(path: Path) -> Any:
    """Return the content of a file that `torch.save` wrote, on the CPU.

    Raises:
        CodeError: it would call a function that tensors do not need.
        Exception: it is damaged; torch does not document which classes its reader raises.
    """
    content = path.read_bytes()
    if content.startswith(b"PK\3\4"):
        content = _packed_anew(content)
    else:
        file = io.BytesIO(content)
        reader = _StandIns(file, len(content))
        for _ in range(OLD_PICKLES):
            reader.load()
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def save_tensors(content: dict, path: str | Path) -> None:
    """Write `content` by `torch.save`; the file is complete or absent. An `OSError` names the file and the reason."""
    buffer = io.BytesIO()  # torch's own writer does not report a full disk
    torch.save(content, buffer)
    with atomic_write(path) as temp:
        temp.write_bytes(buffer.getbuffer())


def _packed_anew(content: bytes) -> bytes:
    """Return an archive of exactly the entries that were checked."""
    archive, packed = zipfile.ZipFile(io.BytesIO(content)), io.BytesIO()
    if sum(entry.file_size for entry in archive.infolist()) > len(content):
        raise ValueError("its entries are larger than the file")
    entries = {}
    for name in archive.namelist():
        if not ENTRY.fullmatch(name):
            raise ValueError(f"has an entry {name!r:.100}, which no weights have")
        entries[name.partition("/")[2]] = archive.read(name)
    _StandIns(io.BytesIO(entries["data.pkl"]), len(content)).load()
    with zipfile.ZipFile(packed, "w") as out:
        for name, data in entries.items():
            out.writestr(f"archive/{name}", data)
    return packed.getvalue()


class _StandIn:
    """An object of any harmless class that is not needed."""

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Storage:
    """A kind of storage, or one with a number of numbers."""

    def __init__(self, size: int, count: int = 0) -> None:
        self.size, self.count = size, count


class _StandIns(pickle._Unpickler):
    """An unpickler that calls nothing; the one in Python, since that in C reserves memory for any number.

    Args:
        file: the pickle.
        most: bytes that its storages may have together.
    """

    dispatch = {code: load for code, load in pickle._Unpickler.dispatch.items() if code != pickle.BYTEARRAY8[0]}

    def __init__(self, file: BinaryIO, most: int) -> None:
        super().__init__(file, encoding="utf-8")
        self.most, self.storages = most, {}

    def find_class(self, module: str, name: str) -> Any:
        """Return a stand-in for a harmless name."""
        full = f"{module}.{name}"
        if module == "torch" and name.removesuffix("Storage") in SIZES:
            return _Storage(SIZES[name.removesuffix("Storage")])
        if not HARMLESS.fullmatch(full):
            raise CodeError(full)
        return {"OrderedDict": OrderedDict, "Size": tuple, "_rebuild_tensor_v2": _tensor}.get(name, _StandIn)

    def persistent_load(self, pid: Any) -> Any:
        """Return the stand-in of a storage, if there is room for it."""
        _, kind, key, _, count, *_ = pid
        if not (isinstance(count, int) and count >= 0):
            raise ValueError(f"a storage of {count!r:.20} numbers")
        self.storages[key] = max(count * kind.size, self.storages.get(key, 0))
        if sum(self.storages.values()) > self.most:
            raise ValueError("its tensors are larger than the file")
        return _Storage(kind.size, count)


def _tensor(storage: _Storage, offset: int, size: tuple, *unused: Any) -> _StandIn:
    if math.prod(size) > storage.count:
        raise ValueError("a tensor is larger than its storage")
    return _StandIn()


def round_to_8_bits(value: Tensor) -> Tensor:
    """Return a tensor (..., N) whose rows are whole multiples, -127 to 127, of steps of 11 bits: exact products."""
    mantissa, exponent = torch.frexp(value.abs().amax(-1, keepdim=True) / 127)
    steps = torch.ldexp((mantissa * 2048).round(), exponent - 11)
    return (value / steps.where(steps > 0, 1)).round().clamp(-127, 127) * steps


def in_8_bits(value: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return whole numbers (..., N) and steps (..., 1) whose products are this tensor exactly, or None."""
    if value.ndim < 2 or value.numel() < LARGE or value.dtype != torch.float32:
        return None
    steps = value.abs().amax(-1, keepdim=True) / 127
    whole = (value / steps.where(steps > 0, 1)).round()
    return (whole.to(torch.int8), steps) if torch.equal(whole * steps, value) else None


def from_8_bits(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by name in 32 bits where they are stored in 8 and beside them the steps of their rows.

    Raises:
        ValueError: a tensor has steps of another shape or type.
    """
    values = {}
    for name in (name for name in found if name + STEPS in found):
        whole, steps = found[name], found[name + STEPS]
        if whole.dtype != torch.int8 or steps.dtype != torch.float32 or steps.shape != (*whole.shape[:-1], 1):
            raise ValueError(f"{name + STEPS} does not fit {name}")
        values[name] = whole * steps
    used = {name + STEPS for name in values}
    return {name: value for name, value in (found | values).items() if name not in used}


def smallest(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by name in 8 bits and beside them their steps, or in 16 bits, where these hold them exactly."""
    values = {}
    for name, value in found.items():
        if parts := in_8_bits(value):
            values[name], values[name + STEPS] = parts
        else:
            half = value.half() if value.dtype == torch.float32 else value
            values[name] = half if torch.equal(half.to(value.dtype), value) else value
    return values
