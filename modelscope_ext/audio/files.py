"""Reading, writing and converting audio: all that touches sample formats.

Axes: (N,) or (N, channels), float32 in -1 … 1 unless said otherwise; rates in Hz.
"""

import math
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from modelscope_ext.atomic import atomic_write

__all__ = [
    "SUFFIXES",
    "AudioError",
    "StreamResampler",
    "audio_files",
    "block_length",
    "check_layout",
    "open_audio",
    "output_format",
    "read_blocks",
    "read_mono",
    "resample",
    "why_unusable",
    "write_audio",
]

#: Of libsndfile, when reading or writing fails for a reason that it does not tell.
SYSTEM_ERROR = 2

#: As many as libsndfile reads.
MOST_CHANNELS = 1024
#: Seconds of audio in memory at a time, those of all channels together.
CHANNEL_SECONDS = 100.0
#: Integers given as floating point are below it; far above it the energy of a spectrum overflows.
LOUDEST = 2.0**31
#: Filters of `StreamResampler` have about 50 times as many taps. All whole rates up to it are converted.
MOST_STEPS = 100_000

#: File names that are taken for audio when a folder is searched.
SUFFIXES = frozenset(
    (
        ".wav",
        ".wave",
        ".w64",
        ".rf64",
        ".flac",
        ".ogg",
        ".oga",
        ".opus",
        ".mp3",
        ".aif",
        ".aiff",
        ".aifc",
        ".au",
        ".caf",
    )
)


#: Formats that a file alone does not make: samples without a header, and a second file with the header.
UNWRITTEN = ("RAW", "SD2")


class AudioError(ValueError):
    """A file or an array that is no audio we can use; the message names it and says why."""


def audio_files(folder: Path) -> list[Path]:
    """All audio files below a folder by their suffix, sorted; hidden ones and symbolic links to folders left out."""
    files = (p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    return sorted(p for p in files if not any(part.startswith(".") for part in p.relative_to(folder).parts))


@contextmanager
def open_audio(path: str | Path | BinaryIO) -> Iterator[soundfile.SoundFile]:
    """An open `SoundFile`; a file that cannot be opened is an `AudioError` with its name and the reason.

    `path` may also be a binary file object, which has no name to tell.
    """
    named = f"{path}: " if isinstance(path, (str, Path)) else ""
    try:
        file = soundfile.SoundFile(_regular_file(Path(path)) if named else path)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{named}not readable as audio ({_reason(error)})") from error
    with file:
        try:
            check_layout(file.samplerate, file.channels)
        except AudioError as error:
            raise AudioError(f"{named}{error}") from error
        yield file


def _regular_file(path: Path) -> str | bytes:
    """The name for libsndfile, which does not say why it cannot open a file, and would wait for the end of a pipe."""
    name = _system_name(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            path.open("rb").close()
    except FileNotFoundError as error:
        raise AudioError(f"{path}: no such file") from error
    except OSError as error:
        raise AudioError(f"{path}: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        raise AudioError(f"{path}: is a {'folder' if stat.S_ISDIR(mode) else 'pipe, a socket or a device'}")
    if path.suffix.lower() == ".raw":  # soundfile asks for what we do not know
        raise AudioError(f"{path}: raw samples say neither rate nor channels; modelscope-ext stream takes them")
    return name


def _system_name(path: Path) -> str | bytes:
    """The name for libsndfile, which would stop at a NUL; soundfile by itself takes no bytes that are no UTF-8."""
    text = os.fspath(path)
    with suppress(UnicodeEncodeError):
        name = os.fsencode(text)
        if b"\0" not in name:
            return text if os.name == "nt" or name.decode(errors="replace") == text else name
    raise AudioError(f"{path}: no file can have this name")


def _named(file: soundfile.SoundFile) -> str:
    """What begins a message about an open file."""
    return f"{os.fsdecode(file.name)}: " if isinstance(file.name, (str, bytes)) else ""


def check_layout(sample_rate: int, channels: int = 1) -> None:
    """Raises an `AudioError` for rates and numbers of channels that no audio has."""
    if not isinstance(sample_rate, (int, np.integer)) or not 1000 <= sample_rate <= 1_000_000:
        raise AudioError(f"sample_rate must be a whole number of Hz, 1000 … 1000000, got {sample_rate!r}")
    if not 1 <= channels <= MOST_CHANNELS:
        raise AudioError(f"need 1 … {MOST_CHANNELS} channels, got {channels}; samples go down, channels across")


def block_length(sample_rate: int, channels: int, seconds: float) -> int:
    """Samples of a block of so many seconds, or of fewer where there are many channels."""
    return max(1, round(min(seconds, CHANNEL_SECONDS / channels) * sample_rate))


def why_unusable(samples: np.ndarray) -> str | None:
    """What float32 samples have that no audio has, if they do."""
    # The energy of what is not finite is not finite either, and that of what is too loud is too large.
    if np.vdot(samples, samples) <= LOUDEST**2:
        return None
    if not np.isfinite(samples).all():
        return "NaN or infinite samples"
    peak = np.abs(samples).max()
    return f"samples of up to {peak:.2g} in floating point, which has -1 … 1" if peak > LOUDEST else None


def _reason(error: soundfile.LibsndfileError) -> str:
    return error.error_string.strip().rstrip(".")


def read_blocks(file: soundfile.SoundFile, seconds: float) -> Iterator[np.ndarray]:
    """The rest of an open file in (n, channels) float32 blocks.

    Raises:
        AudioError: the file breaks off or is damaged, or has samples that are not finite; the message names it.
    """
    done, length = 0, block_length(file.samplerate, file.channels, seconds)
    while True:
        try:
            block = file.read(length, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise AudioError(
                f"{_named(file)}damaged after {done / file.samplerate:.2f} s ({_reason(error)})"
            ) from error
        if not len(block):
            break
        if reason := why_unusable(block):
            raise AudioError(f"{_named(file)}has {reason} after {done / file.samplerate:.2f} s")
        done += len(block)
        yield block
    if done < file.frames:
        raise AudioError(f"{_named(file)}cut off, it ends after {done} of {file.frames} samples")


def read_mono(path: str | Path, sample_rate: int) -> np.ndarray:
    """A whole file as (N,) float32 at `sample_rate`, channels averaged; NaN and infinite samples are refused."""
    with open_audio(path) as file:
        blocks = [block.mean(1) for block in read_blocks(file, 60.0)]
        return resample(np.concatenate([np.zeros(0, np.float32), *blocks]), file.samplerate, sample_rate)


def resample(audio: np.ndarray, source_rate: float, target_rate: float) -> np.ndarray:
    """(N,) or (N, channels) audio at another rate."""
    if source_rate == target_rate:
        return audio
    return soxr.resample(audio, source_rate, target_rate)


@contextmanager
def write_audio(
    path: str | Path, sample_rate: int, channels: int, format: str, subtype: str | None
) -> Iterator[soundfile.SoundFile]:
    """Yield a `SoundFile` to write to; `path` appears when the block succeeds, whole, or not at all.

    Raises:
        AudioError: the folder cannot be written to, the disk is full, or the format does not take this audio.
    """
    path = Path(path)
    _system_name(path)
    try:
        with atomic_write(path) as temp:
            temp.touch()  # the system says why it refuses; libsndfile does not
            try:
                with soundfile.SoundFile(
                    _system_name(temp), "w", sample_rate, channels, subtype, format=format
                ) as file:
                    yield file
                    file.flush()
                # libsndfile reports no error when the disk fills up while it writes a header or the last block.
                with soundfile.SoundFile(_system_name(temp)) as written:
                    if written.frames < file.frames:
                        raise AudioError(f"{path}: not written completely; is the disk full?")
                    if written.frames > file.frames:  # some old formats count in blocks
                        raise AudioError(
                            f"{path}: {format} with {file.subtype} has no way to say {file.frames} samples"
                        )
            except soundfile.LibsndfileError as error:
                raise AudioError(f"{path}: cannot be written ({_write_reason(error, path.parent)})") from error
    except OSError as error:
        raise AudioError(str(error)) from error


def _write_reason(error: soundfile.LibsndfileError, folder: Path) -> str:
    if folder.is_dir() and shutil.disk_usage(folder).free < 2**16:
        return "no space left on the disk"
    if error.code == SYSTEM_ERROR:
        return "the system refuses; is there a quota, or a limit on the size of files?"
    return _reason(error)


def output_format(source: soundfile.SoundFile, path: str | Path) -> tuple[str, str | None]:
    """Format and subtype for `path`: the source's where the suffix is the same, else what the suffix asks for."""
    suffix = Path(path).suffix.lower().lstrip(".")
    if suffix == Path(os.fsdecode(source.name)).suffix.lower().lstrip(".") and source.format not in UNWRITTEN:
        return source.format, source.subtype
    names = {"oga": "OGG", "opus": "OGG", "aif": "AIFF", "aifc": "AIFF", "wave": "WAV"}
    format = names.get(suffix, suffix.upper())
    if format not in soundfile.available_formats() or format in UNWRITTEN:
        raise AudioError(f"{path}: no audio format has this suffix; one of {', '.join(sorted(SUFFIXES))} is expected")
    if suffix == "opus":
        return format, "OPUS"
    return format, source.subtype if soundfile.check_format(format, source.subtype) else None


class StreamResampler:
    """Another rate for audio that comes in chunks, with a short linear-phase filter, so that it waits little.

    Args:
        source_rate, target_rate: Hz, whole numbers.
        channels: of the (N, channels) float32 chunks.
        half_length: of the filter, in samples of the lower rate; this is what a sample waits for.

    Raises:
        AudioError: the rates are above 100 kHz and have no large common divisor, so that the filter would be huge.

    Output sample m lies at time m / target_rate: there is no delay to remove, only samples that are not ready yet.
    """

    def __init__(self, source_rate: int, target_rate: int, channels: int, half_length: int = 24) -> None:
        common = math.gcd(source_rate, target_rate)
        self.up, self.down = target_rate // common, source_rate // common
        factor = max(self.up, self.down)
        if factor > MOST_STEPS:
            raise AudioError(
                f"{source_rate} Hz and {target_rate} Hz have too little in common to convert one to the other"
            )
        from scipy.signal import upfirdn  # only where it is needed: importing it takes a good part of a second

        self._upfirdn = upfirdn
        #: Half the filter at the rate source * up; a multiple of `down`, so that outputs fall on whole steps.
        self.half = -(-half_length * factor // self.down) * self.down
        window = np.kaiser(2 * self.half + 1, 7.0)
        taps = np.arange(-self.half, self.half + 1) / factor * 0.92  # the cut-off, just below the lower Nyquist
        self.filter = (np.sinc(taps) * window).astype(np.float64)
        self.filter = (self.filter * self.up / self.filter.sum()).astype(np.float32)
        self.waits = self.half / (source_rate * self.up)  # seconds
        self.buffer = np.zeros((0, channels), np.float32)
        self.start = 0  # input index of the buffer's first sample, a multiple of `down`
        self.fed = self.done = 0  # input samples taken, output samples given

    def feed(self, chunk: np.ndarray) -> np.ndarray:
        """Takes (n, channels) samples, returns those that are ready."""
        self.buffer = np.concatenate((self.buffer, chunk))
        self.fed += len(chunk)
        ready = max(self.done, (self.fed * self.up - self.half - 1) // self.down + 1)
        if ready == self.done:
            return chunk[:0]
        offset = self.half // self.down - self.start * self.up // self.down
        filtered = self._upfirdn(self.filter, self.buffer, self.up, self.down, axis=0)
        out = filtered[self.done + offset : ready + offset]
        self.done = ready
        needed = max(0, (ready * self.down - self.half) // self.up // self.down * self.down)
        self.buffer, self.start = self.buffer[needed - self.start :], needed
        return out

    def flush(self) -> np.ndarray:
        """The rest: in all ceil(n * target_rate / source_rate) samples have come out."""
        missing = -(-self.fed * self.up // self.down) - self.done
        silence = np.zeros((self.half // self.up + self.down + 1, self.buffer.shape[1]), np.float32)
        return self.feed(silence)[:missing]
