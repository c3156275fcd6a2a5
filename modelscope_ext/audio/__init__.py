"""Audio files and arrays: reading, writing, rates, channels, sample formats."""

from modelscope_ext.audio.decoders import system_name
from modelscope_ext.audio.files import SUFFIXES, audio_files
from modelscope_ext.audio.loudness import at_loudness, check_loudness
from modelscope_ext.audio.pcm import (
    SAMPLE_RATE,
    AudioError,
    ProblemsError,
    as_float,
    block_length,
    find_problem,
    from_float,
    mix,
    validate_format,
)
from modelscope_ext.audio.reading import AudioFile, open_audio, read_mono, read_native
from modelscope_ext.audio.resample import StreamResampler, resample, response
from modelscope_ext.audio.writing import output_form, require_writable, write_audio, write_like

__all__ = [
    "SAMPLE_RATE",
    "SUFFIXES",
    "AudioError",
    "AudioFile",
    "ProblemsError",
    "StreamResampler",
    "as_float",
    "at_loudness",
    "audio_files",
    "block_length",
    "check_loudness",
    "find_problem",
    "from_float",
    "mix",
    "open_audio",
    "output_form",
    "read_mono",
    "read_native",
    "require_writable",
    "resample",
    "response",
    "system_name",
    "validate_format",
    "write_audio",
    "write_like",
]
