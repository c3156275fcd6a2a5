"""Manifest of a batch: `manifest.jsonl` beside the results, a row (a line of JSON) for each file.

path: of the result, below the output folder; source: URL; status: "done" or "failed"; reason: of a failure; warnings:
texts, null without; duration: of the audio in s; noise_fell_db: dB by which the noise fell; seconds: spent on it;
sha256, result_size, result_stamp: of the result; size, stamp: of the source when it was listed; model: SHA-256 over
the model's files; noisy_share: part of the input that is left in; band: that of `Denoiser`. A stamp is the storage's
version tag: an ETag or a checksum if it has one, else a time.
"""

import hashlib
import json
import posixpath
import re
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from modelscope_ext.atomic import atomic_write
from modelscope_ext.batch.plan import Job
from modelscope_ext.batch.storage import is_local, upload, version_tag

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

MANIFEST = "manifest.jsonl"
#: Names of its parts.
PART = re.compile(r"manifest-\d+\.jsonl")
#: Seconds between two parts of the manifest on storage that cannot append.
PART_S = 10.0


class Manifest:
    """Rows of a batch by path. The last row of a path is valid.

    Use it as a context to append rows. They survive a killed process: on a disk each row is a line at once. Elsewhere
    they are written every 10 s to parts `manifest-*.jsonl`, which the next reader or the end of the context merges. A
    torn line is ignored.
    """

    def __init__(self, fs: "AbstractFileSystem", folder: str) -> None:
        self.fs, self.folder, self.path = fs, folder, f"{folder}/{MANIFEST}"
        self.rows: dict[str, dict] = {}
        for path in [self.path, *self._parts()]:
            if fs.isfile(path):
                rows = map(_parsed, fs.cat_file(path).splitlines())
                self.rows |= {row["path"]: row for row in rows if row}

    def append(self, row: dict[str, Any]) -> None:
        """Append a row.

        Raises:
            OSError: the manifest cannot be written.
        """
        self.rows[row["path"]] = row
        self.waiting.append(json.dumps(row))
        if self.file or time.monotonic() - self.written > PART_S:
            self._write()

    def is_done(self, job: Job, settings: dict[str, Any], result: dict | None) -> bool:
        """Return True if a job has been done with these settings and its result is unchanged.

        Args:
            job: with size and stamp.
            settings: columns of the manifest and their values.
            result: fsspec's info of any result. Its content is read if only its stamp has changed.
        """
        row = self.rows.get(job.path)
        wanted = {"source": job.source, "size": job.size, "stamp": job.stamp, **settings, "status": "done"}
        if row is None or result is None or any(row.get(key) != value for key, value in wanted.items()):
            return False
        if result["size"] != row["result_size"]:
            return False
        if version_tag(result) == row["result_stamp"]:
            return True
        with self.fs.open(result["name"], "rb") as file:
            return sha256(file) == row["sha256"]

    def __enter__(self) -> "Manifest":
        self.waiting: list[str] = []
        self.written, self.file = time.monotonic(), None
        self._merge_parts()
        if is_local(self.fs):
            self.file = open(self.path, "ab")
        return self

    def __exit__(self, *error: object) -> None:
        self._write()
        if self.file:
            self.file.close()
        self._merge_parts()

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

    def _merge_parts(self) -> None:
        parts = self._parts()
        with tempfile.TemporaryDirectory(prefix="modelscope-ext-") as folder:
            merged = Path(self.path) if is_local(self.fs) else Path(folder, MANIFEST)
            with atomic_write(merged) as temp, temp.open("w", encoding="utf-8") as file:
                file.writelines(f"{json.dumps(self.rows[path])}\n" for path in sorted(self.rows))
            if not is_local(self.fs):
                upload(self.fs, merged, self.path)
        for part in parts:
            self.fs.rm_file(part)

    def _parts(self) -> list[str]:
        self.fs.invalidate_cache()
        if not self.fs.isdir(self.folder):
            return []
        paths = self.fs.ls(self.folder, detail=False)  # a glob would take brackets in the folder's name for a pattern
        return sorted(path for path in paths if PART.fullmatch(posixpath.basename(path)))


def _parsed(line: bytes) -> dict | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("path"), str) else None


def sha256(file: BinaryIO) -> str:
    """Return the SHA-256 of the rest of an open binary file."""
    digest = hashlib.sha256()
    while part := file.read(2**20):
        digest.update(part)
    return digest.hexdigest()
