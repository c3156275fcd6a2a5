"""Audio files and arrays: reading, writing, rates, channels, sample formats."""

from modelscope_ext.audio.files import SUFFIXES, audio_files, output_format, require_writable, write_audio
from modelscope_ext.audio.pcm import (
    SAMPLE_RATE,
    AudioError,
    as_float,
    block_length,
    find_problem,
    from_float,
    validate_format,
)
from modelscope_ext.audio.reading import open_audio, read_mono, read_native
from modelscope_ext.audio.resample import StreamResampler, resample, response

__all__ = [
    "SAMPLE_RATE",
    "SUFFIXES",
    "AudioError",
    "StreamResampler",
    "as_float",
    "audio_files",
    "block_length",
    "find_problem",
    "from_float",
    "open_audio",
    "output_format",
    "read_mono",
    "read_native",
    "require_writable",
    "resample",
    "response",
    "validate_format",
    "write_audio",
]
