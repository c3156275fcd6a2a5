"""Files that appear whole or not at all: the only rule for temporary files."""

import functools
import hashlib
import logging
import os
import platform
import re
import secrets
import stat
import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = [
    "alone_in",
    "atomic_write",
    "file_identity",
    "find_clash",
    "remove_stale_temp_files",
    "require_apart",
    "require_outside",
    "temp_name",
]

logger = logging.getLogger(__name__)

#: Bytes of the final name in a temporary one. Names have up to 255 bytes and 143 on encrypted disks.
KEPT_BYTES = 100
SPECIAL = "a device or a pipe, which no file replaces"
_TEMP = re.compile(r"\..+\.(?P<host>[0-9a-f]{8})-(?P<process>\d+)-[0-9a-f]{8}\.half", re.DOTALL)


def temp_name(name: str) -> str:
    """Return a hidden name for the unfinished file `name` that is unique to host, process and call."""
    start = os.fsencode(name)[:KEPT_BYTES].decode(sys.getfilesystemencoding(), errors="ignore")
    return f".{start}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}.half"


@contextmanager
def atomic_write(path: str | Path, like: str | Path | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path` and rename it to `path` when the block succeeds.

    Missing folders are made. A failed block removes the temporary file and leaves `path` as it was. Threads, processes
    and hosts may write the same path at once: the last one to finish wins. A file keeps its permissions, and a new one
    gets those of `like`. A link keeps its place: the file that it names is replaced.

    Raises:
        OSError: the file cannot be written, or it is a device or a pipe. The message names `path` and the reason.
    """
    path, real = Path(path), Path(os.path.realpath(path))
    temp = real.with_name(temp_name(real.name))
    try:
        real.parent.mkdir(parents=True, exist_ok=True)
        mode = real.stat().st_mode if real.exists() else None
        if _is_special(mode):
            raise OSError(SPECIAL)
        if mode is None and like is not None:
            with suppress(OSError):  # it has vanished since it was opened
                mode = Path(like).stat().st_mode
        yield temp
        with temp.open("rb+") as file:
            os.fsync(file.fileno())  # after a power cut the name might exist without the content
        if mode is not None and stat.S_IMODE(temp.stat().st_mode) != stat.S_IMODE(mode):  # some disks have none
            temp.chmod(stat.S_IMODE(mode) & 0o777)
        temp.replace(real)
    except OSError as error:
        raise OSError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):  # it was renamed, or the disk is read-only
            temp.unlink()


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes of this computer that ask for the same folder out of it; wait for one that is in it.

    The system ends the turn of a killed process. Where it has no such locks nobody waits.
    """
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a network disk without locks
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.warning("%s: another process writes there; waiting for its end", folder)
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def file_identity(path: str | Path) -> object:
    """Return the same for all names of a file: by links, and in any letter case where the disk ignores it."""
    try:
        status = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    except ValueError:  # no file can have this name
        return os.fspath(path)
    return status.st_dev, status.st_ino


def require_apart(targets: Iterable[str | Path | None], read: Iterable[str | Path | None]) -> None:
    """Raise OSError if one of the files to write is read too, is written twice or is a device; None is no file.

    Args:
        targets: files to write.
        read: files that are read, and folders whose own files are.
    """
    places = [Path(place) for place in read if place is not None and os.path.exists(place)]
    files = [file for place in places for file in (place.iterdir() if place.is_dir() else [place])]
    taken = dict.fromkeys(map(file_identity, files), "is read by this command and would be overwritten")
    written = [Path(target) for target in targets if target is not None]
    for target in written:
        if reason := taken.get(identity := file_identity(target)):
            raise OSError(f"{target}: {reason}")
        if _is_special(target.stat().st_mode if target.exists() else None):
            raise OSError(f"{target}: {SPECIAL}")
        taken[identity] = "would be written twice"
    if clash := find_clash(written):
        raise OSError(f"{clash[1]}: would be written twice, since {clash[0]} is the same on this disk")


def _is_special(mode: int | None) -> bool:
    return mode is not None and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def require_outside(source: str | Path, *written: Path) -> None:
    """Raise ValueError if a folder that is read is one of the folders to write, or lies in one."""
    own = {file_identity(each) for each in (source, *Path(source).absolute().parents)}
    for folder in written:
        if file_identity(folder) in own:
            raise ValueError(f"{source}: is read by this command and would be overwritten; choose another work folder")


def find_clash(paths: Iterable[Path]) -> tuple[Path, Path] | None:
    """Return two paths that this disk takes for one file, since it ignores the case of letters or how accents are made.

    Files that exist are not looked at: `file_identity` knows them. Only the disk knows its rules, so it gets an empty
    file for a moment where two names are alike.
    """
    seen: dict[str, Path] = {}
    for path in paths:
        alike = unicodedata.normalize("NFC", unicodedata.normalize("NFC", str(path)).casefold())
        other = seen.setdefault(alike, path)
        if other != path and _are_one(other, path):
            return other, path
    return None


def _are_one(one: Path, other: Path) -> bool:
    with suppress(OSError):
        one.parent.mkdir(parents=True, exist_ok=True)
        start = temp_name("")
        probe = one.with_name(f"{start}{one.name}")
        if os.path.samefile(one.parent, other.parent):
            with probe.open("x"):
                pass
            try:
                return probe.with_name(f"{start}{other.name}").exists()
            finally:
                probe.unlink()
    return False


def remove_stale_temp_files(folder: Path) -> None:
    """Remove temporary files of dead processes of this host from a folder.

    Other hosts may share the folder. Their processes are not visible here, so their files stay.
    """
    for path in folder.glob(".*.half"):
        match = _TEMP.fullmatch(path.name)
        if match and match["host"] == _host():
            with suppress(OSError):
                if _is_dead(int(match["process"]), path):
                    path.unlink()


@functools.cache
def _host() -> str:
    """Return a tag for the space of process ids: this computer and this container on it."""
    namespace = ""
    with suppress(OSError):  # Linux only
        namespace = os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(f"{platform.node()} {namespace}".encode()).hexdigest()[:8]


def _is_dead(process: int, path: Path) -> bool:
    if os.name == "nt":  # os.kill would send Ctrl-C; a file that nobody wrote to for an hour is left over
        return time.time() - path.stat().st_mtime > 3600
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # another user's
        pass
    return False
