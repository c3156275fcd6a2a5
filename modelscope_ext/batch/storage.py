"""Files on any storage that fsspec reads, and the manifest of what was made of them.

In a function's arguments `fs` is a file system of fsspec, and a path is one of its own, without a protocol.
"""

import hashlib
import json
import posixpath
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelscope_ext.atomic import atomic_write, temp_name
from modelscope_ext.audio import SUFFIXES, audio_files

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

__all__ = [
    "HINT",
    "Manifest",
    "audio_below",
    "is_local",
    "listed",
    "place",
    "put_whole",
    "sha256",
    "stamp_of",
    "url_of",
]

MANIFEST = "manifest.jsonl"
#: Here a file that is put appears when it is whole; elsewhere it is put under another name and moved.
OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "memory"}
STAMPS = (
    "ETag",
    "etag",
    "md5Hash",
    "Content-MD5",
    "mtime",
    "LastModified",
    "Last-Modified",
    "last_modified",
    "created",
)
#: Seconds between two parts of the manifest on storage that cannot append.
PART_S = 10.0
HINT = "--engine ray needs Ray: pip install 'modelscope-ext[ray]'"


class Manifest:
    """The rows of a batch by path, kept in `manifest.jsonl` of a folder; of rows with the same path the last one holds.

    As a context it is open for `append`. What was appended survives a killed process: on a disk at once, as a line;
    elsewhere, where nothing can be appended, within 10 s, in parts `manifest-*.jsonl` that the next reader, or
    the end of the context, puts together. A line that was torn is left out.
    """

    def __init__(self, fs: "AbstractFileSystem", folder: str) -> None:
        self.fs, self.folder, self.path = fs, folder, f"{folder}/{MANIFEST}"
        self.rows: dict[str, dict] = {}
        for path in [self.path, *self._parts()]:
            if fs.isfile(path):
                for line in fs.cat_file(path).splitlines():
                    if row := _parsed(line):
                        self.rows[row["path"]] = row

    def append(self, row: dict[str, Any]) -> None:
        """Adds a row.

        Raises:
            OSError: it cannot be written; the message names the manifest.
        """
        self.rows[row["path"]] = row
        self.waiting.append(json.dumps(row))
        if self.file or time.monotonic() - self.written > PART_S:
            self._write()

    def __enter__(self) -> "Manifest":
        self.waiting: list[str] = []
        self.written, self.file = time.monotonic(), None
        self._put_together()
        if is_local(self.fs):
            self.file = open(self.path, "ab")
        return self

    def __exit__(self, *error: object) -> None:
        self._write()
        if self.file:
            self.file.close()
        self._put_together()

    def _write(self) -> None:
        lines = "".join(f"{line}\n" for line in self.waiting).encode()
        if self.file:
            try:
                self.file.write(lines)
                self.file.flush()
            except OSError as error:
                raise OSError(f"{self.path}: cannot be written ({error.strerror})") from error
        elif lines:
            self.fs.pipe_file(f"{self.folder}/manifest-{time.time_ns()}.jsonl", lines)
        self.waiting, self.written = [], time.monotonic()

    def _put_together(self) -> None:
        parts = self._parts()
        with tempfile.TemporaryDirectory(prefix="modelscope-ext-") as folder:
            near = Path(self.path) if is_local(self.fs) else Path(folder, MANIFEST)
            with atomic_write(near) as half, half.open("w", encoding="utf-8") as file:
                file.writelines(f"{json.dumps(self.rows[path])}\n" for path in sorted(self.rows))
            if not is_local(self.fs):
                put_whole(self.fs, near, self.path)
        for part in parts:
            self.fs.rm_file(part)

    def _parts(self) -> list[str]:
        self.fs.invalidate_cache()
        return sorted(self.fs.glob(f"{self.folder}/manifest-*.jsonl"))


def _parsed(line: bytes) -> dict | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("path"), str) else None


def place(where: Path | str) -> "tuple[AbstractFileSystem, str]":
    """Storage and the path on it."""
    try:
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(HINT) from error
    where = str(where)
    if "://" not in where or where.startswith("file://"):  # fsspec would take "::" in a name for a chain
        return LocalFileSystem(), Path(where.removeprefix("file://")).absolute().as_posix()
    try:
        fs, path = url_to_fs(where)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error
    return fs, path.rstrip("/")


def is_local(fs: "AbstractFileSystem") -> bool:
    """Whether these are this computer's own files."""
    return "file" in _protocols(fs)


def _protocols(fs: "AbstractFileSystem") -> set[str]:
    return {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)


def url_of(fs: "AbstractFileSystem", path: str) -> str:
    """What `place` takes apart, whole again."""
    return f"file://{path}" if is_local(fs) else fs.unstrip_protocol(path)


def listed(fs: "AbstractFileSystem", folder: str) -> dict[str, dict]:
    """What is known of each file below a folder, which need not be there."""
    fs.invalidate_cache()
    return fs.find(folder, detail=True) if fs.exists(folder) else {}


def audio_below(fs: "AbstractFileSystem", root: str) -> dict[str, dict]:
    """Of each audio file below a folder what is known, in the order of their names; hidden ones are left out."""
    if is_local(fs):
        return {path.as_posix(): fs.info(path.as_posix()) for path in audio_files(Path(root))}
    found = {}
    for path, info in sorted(listed(fs, root).items()):
        parts = path[len(root) :].split("/")
        if posixpath.splitext(path)[1].lower() in SUFFIXES and not any(part.startswith(".") for part in parts):
            found[path] = {**info, "name": path}
    return found


def stamp_of(info: dict) -> str | None:
    """From what is known of a file, what changes with it; None where the storage tells nothing."""
    return next((str(info[key]) for key in STAMPS if info.get(key)), None)


def put_whole(fs: "AbstractFileSystem", near: Path, path: str) -> None:
    """A file that appears whole, under its name, on a storage."""
    if _protocols(fs) & OBJECT_STORES:
        fs.put_file(str(near), path)
        return
    temp = f"{posixpath.dirname(path)}/{temp_name(posixpath.basename(path))}"
    try:
        fs.put_file(str(near), temp)
        fs.mv(temp, path)
    except BaseException:
        with suppress(Exception):  # it may not be there
            fs.rm_file(temp)
        raise


def sha256(file: Any) -> str:
    """Of an open binary file, from where it is read."""
    digest = hashlib.sha256()
    while part := file.read(2**20):
        digest.update(part)
    return digest.hexdigest()
