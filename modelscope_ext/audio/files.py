"""Audio files by libsndfile: finding, opening, reading and writing them.

Axes: (N,) or (N, channels), float32 in -1 … 1; rates in Hz.
"""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from modelscope_ext.atomic import atomic_write
from modelscope_ext.audio.pcm import AudioError, block_length, find_problem, validate_format
from modelscope_ext.audio.resample import resample

#: Suffixes of audio files in a folder.
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
#: Formats of more than one file, or without a header. They are not written.
UNWRITTEN = ("RAW", "SD2")
#: libsndfile's code for an error of the system, which it does not describe.
SYSTEM_ERROR = 2
#: Seconds that are decoded at a time.
BLOCK_S = 60.0


def audio_files(folder: Path) -> list[Path]:
    """Return all audio files below a folder in sorted order; skip hidden ones and links to folders."""
    files = (p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    return sorted(p for p in files if not any(part.startswith(".") for part in p.relative_to(folder).parts))


@contextmanager
def open_audio(path: str | Path | BinaryIO) -> Iterator[soundfile.SoundFile]:
    """Open an audio file or a binary file object for reading.

    Raises:
        AudioError: the file cannot be opened. The message has the name of a path and the reason.
    """
    name = f"{path}: " if isinstance(path, (str, Path)) else ""
    try:
        file = soundfile.SoundFile(_regular_file(Path(path)) if name else path)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{name}not readable as audio ({_reason(error)})") from error
    with file:
        try:
            validate_format(file.samplerate, file.channels)
        except AudioError as error:
            raise AudioError(f"{name}{error}") from error
        yield file


def read_blocks(file: soundfile.SoundFile, seconds: float) -> Iterator[np.ndarray]:
    """Yield the rest of an open file in (n, channels) float32 blocks.

    Raises:
        AudioError: the file is cut off or damaged, or has unusable samples. The message names it.
    """
    done, length = 0, block_length(file.samplerate, file.channels, seconds)
    name = f"{os.fsdecode(file.name)}: " if isinstance(file.name, (str, bytes)) else ""
    while True:
        try:
            block = file.read(length, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise AudioError(f"{name}damaged after {done / file.samplerate:.2f} s ({_reason(error)})") from error
        if not len(block):
            break
        if problem := find_problem(block):
            raise AudioError(f"{name}{problem} after {done / file.samplerate:.2f} s")
        done += len(block)
        yield block
    if done < file.frames:
        raise AudioError(f"{name}cut off, it ends after {done} of {file.frames} samples")


def read_native(path: str | Path | BinaryIO) -> tuple[np.ndarray, int]:
    """Return a whole file as (N,) float32 with averaged channels and its rate.

    Raises:
        AudioError: see `open_audio` and `read_blocks`.
    """
    with open_audio(path) as file:
        blocks = [block.mean(1) for block in read_blocks(file, BLOCK_S)]
        return np.concatenate([np.zeros(0, np.float32), *blocks]), file.samplerate


def read_mono(path: str | Path | BinaryIO, sample_rate: int) -> np.ndarray:
    """Return a whole file as (N,) float32 at `sample_rate` with averaged channels.

    Raises:
        AudioError: see `open_audio` and `read_blocks`.
    """
    return resample(*read_native(path), sample_rate)


@contextmanager
def write_audio(
    path: str | Path, sample_rate: int, channels: int, format: str, subtype: str | None
) -> Iterator[soundfile.SoundFile]:
    """Yield a `SoundFile` to write to; a whole `path` appears when the block succeeds.

    Raises:
        AudioError: the folder cannot be written to, the disk is full or the format does not take this audio.
    """
    path = Path(path)
    _system_name(path)
    try:
        with atomic_write(path) as temp:
            temp.touch()  # the system reports why it refuses; libsndfile does not
            name = _system_name(temp)
            try:
                with soundfile.SoundFile(name, "w", sample_rate, channels, subtype, format=format) as file:
                    yield file
                    file.flush()
                # libsndfile reports no error when the disk fills up while it writes a header or the last block.
                with soundfile.SoundFile(name) as written:
                    if written.frames < file.frames:
                        raise AudioError(f"{path}: not written completely; is the disk full?")
                    if written.frames > file.frames:  # some old formats count in blocks
                        raise AudioError(f"{path}: {format} with {file.subtype} cannot store {file.frames} samples")
            except soundfile.LibsndfileError as error:
                raise AudioError(f"{path}: cannot be written ({_write_reason(error, path.parent)})") from error
    except OSError as error:
        raise AudioError(str(error)) from error


def output_format(source: soundfile.SoundFile, path: str | Path) -> tuple[str, str | None]:
    """Return format and subtype for `path`: those of the source for the same suffix, else those of the suffix.

    Raises:
        AudioError: the suffix belongs to no audio format.
    """
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


def _regular_file(path: Path) -> str | bytes:
    """Return the name for libsndfile; it would wait for the end of a pipe and gives no reason for a failure.

    Raises:
        AudioError: there is no regular file to open.
    """
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
    if path.suffix.lower() == ".raw":  # soundfile asks for rate and channels
        raise AudioError(f"{path}: raw samples have no header with rate and channels; use modelscope-ext stream")
    return name


def _system_name(path: Path) -> str | bytes:
    """Return the name for libsndfile; it stops at a NUL and soundfile alone refuses names outside UTF-8."""
    text = os.fspath(path)
    with suppress(UnicodeEncodeError):
        name = os.fsencode(text)
        if b"\0" not in name:
            return text if os.name == "nt" or name.decode(errors="replace") == text else name
    raise AudioError(f"{path}: no file can have this name")


def _reason(error: soundfile.LibsndfileError) -> str:
    return error.error_string.strip().rstrip(".")


def _write_reason(error: soundfile.LibsndfileError, folder: Path) -> str:
    if folder.is_dir() and shutil.disk_usage(folder).free < 2**16:
        return "no space left on the disk"
    if error.code == SYSTEM_ERROR:
        return "the system refuses; is there a quota, or a limit on the size of files?"
    return _reason(error)
