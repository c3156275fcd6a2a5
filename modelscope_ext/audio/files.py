"""Audio files and videos in folders."""

import logging
import os
from pathlib import Path

from modelscope_ext.audio import mp3
from modelscope_ext.audio.containers import ASF, EBML
from modelscope_ext.audio.encoders import MUXERS
from modelscope_ext.audio.headers import WAVE_64

logger = logging.getLogger(__name__)

#: Suffixes of audio and video files that are written, and of all.
WRITTEN = frozenset((".wav", ".wave", ".w64", ".rf64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff"))
WRITTEN |= {".aifc", ".au", ".caf", ".voc", ".sph", *(f".{name}" for name in MUXERS)}
SUFFIXES = WRITTEN | {".spx", ".mxf", ".awb", ".qcp", ".gsm", ".dts", ".ape", ".mpc", ".tak", ".dsf", ".mp1", ".mpga"}
SUFFIXES |= {".vob", ".ra", ".rm", ".snd"}
#: A suffix of programs too: in folders the content decides.
UNSURE = ".ts"
#: Bytes between the marks of an MPEG transport stream; of the longest frame of raw aac, and the next one's mark.
PACKET, MOST_FRAME = 188, 8194


#: Beginnings of files that are audio or video whatever their name.
BEGINNINGS = (b"RF64", b"fLaC", b"OggS", b"ID3", b"caff", b".snd", b"#!AMR", b"FLV\1", EBML, ASF, WAVE_64)


def audio_files(folder: Path, unreadable: dict[str, str] | None = None) -> list[Path]:
    """Return all audio and video files below a folder, by suffix or content, in sorted order; skip hidden ones.

    A link to a folder elsewhere is not followed, with a warning.

    Args:
        folder: to search.
        unreadable: gets the reason for each folder that cannot be read, and for each pipe or link to nothing with the
            name of an audio file, by its path. Without it they are logged as warnings.
    """
    found, real = [], Path(os.path.realpath(folder))
    problems: dict[str, str] = {} if unreadable is None else unreadable

    def note(error: OSError) -> None:
        problems[os.fsdecode(error.filename)] = f"cannot be read ({error.strerror})"

    for place, folders, names in os.walk(folder, onerror=note):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for link in filter(Path.is_symlink, (Path(place, name) for name in folders)):
            target = link.resolve()
            if not (target.is_relative_to(real) or real.is_relative_to(target)):
                logger.warning("%s: a link to a folder is not followed; it can be an input of its own", link)
        files = [Path(place, name) for name in names if not name.startswith(".")]
        problems.update({str(f): "is no file" for f in files if f.suffix.lower() in SUFFIXES and not f.is_file()})
        found += [f for f in files if f.is_file() and (_is_named(f) or _is_media(f))]
    for path, reason in problems.items() if unreadable is None else ():
        logger.warning("%s: %s", path, reason)
    return sorted(found)


def _is_named(path: Path) -> bool:
    suffix = path.suffix.lower()
    return suffix in SUFFIXES and (suffix != UNSURE or _is_media(path))


def _is_media(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(MOST_FRAME)
    except OSError:
        return False
    if head.startswith((b"RIFF", b"RIFX")):
        return head[8:12] in (b"WAVE", b"AVI ")
    if head.startswith(b"FORM"):
        return head[8:11] == b"AIF"
    if head.startswith(b"G"):
        return head[PACKET : PACKET + 1] == b"G"
    return head.startswith(BEGINNINGS) or head[4:8] == b"ftyp" or _is_frames(head)


def _is_frames(head: bytes) -> bool:
    """Return True for the beginning of an mp3 or a raw aac file: two frames one after the other."""
    is_aac = head[:1] == b"\xff" and head[1:2] in (b"\xf0", b"\xf1", b"\xf8", b"\xf9")
    size = int.from_bytes(head[3:6], "big") >> 5 & 0x1FFF if is_aac else mp3.frame_size(head)
    return bool(size) and head[size : size + 2] == head[:2]
