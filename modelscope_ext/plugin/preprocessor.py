"""Every form of audio that ModelScope accepts, as 16 kHz mono."""

import io
import os
import time
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any

import numpy as np
from modelscope.fileio import File
from modelscope.preprocessors import Preprocessor
from modelscope.preprocessors.builder import PREPROCESSORS

from modelscope_ext.audio import SAMPLE_RATE, AudioError, as_float, mix, open_audio, resample, validate_format
from modelscope_ext.data.cells import read_cell
from modelscope_ext.models import CRUSE_TYPE, DUAL_PATH_TYPE, FRCRN_TYPE

#: Seconds that a server may be silent, and that a download may take.
SILENT_S, DOWNLOAD_S = 30, 600


@PREPROCESSORS.register_module("audio", module_name=CRUSE_TYPE)
@PREPROCESSORS.register_module("audio", module_name=DUAL_PATH_TYPE)
@PREPROCESSORS.register_module("audio", module_name=FRCRN_TYPE)
class AudioPreprocessor(Preprocessor):
    """A reader of a path, a URL, the bytes of an audio file, an (N,) or (N, channels) array, or a row of a data set.

    A row is an audio cell (see `modelscope_ext.data.cells`), or has such a cell or bytes in its column `noisy`, `audio`
    or `wav`.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(kwargs.get("mode", "inference"))

    def __call__(self, data: Any, sample_rate: int = SAMPLE_RATE, reference: bool = False) -> dict[str, np.ndarray]:
        """Return `{"noisy": (N,) float32}` at 16 kHz with the channels of `mix`.

        Args:
            data: see the class.
            sample_rate: of an array in Hz.
            reference: take the first channel and resample it as in ModelScope's own pipeline.

        Raises:
            AudioError: the audio cannot be used. The message names it and the reason.
        """

        def mono(audio: np.ndarray) -> np.ndarray:
            return audio if audio.ndim == 1 else audio[:, 0] if reference else mix(audio)

        to_16k = _as_stock if reference else resample
        if isinstance(data, Mapping):
            data, sample_rate = _cell(data, sample_rate)
        if hasattr(data, "get_all_samples"):
            data, sample_rate = read_cell(data)
        if isinstance(data, np.ndarray):
            if data.ndim not in (1, 2):
                raise AudioError(f"need (N,) or (N, channels) audio, got shape {data.shape}")
            validate_format(sample_rate, data.shape[1] if data.ndim == 2 else 1)
            return {"noisy": to_16k(mono(as_float(data)), sample_rate, SAMPLE_RATE)}
        if not isinstance(data, (str, os.PathLike, bytes)):
            raise AudioError(f"need a path, a URL, bytes, an array or a row with audio, got {type(data).__name__}")
        name, data = ("the bytes given: ", io.BytesIO(data)) if isinstance(data, bytes) else _place(os.fspath(data))
        try:
            with open_audio(data) as file:
                samples = np.concatenate([np.zeros((0, file.channels), np.float32), *file.blocks(60.0)])
                return {"noisy": to_16k(mono(samples), file.sample_rate, SAMPLE_RATE)}
        except AudioError as error:
            raise AudioError(f"{name}{error}") from error


def _as_stock(audio: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Resample as in ModelScope's own pipeline, which rounds lengths up."""
    if rate == new_rate or not len(audio):
        return audio
    import librosa

    return librosa.resample(audio, orig_sr=rate, target_sr=new_rate)


def _place(name: str) -> tuple[str, str | io.BytesIO]:
    """Return the start of an error message and a path or the content of a URL."""
    if "://" not in name:
        return "", name
    try:
        return f"{name}: ", io.BytesIO(_download(name) if name.startswith(("http://", "https://")) else File.read(name))
    except (OSError, ValueError, AssertionError, ImportError, NotImplementedError, HTTPException) as error:
        raise AudioError(f"{name}: {getattr(error, 'strerror', None) or error}") from error


def _download(url: str) -> bytes:
    """Return the content of a URL, or raise OSError if the server is silent or takes too long."""
    deadline, content = time.monotonic() + DOWNLOAD_S, io.BytesIO()
    with urllib.request.urlopen(url, timeout=SILENT_S) as response:
        while part := response.read1(2**16):
            content.write(part)
            if time.monotonic() > deadline:
                raise TimeoutError(f"took longer than {DOWNLOAD_S} s")
    return content.getvalue()


def _cell(row: Mapping, sample_rate: int) -> tuple[Any, int]:
    """Return the audio of a row, and its rate."""
    if row.get("array") is not None:
        return read_cell({"sampling_rate": sample_rate, **row})
    for key in ("bytes", "path"):
        if row.get(key) is not None:
            return row[key], sample_rate
    for column in ("noisy", "audio", "wav"):
        if column in row:
            cell = row[column]
            if isinstance(cell, Mapping):
                return _cell(cell, sample_rate)
            samples = hasattr(cell, "__array__") or isinstance(cell, list)
            return read_cell({"array": cell, "sampling_rate": sample_rate}) if samples else (cell, sample_rate)
    raise AudioError(f"no audio in a row with {', '.join(map(str, row)) or 'nothing'}; looked for noisy, audio and wav")
