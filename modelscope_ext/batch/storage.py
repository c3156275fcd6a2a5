"""Files on any storage that fsspec reads.

`fs` is a file system of fsspec. A path on it has no protocol.
"""

import posixpath
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from modelscope_ext.atomic import temp_name
from modelscope_ext.audio import SUFFIXES, audio_files, system_name

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

#: On these storages an uploaded file appears whole. On others it is uploaded under another name and renamed.
OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "memory"}
#: Keys of fsspec's file info that change with the content, best first.
TAGS = ("ETag", "etag", "md5Hash", "Content-MD5", "mtime", "LastModified", "Last-Modified", "last_modified", "created")


def resolve(where: Path | str) -> "tuple[AbstractFileSystem, str]":
    """Return the file system of a path or URL and the absolute path on it.

    Raises:
        AudioError: no file can have this name.
        ValueError: the protocol is unknown or its package is not installed.
    """
    from fsspec.core import url_to_fs
    from fsspec.implementations.local import LocalFileSystem

    where = str(where)
    if "://" not in where or where.startswith("file://"):  # fsspec would split a name at "::"
        path = Path(where.removeprefix("file://")).absolute()
        system_name(path)
        return LocalFileSystem(), path.as_posix()
    try:
        fs, path = url_to_fs(where)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error
    return fs, path.rstrip("/")


def is_local(fs: "AbstractFileSystem") -> bool:
    """Return True for this computer's own files."""
    return "file" in _protocols(fs)


def _protocols(fs: "AbstractFileSystem") -> set[str]:
    return {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)


def url_of(fs: "AbstractFileSystem", path: str) -> str:
    """Return the URL of a path; the inverse of `resolve`."""
    return f"file://{path}" if is_local(fs) else fs.unstrip_protocol(path)


def list_files(fs: "AbstractFileSystem", root: str) -> dict[str, dict]:
    """Return fsspec's info for every file under `root` by path; none if there is no such folder."""
    fs.invalidate_cache()
    return fs.find(root, detail=True) if fs.exists(root) else {}


def list_audio(fs: "AbstractFileSystem", root: str, unreadable: dict[str, str]) -> dict[str, dict]:
    """Return fsspec's info for every audio file under `root` by sorted path without hidden files.

    On a disk the info is empty, and `unreadable` gets what cannot be read; see `audio_files`.
    """
    if is_local(fs):
        return {file.as_posix(): {} for file in audio_files(Path(root), unreadable)}
    return {
        path: info
        for path, info in sorted(list_files(fs, root).items())
        if posixpath.splitext(path)[1].lower() in SUFFIXES and "/." not in "/" + path[len(root) :]
    }


def version_tag(info: dict) -> str | None:
    """Return a string that changes with the file: an ETag, a checksum or a time from its info; None without any."""
    return next((str(info[key]) for key in TAGS if info.get(key)), None)


def upload(fs: "AbstractFileSystem", file: Path, path: str) -> None:
    """Upload a file of this computer so that it appears whole."""
    if _protocols(fs) & OBJECT_STORES:
        fs.put_file(str(file), path)
        return
    temp = f"{posixpath.dirname(path)}/{temp_name(posixpath.basename(path))}"
    try:
        fs.put_file(str(file), temp)
        fs.mv(temp, path)
    except BaseException:
        with suppress(Exception):  # it may not be there
            fs.rm_file(temp)
        raise
