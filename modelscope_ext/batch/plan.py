"""Plan of a batch: which file becomes which, on a disk or on any storage that fsspec reads."""

import logging
import os
import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from modelscope_ext.atomic import file_identity, find_clash
from modelscope_ext.audio import SUFFIXES, AudioError, require_writable
from modelscope_ext.batch.storage import is_local, list_audio, resolve, url_of, version_tag

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

logger = logging.getLogger(__name__)

#: Of a file name; a folder such as `talks.2026-11` has no such suffix.
SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}")


@dataclass(frozen=True)
class Job:
    """A file to denoise.

    Attributes:
        path: of the result below the output folder, with slashes.
        source, target: paths; URLs for a cluster.
        size, stamp: bytes and version tag of the source, for a cluster; None if the storage has none.
    """

    path: str
    source: Path | str
    target: Path | str
    size: int | None = None
    stamp: str | None = None


def plan(
    inputs: Iterable[Path | str], output: Path | str, unreadable: dict[str, str] | None = None, *, cluster: bool = False
) -> list[Job]:
    """Return a job for every input file and every audio file in the input folders.

    Args:
        inputs: audio files and folders; paths or URLs for a cluster.
        output: folder that mirrors the input folders. For one input file it may be a file name; a name with a suffix
            is one unless there is such a folder.
        unreadable: gets the reason for each folder or file that cannot be read, by its path as given; without it
            they are logged as warnings.
        cluster: plan for other machines. The output is always a folder. A missing input raises and so does one that
            would be overwritten; otherwise only that job fails later.

    Raises:
        AudioError: no input has audio, two inputs share a result, a result would overwrite another input,
            the output is a file or cannot be written.
        ValueError: the storage of a URL is unknown or not installed.
    """
    places, out = [_Place(given, *resolve(given)) for given in inputs], _Place(output, *resolve(output))
    suffix = posixpath.splitext(out.path)[1]
    is_name = suffix.lower() in SUFFIXES or SUFFIX.fullmatch(suffix)  # of .3gp too
    if is_name and not cluster and len(places) == 1 and not any(place.fs.isdir(place.path) for place in (*places, out)):
        _require_file_name(output)
        return [Job(posixpath.basename(out.path), Path(places[0].given), Path(output))]
    if out.fs.exists(out.path) and not out.fs.isdir(out.path):
        raise AudioError(f"{output}: is a file, but the output must be a folder")
    problems: dict[str, str] = {} if unreadable is None else unreadable
    jobs: dict[str, Job] = {}
    read: dict[object, str] = {}  # every input, and the path of its result
    for place in places:
        for file, info in _files(place, out, cluster, problems).items():
            path = file[len(place.path) :].lstrip("/") or posixpath.basename(file)
            source, target = (p.name(f, cluster) for p, f in ((place, file), (out, f"{out.path}/{path}")))
            if path in jobs:
                raise AudioError(f"{source} and {jobs[path].source} would both become {target}")
            if cluster and source == target:
                raise AudioError(f"{target}: would overwrite its own input")
            jobs[path] = Job(path, source, target, info.get("size"), version_tag(info))
            read[place.identity(file)] = path
    if not jobs:
        raise AudioError("; ".join(map(": ".join, problems.items())))
    _require_apart(jobs, read, out)
    for problem in map(": ".join, problems.items() if unreadable is None else ()):
        logger.warning("%s", problem)
    return list(jobs.values())


def _require_apart(jobs: dict[str, Job], read: dict[object, str], out: "_Place") -> None:
    """Raise AudioError if a result would overwrite another job's input or result."""
    for path, job in jobs.items():
        if read.get(out.identity(f"{out.path}/{path}"), path) != path:
            raise AudioError(f"{job.target}: is an input too, and the result of {job.source} would overwrite it")
    if is_local(out.fs) and (clash := find_clash(Path(out.path, path) for path in jobs)):
        raise AudioError(f"{clash[0]} and {clash[1]} would be one file on this disk")


def _require_file_name(output: Path | str) -> None:
    try:
        require_writable(output)
    except AudioError as error:
        raise AudioError(f"{error}. Create it first if it is meant to be a folder") from None


class _Place(NamedTuple):
    """An input or the output."""

    given: Path | str
    fs: "AbstractFileSystem"
    path: str

    def name(self, file: str, as_url: bool) -> Path | str:
        """Return the name of the place or of a file in it as a URL or in terms of the given path."""
        return url_of(self.fs, file) if as_url else Path(self.given, file[len(self.path) :].lstrip("/"))

    def real(self, file: str) -> str:
        """Return the only name of a file."""
        return Path(os.path.realpath(file)).as_posix() if is_local(self.fs) else url_of(self.fs, file)

    def identity(self, file: str) -> object:
        """Return the same for all names of a file."""
        return file_identity(file) if is_local(self.fs) else self.real(file)


def _files(place: _Place, out: _Place, cluster: bool, unreadable: dict[str, str]) -> dict[str, dict]:
    """Return file info by path for an input: the file itself or the audio in the folder but outside the output."""
    fs, root = place.fs, place.path
    if fs.isdir(root):
        files = list_audio(fs, root, hidden := {})
        own = {str(place.name(path, False)): reason for path, reason in hidden.items()}
        unreadable |= own
        results, folder = out.real(out.path), place.real(root)
        if cluster and results == folder:
            raise AudioError(f"{place.given}: is the output folder")
        if results.startswith(folder.rstrip("/") + "/"):
            files = {file: info for file, info in files.items() if not place.real(file).startswith(results + "/")}
        if not files and not own:
            unreadable[str(place.given)] = "no audio files in this folder"
    elif cluster and not fs.exists(root):
        raise AudioError(f"{place.given}: no such file")
    else:
        files = {root: {}}
    if cluster:  # some listings have no sizes
        files = {file: info if info.get("size") is not None else fs.info(file) for file, info in files.items()}
    return files
