"""Whatever ModelScope takes for audio, as 16 kHz mono."""

import io
from typing import Any

import numpy as np
from modelscope.fileio import File
from modelscope.preprocessors import Preprocessor
from modelscope.preprocessors.builder import PREPROCESSORS

from modelscope_ext.audio import AudioError, open_audio, read_blocks, resample
from modelscope_ext.plugin.names import CRUSE_TYPE
from modelscope_ext.streaming import as_float

__all__ = ["AudioPreprocessor"]

SAMPLE_RATE = 16000


@PREPROCESSORS.register_module("audio", module_name=CRUSE_TYPE)
class AudioPreprocessor(Preprocessor):
    """Takes a path, a URL, the bytes of an audio file, or an array of (N,) or (N, channels) samples.

    Returns `{"noisy": (N,) float32}` at 16 kHz, channels averaged. An array's rate is `sample_rate` (16000 Hz where it
    is not given).
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(kwargs.get("mode", "inference"))

    def __call__(self, data: Any, sample_rate: int = SAMPLE_RATE) -> dict[str, np.ndarray]:
        """Reads the audio; `AudioError` names what cannot be used and says why."""
        if isinstance(data, np.ndarray):
            audio = as_float(data)
            return {"noisy": resample(audio if audio.ndim == 1 else audio.mean(1), sample_rate, SAMPLE_RATE)}
        name = data if isinstance(data, str) else "the bytes given"
        if isinstance(data, str):
            data = File.read(data)
        if not isinstance(data, bytes):
            raise AudioError(f"need a path, a URL, bytes or an array, got {type(data).__name__}")
        try:
            with open_audio(io.BytesIO(data)) as file:
                mono = np.concatenate([np.zeros(0, np.float32), *(b.mean(1) for b in read_blocks(file, 60.0))])
                return {"noisy": resample(mono, file.samplerate, SAMPLE_RATE)}
        except AudioError as error:
            raise AudioError(f"{name}: {error}") from error
