"""Reading, writing and converting audio: all that touches sample formats.

Axes: (N,) or (N, channels), float32 in -1 … 1 unless said otherwise; rates in Hz.
"""

import math
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr
from scipy.signal import upfirdn

__all__ = [
    "SUFFIXES",
    "AudioError",
    "StreamResampler",
    "audio_files",
    "open_audio",
    "output_format",
    "read_blocks",
    "read_mono",
    "remove_left_behind",
    "resample",
    "write_audio",
]

#: Of libsndfile, when reading or writing fails for a reason that it does not tell.
SYSTEM_ERROR = 2

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
    try:
        file = soundfile.SoundFile(path)
    except soundfile.LibsndfileError as error:
        if not isinstance(path, (str, Path)):
            raise AudioError(f"not readable as audio ({_reason(error)})") from error
        path = Path(path)
        if not path.exists():
            raise AudioError(f"{path}: no such file") from error
        if path.is_dir():
            raise AudioError(f"{path}: is a folder") from error
        try:
            path.open("rb").close()
        except OSError as denied:
            raise AudioError(f"{path}: {denied.strerror}") from error
        raise AudioError(f"{path}: not readable as audio ({_reason(error)})") from error
    with file:
        yield file


def _reason(error: soundfile.LibsndfileError) -> str:
    return error.error_string.strip().rstrip(".")


def read_blocks(file: soundfile.SoundFile, seconds: float) -> Iterator[np.ndarray]:
    """The rest of an open file in (n, channels) float32 blocks.

    Raises:
        AudioError: the file breaks off or is damaged, or has NaN or infinite samples; the message names it.
    """
    done = 0
    while True:
        try:
            block = file.read(round(seconds * file.samplerate), dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise AudioError(f"{file.name}: damaged after {done / file.samplerate:.2f} s ({_reason(error)})") from error
        if not len(block):
            break
        if not np.isfinite(block).all():
            raise AudioError(f"{file.name}: has NaN or infinite samples after {done / file.samplerate:.2f} s")
        done += len(block)
        yield block
    if done < file.frames:
        raise AudioError(f"{file.name}: cut off, it ends after {done} of {file.frames} samples")


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
    """A `SoundFile` to write to; `path` appears when the block ends, whole, or not at all.

    Raises:
        AudioError: the folder cannot be written to, the disk is full, or the format does not take this audio.
    """
    path = Path(path)
    half = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.half")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        half.touch()  # the system says why it refuses; libsndfile does not
        with soundfile.SoundFile(half, "w", sample_rate, channels, subtype, format=format) as file:
            yield file
            file.flush()
        # libsndfile says nothing when the disk fills up while it writes a header or its last block.
        with soundfile.SoundFile(half) as written:
            if written.frames != file.frames:
                raise AudioError(f"{path}: not written completely; is the disk full?")
        half.replace(path)
    except soundfile.LibsndfileError as error:
        full = path.parent.is_dir() and shutil.disk_usage(path.parent).free < 2**16
        reason = "no space left on the disk" if full else _reason(error)
        if error.code == SYSTEM_ERROR and not full:
            reason = "the system refuses; is there a quota, or a limit on the size of files?"
        raise AudioError(f"{path}: cannot be written ({reason})") from error
    except OSError as error:
        raise AudioError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        with suppress(OSError):  # on a read-only disk there is nothing to remove
            half.unlink()


def remove_left_behind(folder: Path) -> None:
    """Removes what `write_audio` of killed processes left in a folder; what is younger than an hour may be in use."""
    for half in folder.glob(".*.half"):
        if re.fullmatch(r"\..+\.\d+-\d+\.half", half.name):
            with suppress(OSError):
                if time.time() - half.stat().st_mtime > 3600:
                    half.unlink()


def output_format(source: soundfile.SoundFile, path: str | Path) -> tuple[str, str | None]:
    """Format and subtype for `path`: the source's where the suffix is the same, else what the suffix asks for."""
    suffix = Path(path).suffix.lower().lstrip(".")
    if suffix == Path(source.name).suffix.lower().lstrip("."):
        return source.format, source.subtype
    names = {"oga": "OGG", "opus": "OGG", "aif": "AIFF", "aifc": "AIFF", "wave": "WAV"}
    format = names.get(suffix, suffix.upper())
    if format not in soundfile.available_formats():
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

    Output sample m lies at time m / target_rate: there is no delay to remove, only samples that are not ready yet.
    """

    def __init__(self, source_rate: int, target_rate: int, channels: int, half_length: int = 24) -> None:
        common = math.gcd(source_rate, target_rate)
        self.up, self.down = target_rate // common, source_rate // common
        factor = max(self.up, self.down)
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
        filtered = upfirdn(self.filter, self.buffer, self.up, self.down, axis=0)
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
