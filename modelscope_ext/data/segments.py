"""Clips of a data set cut into training segments: what the model card calls `to_segment`, for any form of audio column.

A cell is one clip of a column; audio is (N,), or (channels, N) as `datasets` has it, and comes out at 16 kHz, mono.
"""

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modelscope_ext.audio import AudioError, read_mono, resample

__all__ = ["to_segment"]

SAMPLE_RATE = 16000


def to_segment(
    batch: Mapping[str, Any], segment_length: int = SAMPLE_RATE, keep_remainder: bool = False
) -> dict[str, list[np.ndarray]]:
    """Segments of the noisy and the clean clips of a batch, one after the other.

    For `dataset.map(to_segment, batched=True, remove_columns=["duration"])`; any other column must be removed too. On
    clips at 16 kHz the samples are those of ModelScope's function of this name, whose place this one takes. Where a
    batch comes from `map`, the samples are taken from the table underneath: that is ten times as fast, and an `Audio`
    column is decoded without torchcodec.

    Args:
        batch: columns `noisy` and `clean`. A cell is a dict with `array` and `sampling_rate` (without it: 16 kHz), a
            dict with `bytes` or `path`, a path, or a decoder whose `get_all_samples()` has `data` and `sample_rate`.
        segment_length: samples of a segment at 16 kHz.
        keep_remainder: whether the end of each clip, and a clip shorter than a segment, becomes a segment too,
            filled up with zeros; else it is left out.

    Raises:
        AudioError: a cell is no audio; the message names the column, the row of the batch and the file.
    """
    if segment_length < 1:
        raise ValueError(f"segment_length must be at least 1 sample, got {segment_length}")
    segments: dict[str, list[np.ndarray]] = {"noisy": [], "clean": []}
    for row, cells in enumerate(zip(_cells(batch, "noisy"), _cells(batch, "clean"), strict=True)):
        clips = {name: _decode(cell, name, row) for name, cell in zip(segments, cells, strict=True)}
        length = min(len(clip) for clip in clips.values())
        whole = length // segment_length * segment_length
        for name, clip in clips.items():
            segments[name] += [clip[at : at + segment_length] for at in range(0, whole, segment_length)]
            if keep_remainder and whole < length:
                segments[name].append(np.pad(clip[whole:length], (0, whole + segment_length - length)))
    return segments


def _cells(batch: Mapping[str, Any], name: str) -> Iterator[Any]:
    """The cells of a column, one at a time."""
    if name in getattr(batch, "keys_to_format", ()):  # a batch of `datasets` whose column nobody has looked at yet
        from datasets.formatting.formatting import LazyRow

        batched = not isinstance(batch, LazyRow)
        column = map(_from_arrow, batch.pa_table[name])
    else:
        batched = not isinstance(batch[name], (Mapping, str, Path))
        column = iter(batch[name])
    if not batched:
        raise ValueError("to_segment takes whole batches: dataset.map(to_segment, batched=True, ...)")
    return column


def _from_arrow(scalar: Any) -> Any:
    """An Arrow scalar as a cell, its samples not copied."""
    value = getattr(scalar, "value", scalar)  # what an extension type is stored as
    if not (isinstance(value, Mapping) and "array" in value and hasattr(value["array"], "values")):
        return scalar.as_py()
    cell = {key: item.as_py() for key, item in value.items() if key != "array"}
    samples = value["array"].values
    return {**cell, "array": None if samples is None else samples.to_numpy(zero_copy_only=False)}


def _decode(cell: Any, name: str, row: int) -> np.ndarray:
    """The (N,) samples of a cell at 16 kHz; at that rate they keep their type."""
    path = cell.get("path") if isinstance(cell, Mapping) else cell if isinstance(cell, (str, Path)) else None
    where = f"row {row} of the batch, {name}" + (f" ({path})" if path else "")
    if isinstance(cell, Mapping) and cell.get("array") is not None:
        audio, rate = np.asarray(cell["array"]), cell.get("sampling_rate") or SAMPLE_RATE
    elif hasattr(cell, "get_all_samples"):
        samples = cell.get_all_samples()
        audio, rate = np.asarray(samples.data), samples.sample_rate
    elif isinstance(cell, Mapping) and cell.get("bytes") is not None:
        file = io.BytesIO(cell["bytes"])
        try:
            return read_mono(file, SAMPLE_RATE)
        except AudioError as error:
            raise AudioError(f"{where}: {str(error).removeprefix(f'{file}: ')}") from error
    elif path:
        try:
            return read_mono(path, SAMPLE_RATE)
        except AudioError as error:
            raise AudioError(f"row {row} of the batch, {name}: {error}") from error
    else:
        given = f"a dict of {', '.join(cell)}" if isinstance(cell, Mapping) else type(cell).__name__
        raise AudioError(f"{where}: need a dict with array, bytes or path, a path or a decoder, got {given}")
    if audio.ndim not in (1, 2):
        raise AudioError(f"{where}: need (N,) or (channels, N) samples, got shape {audio.shape}")
    if audio.ndim == 2:
        audio = audio.mean(0)
    if rate == SAMPLE_RATE:
        return audio
    return resample(audio if audio.dtype in (np.float32, np.float64) else audio.astype(np.float32), rate, SAMPLE_RATE)
