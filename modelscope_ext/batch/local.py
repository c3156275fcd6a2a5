"""A batch in this process, one file after the other."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from modelscope_ext.atomic import remove_stale_temp_files
from modelscope_ext.audio import AudioError, AudioFile, open_audio
from modelscope_ext.batch.plan import Job
from modelscope_ext.inference.denoiser import Denoiser
from modelscope_ext.inference.file import FileReport

#: Bytes of a second of audio in files that give no length; an estimate for progress.
BYTES_PER_S = 16_000


def probe(jobs: Iterable[Job]) -> tuple[dict[Job, float], dict[Job, AudioError]]:
    """Return the seconds of all sources by their headers or estimated, and the unreadable jobs with the reason."""
    seconds: dict[Job, float] = {}
    unreadable = {}
    for job in jobs:
        try:
            with open_audio(job.source) as file:
                seconds[job] = seconds_of(file, job.source)
        except (AudioError, OSError) as error:
            unreadable[job] = AudioError(str(error))
    return seconds, unreadable


def seconds_of(file: AudioFile, path: str | Path) -> float:
    """Return the length of an open file by its header, or an estimate by its size."""
    return Path(path).stat().st_size / BYTES_PER_S if file.seconds is None else file.seconds


def run(
    jobs: Iterable[Job],
    denoiser: Denoiser,
    progress: Callable[[float], object] | None = None,
    **options: Any,
) -> Iterator[tuple[Job, FileReport | AudioError]]:
    """Denoise each job's file and yield the job with its report or with the error of that file.

    Args:
        jobs: of `plan`, on local paths.
        denoiser: for all of them.
        progress: called with the seconds of audio done since its last call.
        options: `track` and `loudness` of `Denoiser.file`.
    """
    jobs = list(jobs)
    for folder in {job.target.parent for job in jobs}:
        remove_stale_temp_files(folder)
    for job in jobs:
        try:
            yield job, denoiser.file(job.source, job.target, progress, **options)
        except AudioError as error:
            yield job, error
        except OSError as error:  # of a failing disk; the other files may be whole
            yield job, AudioError(f"{job.source}: {error}")
