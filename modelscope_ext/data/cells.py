"""Cells of audio columns, in every form that `datasets` yields them.

A cell is a dict with `array` and `sampling_rate` (default 16 kHz), a dict with `bytes` or `path`, a path, a decoder
whose `get_all_samples()` has `data` and `sample_rate`, or an array at 16 kHz. Arrays are (N,), (channels, N) or
(N, channels).
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modelscope_ext.audio import SAMPLE_RATE, AudioError, as_float, mix, read_native, resample, validate_format

#: In an array of two axes the shorter one, up to this length, is that of the channels.
MOST_CHANNELS = 64
#: Types that stay as they are.
FLOATS = (np.float32, np.float64)


def read_cell(cell: Any) -> tuple[np.ndarray, int]:
    """Return the samples of a cell, (N,) or (N, channels), and their rate in Hz; integers are scaled by their range.

    Raises:
        AudioError: the cell is not audio, or it is unclear what its numbers are. The message names its path, if any.
    """
    is_dict = isinstance(cell, Mapping)
    path = cell.get("path") if is_dict else cell if isinstance(cell, (str, Path)) else None
    try:
        if is_dict and cell.get("array") is not None:
            return _samples(cell["array"]), _rate(cell.get("sampling_rate", SAMPLE_RATE))
        if hasattr(cell, "get_all_samples"):
            decoded = cell.get_all_samples()
            return _samples(np.asarray(decoded.data).T, turned=True), _rate(decoded.sample_rate)
        if is_dict and cell.get("bytes") is not None:
            return read_native(io.BytesIO(cell["bytes"]))
    except (AudioError, RuntimeError, OSError) as error:  # decoders of others raise what they like
        raise AudioError(f"{path}: {error}" if path else str(error)) from error
    if path:
        return read_native(path)
    if hasattr(cell, "__array__") or isinstance(cell, (list, tuple)):
        return _samples(cell), SAMPLE_RATE
    given = f"a dict of {', '.join(map(str, cell))}" if is_dict else type(cell).__name__
    raise AudioError(f"need a dict with array, bytes or path, a path or a decoder, got {given}")


def read_mono_cell(cell: Any) -> np.ndarray:
    """Return the (N,) samples of a cell at 16 kHz; floats of 32 and 64 bits at that rate keep their type.

    Raises:
        AudioError: see `read_cell`.
    """
    audio, rate = read_cell(cell)
    return resample(mix(audio) if audio.ndim == 2 else audio, rate, SAMPLE_RATE)


def from_arrow(scalar: Any) -> Any:
    """Return an Arrow scalar as a cell, without a copy of its samples."""
    value = getattr(scalar, "value", scalar)  # the storage of an extension type
    if isinstance(value, Mapping) and "array" in value:
        return {key: from_arrow(item) if key == "array" else item.as_py() for key, item in value.items()}
    samples = None if isinstance(value, Mapping) else getattr(value, "values", None)
    if samples is None or samples.type.num_fields:  # lists of lists
        return scalar.as_py()
    return samples.to_numpy(zero_copy_only=False)


def _samples(array: Any, turned: bool = False) -> np.ndarray:
    """Return floats (N,) or (N, channels); `turned` says that the last axis is surely that of the channels."""
    try:
        audio = np.asarray(array)
    except ValueError as error:
        raise AudioError(f"not an array of samples ({error})") from error
    if audio.ndim not in (1, 2):
        raise AudioError(f"need (N,), (channels, N) or (N, channels) samples, got shape {audio.shape}")
    if not audio.size:
        return np.zeros(0, audio.dtype if audio.dtype in FLOATS else np.float32)
    if audio.ndim == 2 and not turned:
        if min(audio.shape) > MOST_CHANNELS or audio.shape[0] == audio.shape[1] > 1:
            raise AudioError(f"need (channels, N) or (N, channels) samples, got shape {audio.shape}")
        audio = audio.T if audio.shape[0] < audio.shape[1] else audio
    if audio.dtype.kind in "iu" and audio.dtype.itemsize > 4:
        raise AudioError(f"the full scale of {audio.dtype} samples is unclear: give floats in -1 … 1, or int16")
    return audio if audio.dtype in FLOATS else as_float(audio)


def _rate(given: Any) -> int:
    try:
        rate = int(given)
    except (TypeError, ValueError, OverflowError) as error:
        raise AudioError(f"not a rate in Hz: {given!r}") from error
    validate_format(rate)
    return rate
