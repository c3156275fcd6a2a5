"""Batches of training: which samples a process takes, and rows of data sets.

Rows are {"noisy": (N,), "clean": (N,)} float32 at 16 kHz; batches of them {"noisy": (B, N), "clean": (B, N)}.
"""

import signal
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from modelscope_ext.audio import AudioError
from modelscope_ext.data.cells import from_arrow, read_mono_cell
from modelscope_ext.data.segments import find_row_problem
from modelscope_ext.training.distributed import rank, world_size

COLUMNS = ("noisy", "clean")
#: Rows that are checked before the first step. Every batch is checked again.
CHECKED_ROWS = 20_000


def positions(start: int, stop: int, batch: int) -> Iterator[int]:
    """Yield the sample numbers of the steps `start` … `stop` of this process: `batch` a step."""
    for step in range(start, stop):
        first = (step * world_size() + rank()) * batch
        yield from range(first, first + batch)


def data_loader(
    data: Dataset, batch: int, samples: Iterable[int], workers: int, device: torch.device, collate: Any = None
) -> DataLoader:
    """Return a loader that leaves torch's generator alone. Its workers ignore the signals that stop a run."""
    return DataLoader(
        data,
        batch,
        sampler=samples,
        num_workers=workers,
        collate_fn=collate,
        generator=torch.Generator(),  # of the workers' seeds
        prefetch_factor=4 if workers else None,
        worker_init_fn=_ignore_signals,
        pin_memory=device.type == "cuda",
    )


def _ignore_signals(worker: int) -> None:
    """Ignore signals to the process group: the step in progress needs its data."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class BadDataError(ValueError):
    """Rows that cannot be trained on. The message names them and the reason."""


class Segments(Dataset):
    """Rows of any data set with columns noisy and clean, as {"noisy": (N,), "clean": (N,)} float32 at 16 kHz.

    A row whose noisy signal is silent teaches nothing: the next one that is not silent is given instead.

    Args:
        rows: a PyTorch or a Hugging Face data set, with cells as `modelscope_ext.data.cells` lists them.
    """

    def __init__(self, rows: Any) -> None:
        self.from_arrow = hasattr(rows, "with_format")
        # Other formats decode, which needs torchcodec, or change the type of the samples.
        self.rows = rows.with_format("arrow") if self.from_arrow else rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        for number in range(len(self)):
            if not is_silent(row := self.plain(index + number)):
                return row
        raise BadDataError("all rows are silent")

    def plain(self, index: int) -> dict[str, np.ndarray]:
        """Return a row, silent or not. The first follows the last."""
        index %= len(self)
        try:
            return {name: read_mono_cell(cell).astype(np.float32, copy=False) for name, cell in self.cells(index)}
        except AudioError as error:
            raise BadDataError(f"row {index}: {error}") from error

    def has_clips(self) -> bool:
        """Return True if the cells are clips with a rate, not bare samples."""
        return not all(hasattr(cell, "__array__") or isinstance(cell, list) for _, cell in self.cells(0))

    def cells(self, index: int) -> list[tuple[str, Any]]:
        """Return the names and cells of a row as they are stored."""
        row = self.rows[index]
        if not self.from_arrow:
            return [(name, row[name]) for name in COLUMNS if name in row]
        return [(name, from_arrow(row[name][0])) for name in COLUMNS if name in row.column_names]


def is_silent(row: dict) -> bool:
    """Return True if the noisy signal of a row is digital silence."""
    return "noisy" in row and len(row["noisy"]) > 0 and not np.any(row["noisy"])


def check_rows(rows: Segments, name: str, limit: int = CHECKED_ROWS) -> list[int]:
    """Check all rows, or `limit` evenly spaced ones; return the indices of those that are silent.

    Raises:
        BadDataError: rows cannot be trained on, or all are silent. The message names up to ten of them.
    """
    count = len(rows)
    if not count:
        raise BadDataError(f"{name}: has no rows")
    problems, silent = [], []
    checked = range(count) if count <= limit else np.linspace(0, count - 1, limit).astype(int).tolist()
    for index in checked:
        try:
            row = rows.plain(index)
            problem = find_row_problem(row) and f"row {index}: {find_row_problem(row)}"
        except BadDataError as error:
            problem = str(error)
        if problem:
            problems.append(problem)
        elif is_silent(row):
            silent.append(index)
        if len(problems) == 10:
            problems.append("and perhaps more")
            break
    if problems:
        raise BadDataError(f"{name}: " + "; ".join(problems))
    if len(silent) == len(checked):
        raise BadDataError(f"{name}: all rows are silent")
    return silent


def collate(rows: list[dict]) -> dict[str, Tensor]:
    """Stack rows of one length or raise BadDataError for an invalid row before it reaches the optimizer."""
    for row in rows:
        if problem := find_row_problem(row):
            raise BadDataError(f"a row of the data {problem}")
    lengths = {len(row["noisy"]) for row in rows}
    if len(lengths) > 1:
        raise BadDataError(f"rows of {', '.join(map(str, sorted(lengths)))} samples in one batch; use to_segment")
    return {
        column: torch.from_numpy(np.stack([np.asarray(row[column], np.float32) for row in rows])) for column in COLUMNS
    }
