"""Sample formats, layouts and levels: which arrays are audio.

Axes: (N,) or (N, channels), float32 in -1 … 1; rates in Hz.
"""

from collections.abc import Mapping

import numpy as np

from modelscope_ext.text import lines_of, printable

#: Rate in Hz of all networks and data sets.
SAMPLE_RATE = 16000
#: libsndfile reads no more.
MAX_CHANNELS = 1024
#: Seconds of audio in memory at a time, all channels together.
CHANNEL_SECONDS = 100.0
#: Channels cancel each other if their mean has less than this share of the power that independent ones have.
CANCELLED = 0.1
#: Integers given as floating point are below it. Far above it the energy of a spectrum overflows.
MAX_SAMPLE = 2.0**31
#: Number of channels → the place in an ogg file of each channel of a wav file.
OGG_ORDER = {3: (0, 2, 1), 5: (0, 2, 1, 3, 4), 6: (0, 2, 1, 5, 3, 4), 7: (0, 2, 1, 6, 5, 3, 4)}
OGG_ORDER[8] = (0, 2, 1, 7, 5, 6, 3, 4)
#: A signal whose lowest and highest samples differ by at most two 16-bit steps is silent.
SILENT_SPAN = 2.0**-14


class AudioError(ValueError):
    """A file or an array that is not usable as audio; the message names it and the reason."""


class ProblemsError(AudioError):
    """Several unusable files: `lines` has a title and one line for each, without line feeds; the message has all."""

    def __init__(self, title: str, problems: Mapping[str, str]) -> None:
        self.lines = [printable(title), *lines_of(problems)]
        self.problems = dict(problems)
        super().__init__("\n".join(self.lines))


def as_float(audio: np.ndarray) -> np.ndarray:
    """Return samples as float32 in -1 … 1. Floating point stays as it is; integers are scaled by their range.

    Unsigned integers have their zero in the middle.

    Raises:
        AudioError: the type is not numeric or samples are NaN, infinite or louder than any integer.
    """
    if audio.dtype.kind == "f":
        if audio.dtype != np.float32:
            with np.errstate(over="ignore"):  # overflow becomes infinite and is refused below
                audio = audio.astype(np.float32)
        if problem := find_problem(audio):
            raise AudioError(f"the audio {problem} (as 32-bit floats)")
        return audio
    if audio.dtype.kind not in "iu":
        raise AudioError(f"audio must be floating point or integers, not {audio.dtype}")
    span = 2.0 ** (8 * audio.dtype.itemsize - 1)
    middle = span if audio.dtype.kind == "u" else 0
    return ((audio.astype(np.float64) - middle) / span).astype(np.float32)


def from_float(audio: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return float32 samples as `dtype` (the inverse of `as_float`); round integers and clip at full scale."""
    if dtype.kind == "f":
        if dtype.itemsize < audio.itemsize:
            audio = audio.clip(np.finfo(dtype).min, np.finfo(dtype).max)
        return audio.astype(dtype, copy=False)
    span = 2.0 ** (8 * dtype.itemsize - 1)
    middle = span if dtype.kind == "u" else 0
    limits = np.iinfo(dtype)
    scaled = np.rint(audio.astype(np.float64) * span) + middle
    return scaled.clip(limits.min, np.nextafter(limits.max + 1.0, 0)).astype(dtype)


def mix(audio: np.ndarray) -> np.ndarray:
    """Return (N, channels) floats as (N,): the mean, or the loudest of channels that cancel each other."""
    if audio.shape[1] == 1:
        return audio[:, 0]
    mean, power = audio.mean(1), np.einsum("nc,nc->c", audio, audio)
    return audio[:, power.argmax()] if np.vdot(mean, mean) < CANCELLED * power.mean() / audio.shape[1] else mean


def from_ogg(audio: np.ndarray) -> np.ndarray:
    """Return (n, channels) samples of an ogg file with the channels in the order of wav files."""
    order = OGG_ORDER.get(audio.shape[1])
    return audio[:, order] if order else audio


def to_ogg(audio: np.ndarray) -> np.ndarray:
    """Return (n, channels) samples with the channels in the order of ogg files: the inverse of `from_ogg`."""
    order = OGG_ORDER.get(audio.shape[1])
    return audio[:, np.argsort(order)] if order else audio


def validate_format(sample_rate: int, channels: int = 1) -> None:
    """Raise AudioError for an impossible rate or number of channels."""
    if not isinstance(sample_rate, (int, np.integer)) or not 1000 <= sample_rate <= 1_000_000:
        raise AudioError(f"sample_rate must be a whole number of Hz, 1000 … 1000000, got {sample_rate!r}")
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(f"need 1 … {MAX_CHANNELS} channels, got {channels}; the shape is (samples, channels)")


def find_problem(samples: np.ndarray, whole: bool = False) -> str | None:
    """Return why floating-point samples are unusable or None.

    Blocks and whole signals must be finite and in range. A whole signal must not be empty or silent either.
    """
    if whole and not samples.size:
        return "empty"
    # The energy is not finite if a sample is not, and too large if a sample is.
    if not np.vdot(samples, samples) <= MAX_SAMPLE**2:
        if not np.isfinite(samples).all():
            return "has NaN or infinite samples"
        if (peak := np.abs(samples).max()) > MAX_SAMPLE:
            return f"has samples of up to {peak:.2g} where full scale is 1"
    return "silent" if whole and np.ptp(samples) <= SILENT_SPAN else None


def block_length(sample_rate: int, channels: int, seconds: float) -> int:
    """Return the samples of a block of `seconds`. Many channels get shorter blocks, for less memory."""
    return max(1, round(min(seconds, CHANNEL_SECONDS / channels) * sample_rate))
