"""Audio files: finding them in folders, and writing them by libsndfile."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import soundfile

from modelscope_ext.atomic import atomic_write
from modelscope_ext.audio.decoders import system_name
from modelscope_ext.audio.pcm import AudioError
from modelscope_ext.audio.reading import AudioFile

#: Suffixes of audio files that are written, and of all audio and video files.
WRITTEN = frozenset((".wav", ".wave", ".w64", ".rf64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff"))
WRITTEN |= {".aifc", ".au", ".caf", ".voc"}
SUFFIXES = WRITTEN | {".m4a", ".m4b", ".m4r", ".mp4", ".m4v", ".mov", ".f4v", ".3gp", ".3gpp", ".3g2", ".3ga", ".aac"}
SUFFIXES |= {".mkv", ".mka", ".webm", ".weba", ".wma", ".wmv", ".asf", ".avi", ".flv", ".ogv", ".ogx", ".spx", ".mxf"}
SUFFIXES |= {".amr", ".awb", ".qcp", ".gsm", ".ac3", ".eac3", ".dts", ".ape", ".tta", ".wv", ".mpc", ".tak", ".dsf"}
SUFFIXES |= {".mp1", ".mp2", ".mpga", ".mpg", ".mpeg", ".m2ts", ".mts", ".vob", ".ra", ".rm", ".snd", ".sph", ".nut"}
#: Suffix → format of libsndfile, where it is not the suffix in capitals.
NAMES = {"oga": "OGG", "opus": "OGG", "aif": "AIFF", "aifc": "AIFF", "wave": "WAV"}
#: Subtypes that belong to their format; in another format its default is written.
LOSSY = ("VORBIS", "OPUS", "MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III")
#: Formats of more than one file, or without a header. They are not written.
UNWRITTEN = ("RAW", "SD2")
#: libsndfile's code for an error of the system, which it does not describe.
SYSTEM_ERROR = 2


def audio_files(folder: Path) -> list[Path]:
    """Return all audio and video files below a folder in sorted order; skip hidden ones and links to folders."""
    files = (p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    return sorted(p for p in files if not any(part.startswith(".") for part in p.relative_to(folder).parts))


@contextmanager
def write_audio(
    path: str | Path, sample_rate: int, channels: int, format: str, subtype: str | None
) -> Iterator[soundfile.SoundFile]:
    """Yield a `SoundFile` to write to; a whole `path` appears when the block succeeds.

    Raises:
        AudioError: the folder cannot be written to, the disk is full or the format does not take this audio.
    """
    path = Path(path)
    system_name(path)
    try:
        with atomic_write(path) as temp:
            temp.touch()  # the system reports why it refuses; libsndfile does not
            name = system_name(temp)
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


def output_format(source: AudioFile, path: str | Path) -> tuple[str, str | None]:
    """Return format and subtype for `path`: those of the source for the same suffix, else those of the suffix.

    Raises:
        AudioError: the suffix belongs to no audio format that can be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix == Path(source.name).suffix.lower() and source.format and source.format not in UNWRITTEN:
        return source.format, source.subtype
    require_writable(path)
    name = suffix.lstrip(".")
    format = NAMES.get(name, name.upper())
    if name == "opus":
        return format, "OPUS"
    lossy = source.subtype in LOSSY or source.subtype is None
    return format, None if lossy or not soundfile.check_format(format, source.subtype) else source.subtype


def require_writable(path: str | Path) -> None:
    """Raise AudioError if no audio format that can be written has the suffix of a file name."""
    name = Path(path).suffix.lower().lstrip(".")
    format = NAMES.get(name, name.upper())
    if format not in soundfile.available_formats() or format in UNWRITTEN:
        known = "cannot be written" if f".{name}" in SUFFIXES else "no audio format has this suffix"
        raise AudioError(f"{path}: {known}; one of {', '.join(sorted(WRITTEN))} is expected")


def _write_reason(error: soundfile.LibsndfileError, folder: Path) -> str:
    if folder.is_dir() and shutil.disk_usage(folder).free < 2**16:
        return "no space left on the disk"
    if error.code == SYSTEM_ERROR:
        return "the system refuses; is there a quota, or a limit on the size of files?"
    return error.error_string.strip().rstrip(".")
