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

from modelscope_ext.audio import SAMPLE_RATE, resample
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

    Args:
        rows: a PyTorch or a Hugging Face data set. A cell is (N,) samples at 16 kHz or a dict with `array` and
            `sampling_rate`.
    """

    def __init__(self, rows: Any) -> None:
        self.rows = rows.with_format("numpy") if hasattr(rows, "with_format") else rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        row = self.rows[index]
        return {column: _samples(row[column]) for column in COLUMNS if column in row}


def _samples(cell: Any) -> np.ndarray:
    if not isinstance(cell, dict):
        return np.asarray(cell, np.float32)
    if "array" not in cell:
        raise BadDataError(f"an audio cell has {', '.join(cell)} instead of array; use modelscope_ext.to_segment")
    audio = np.asarray(cell["array"], np.float32)
    return resample(audio, int(cell.get("sampling_rate", SAMPLE_RATE)), SAMPLE_RATE)


def check_rows(rows: Dataset, name: str, limit: int = CHECKED_ROWS) -> None:
    """Check all rows or `limit` evenly spaced ones.

    Raises:
        BadDataError: rows cannot be trained on. The message names up to ten of them.
    """
    count = len(rows)
    if not count:
        raise BadDataError(f"{name}: has no rows")
    problems = []
    for index in range(count) if count <= limit else np.linspace(0, count - 1, limit).astype(int).tolist():
        if problem := find_row_problem(rows[index]):
            problems.append(f"row {index}: {problem}")
        if len(problems) == 10:
            problems.append("and perhaps more")
            break
    if problems:
        raise BadDataError(f"{name}: " + "; ".join(problems))


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
