"""Rows of a data set, and the Parquet files that hold them."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow
from pyarrow.parquet import ParquetWriter

from modelscope_ext.atomic import atomic_write

__all__ = ["SAMPLE_RATE", "Row", "on_grid", "write_rows"]

SAMPLE_RATE = 16000


class Row(NamedTuple):
    """noisy, clean: (N,) float32 at 16 kHz, of one length; names: what `path` will say of each."""

    noisy: np.ndarray
    clean: np.ndarray
    names: tuple[str, str]


def on_grid(audio: np.ndarray) -> np.ndarray:
    """Rounded to steps of 1 / 32768; beyond full scale too."""
    return np.rint(audio * np.float32(32768)) / np.float32(32768)


def write_rows(path: Path, groups: Iterable[list[Row]]) -> None:
    """Writes a Parquet file, a row group for each list; `path` appears when it is on the disk, whole."""
    clip = pyarrow.struct(
        {"array": pyarrow.list_(pyarrow.float32()), "sampling_rate": pyarrow.int32(), "path": pyarrow.string()}
    )
    schema = pyarrow.schema({"noisy": clip, "clean": clip, "duration": pyarrow.float64()})
    # The bytes of 16-bit samples as floats are half zeros; put beside each other they compress to nothing.
    layout = {
        "compression": "zstd",
        "use_dictionary": False,
        "use_byte_stream_split": [f"{name}.array.list.element" for name in ("noisy", "clean")],
    }
    with atomic_write(path) as temp, temp.open("wb") as file, ParquetWriter(file, schema, **layout) as parquet:
        for rows in groups:
            columns = [
                _clips([row.noisy for row in rows], [row.names[0] for row in rows], clip),
                _clips([row.clean for row in rows], [row.names[1] for row in rows], clip),
                pyarrow.array([len(row.noisy) / SAMPLE_RATE for row in rows]),
            ]
            parquet.write_table(pyarrow.table(columns, schema=schema))


def _clips(audio: list[np.ndarray], names: list[str], type: pyarrow.StructType) -> pyarrow.StructArray:
    ends = np.cumsum([0, *map(len, audio)], dtype=np.int32)
    arrays = pyarrow.ListArray.from_arrays(ends, np.concatenate(audio).astype(np.float32, copy=False))
    rates = pyarrow.array([SAMPLE_RATE] * len(names), pyarrow.int32())
    return pyarrow.StructArray.from_arrays([arrays, rates, pyarrow.array(names, pyarrow.string())], fields=list(type))
