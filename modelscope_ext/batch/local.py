"""A batch in this process, one file after the other."""

from collections.abc import Callable, Iterable, Iterator

from modelscope_ext.atomic import remove_stale_temp_files
from modelscope_ext.audio import AudioError, open_audio
from modelscope_ext.batch.plan import Job
from modelscope_ext.inference.denoiser import Denoiser


def probe(jobs: Iterable[Job]) -> tuple[float, dict[Job, AudioError]]:
    """Return the seconds of all sources by their headers and the unreadable jobs with the reason."""
    seconds, unreadable = 0.0, {}
    for job in jobs:
        try:
            with open_audio(job.source) as file:
                seconds += file.seconds or 0.0
        except AudioError as error:
            unreadable[job] = error
    return seconds, unreadable


def run(
    jobs: Iterable[Job], denoiser: Denoiser, progress: Callable[[float], object] | None = None
) -> Iterator[tuple[Job, AudioError | None]]:
    """Denoise each job's file and yield the job with None or with the error of that file.

    Args:
        jobs: of `plan`, on local paths.
        denoiser: for all of them.
        progress: called with the seconds of audio done since its last call.
    """
    jobs = list(jobs)
    for folder in {job.target.parent for job in jobs}:
        remove_stale_temp_files(folder)
    for job in jobs:
        try:
            denoiser.file(job.source, job.target, progress)
        except AudioError as error:
            yield job, error
        else:
            yield job, None
