"""The command `denoise`: files and folders, on this computer or on a Ray cluster."""

import argparse
import logging
import math
import statistics
import time
from pathlib import Path
from typing import Any

from modelscope_ext.atomic import atomic_write, require_apart
from modelscope_ext.audio import AudioError, check_loudness
from modelscope_ext.batch import local
from modelscope_ext.batch.plan import Job, plan
from modelscope_ext.batch.ray import Batch
from modelscope_ext.cli.common import add_device, add_model, add_quiet, add_strength, print_error
from modelscope_ext.cli.pipe import denoise_pipe
from modelscope_ext.hub import local_folder
from modelscope_ext.inference.denoiser import ASR_SAFE_WET, Denoiser
from modelscope_ext.inference.file import FileReport
from modelscope_ext.plots import draw_spectrograms
from modelscope_ext.progress import Bar

logger = logging.getLogger(__name__)

#: Standard input as an argument.
STDIN = Path("-")
#: The file behind it, where the system has such a name.
STDIN_FILE = Path("/dev/stdin")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `denoise`."""
    parser.description = "Denoises files and folders. The rate, channels, length and format of each file do not change."
    parser.add_argument(
        "inputs",
        nargs="+",
        type=_path_or_url,
        metavar="IN",
        help="audio files, or folders of them; - for standard input",
    )
    parser.set_defaults(refuse=parser.error)
    parser.add_argument(
        "-o",
        "--output",
        type=_path_or_url,
        metavar="OUT",
        help="folder for the results, which mirrors input folders; for one input file also a file name; for - standard "
        "output if left out",
    )
    add_model(parser)
    add_device(parser)
    add_strength(parser)
    parser.add_argument(
        "--asr-safe",
        action="store_true",
        help="for speech recognition: keep the share of the input that recognisers were found to need",
    )
    parser.add_argument("--track", type=int, metavar="N", help="denoise only this audio track, from 0 on [all]")
    parser.add_argument(
        "--loudness",
        type=float,
        metavar="LUFS",
        help="give each result this loudness and a true peak of at most -1 dB; podcasts have -16 [as it was]",
    )
    parser.add_argument("--skip-existing", action="store_true", help="skip files whose result exists")
    parser.add_argument("--spectrogram", type=Path, metavar="PNG", help="for one input file: draw before and after")
    add_quiet(parser)
    cluster = parser.add_argument_group(
        "clusters",
        "With --engine ray, IN and OUT may be URLs such as s3://bucket/talks, and a rerun processes only files that "
        "are missing or have changed: see docs/cluster.md. Install Ray with: pip install 'modelscope-ext[ray]'",
    )
    cluster.add_argument(
        "--engine", choices=["local", "ray"], default="local", help="process files here or on Ray [local]"
    )
    cluster.add_argument("--workers", type=int, metavar="N", help="processes, each on one core or GPU [all]")
    cluster.add_argument("--ray-address", metavar="A", help="address of a cluster [this computer, or $RAY_ADDRESS]")


def run(args: argparse.Namespace) -> int:
    """Denoise all files; return 1 if one failed."""
    if args.asr_safe and (args.wet is not None or args.attenuation_limit is not None):
        raise ValueError("--asr-safe chooses the strength itself: leave out --wet and --attenuation-limit")
    check_loudness(args.loudness)
    if args.output is None and args.inputs != [STDIN]:
        args.refuse("the following arguments are required: -o/--output")
    if args.inputs == [STDIN]:
        _run_on_pipe(args)
        return 0
    failed, total = (_run_on_ray if args.engine == "ray" else _run_locally)(args)
    if failed:
        print_error(f"{failed} of {total} files failed")
    return int(failed > 0)


def _path_or_url(text: str) -> Path | str:
    return text if "://" in text else Path(text)


def _strength(args: argparse.Namespace) -> dict[str, Any]:
    if args.asr_safe:
        return {"wet": ASR_SAFE_WET, "attenuation_limit_db": math.inf, "band": args.band}
    wet = 1.0 if args.wet is None else args.wet
    return {"wet": wet, "attenuation_limit_db": args.attenuation_limit, "band": args.band}


def _refuse_cluster(args: argparse.Namespace) -> None:
    """Raise ValueError for an option or a URL that only Ray can use."""
    if args.inputs == [STDIN] and args.engine == "ray":
        raise ValueError("--engine ray does not read standard input")
    if args.workers is not None or args.ray_address is not None:
        raise ValueError("--workers and --ray-address are for --engine ray")
    if urls := [place for place in (*args.inputs, args.output) if isinstance(place, str)]:
        raise ValueError(f"{urls[0]}: URLs need --engine ray")


def _run_on_pipe(args: argparse.Namespace) -> None:
    """Denoise standard input."""
    if args.spectrogram:
        raise ValueError("--spectrogram takes one input file, which standard input is not")
    _refuse_cluster(args)
    target, start = None if args.output in (None, STDIN) else args.output, time.monotonic()
    require_apart([target], [STDIN_FILE, local_folder(args.model)])
    if args.skip_existing and target and target.exists():
        logger.info("%s", _last_line([], 1, 0, 0.0, target))
        return
    denoiser = Denoiser(args.model, args.device, **_strength(args))
    with _Bar(total=0, quiet=args.quiet) as bar:
        report = denoise_pipe(denoiser, target, bar, track=args.track, loudness=args.loudness)
        bar.correct(report.seconds - (bar.total or 0))
    logger.info("%s", _last_line([report], 0, 0, time.monotonic() - start, target or "standard output"))


def _run_locally(args: argparse.Namespace) -> tuple[int, int]:
    """Denoise on this computer; return the number of failed files and of all."""
    _refuse_cluster(args)
    hidden: dict[str, str] = {}
    jobs = plan(args.inputs, args.output, hidden)
    if args.spectrogram and len(jobs) != 1:
        raise ValueError(f"--spectrogram takes one input file, got {len(jobs)}")
    require_apart([args.spectrogram, *(job.target for job in jobs)], [local_folder(args.model)])
    require_apart([args.spectrogram], [job.source for job in jobs])
    wanted = [job for job in jobs if not (args.skip_existing and job.target.exists())]
    denoiser = Denoiser(args.model, args.device, **_strength(args))
    headers = Bar(wanted, desc="reading headers", unit="file", quiet=args.quiet, leave=False, delay=2)
    seconds, unreadable = local.probe(headers)
    for error in (*map(": ".join, hidden.items()), *unreadable.values()):
        print_error(error)
    failed, reports, start = len(hidden) + len(unreadable), [], time.monotonic()
    with _Bar(total=sum(seconds.values()), quiet=args.quiet) as bar:
        for job, result in local.run(seconds, denoiser, bar.update, track=args.track, loudness=args.loudness):
            error = result if isinstance(result, AudioError) else None
            if error:
                failed += 1
            else:
                reports.append(result)
                bar.correct(result.seconds - seconds[job])
                if args.spectrogram:
                    _draw(args.spectrogram, job)
            _report(bar, job.source, job.target, error)
    logger.info("%s", _last_line(reports, len(jobs) - len(wanted), failed, time.monotonic() - start, args.output))
    return failed, len(jobs) + len(hidden)


def _last_line(reports: list[FileReport], skipped: int, failed: int, took: float, target: object) -> str:
    """Return what was read and where it was written, how long it took and what became of the noise."""
    line = f"{len(reports)} {'file' if len(reports) == 1 else 'files'} done, {skipped} skipped, {failed} failed"
    if not reports:
        return line
    audio = sum(report.seconds for report in reports)
    line += f"; {_clock(audio)} of audio in {_clock(took)} → {target}"
    fell = [report.noise_fell_db for report in reports if report.noise_fell_db is not None]
    return f"{line}; noise {-statistics.median(fell):+.0f} dB" if fell else line


def _clock(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02} min"


class _Bar(Bar):
    """A bar of seconds of audio, with percent, speed and time left."""

    def __init__(self, **options: Any) -> None:
        layout = "{l_bar}{bar}| {n:.0f}/{total:.0f} s of audio [{elapsed}<{remaining}, {speed} × real time]"
        super().__init__(bar_format=layout, **options)

    @property
    def format_dict(self) -> dict[str, Any]:
        """Return values for the layout; the total grows where a length was underrated."""
        values = super().format_dict
        speed = values["n"] / values["elapsed"] if values["elapsed"] else 0
        return {**values, "total": max(values["total"] or 0, values["n"], 0.1), "speed": f"{speed:.0f}"}

    def correct(self, seconds: float) -> None:
        """Correct the total by the difference of a file's length from its estimate."""
        self.total = max(0.0, (self.total or 0) + seconds)


def _run_on_ray(args: argparse.Namespace) -> tuple[int, int]:
    """Denoise on a cluster; return the number of failed files and of all."""
    if args.spectrogram:
        raise ValueError("--engine ray draws nothing: leave out --spectrogram")
    if args.track is not None:
        raise ValueError("--engine ray denoises all tracks: leave out --track")
    if args.skip_existing:
        raise ValueError("--engine ray always skips finished files: leave out --skip-existing")
    if args.workers is not None and args.workers < 1:
        raise ValueError(f"--workers must be at least 1, got {args.workers}")
    batch = Batch(args.inputs, args.output, args.model, args.device, args.loudness, **_strength(args))
    for error in map(": ".join, batch.unreadable.items()):
        print_error(error)
    failed, reports, start = len(batch.unreadable), [], time.monotonic()
    with Bar(total=len(batch.jobs), unit="file", quiet=args.quiet) as bar:
        for row in batch.run(args.ray_address, args.workers):
            error = row["reason"] if row["status"] == "failed" else None
            if error is None:
                reports.append(FileReport(row["duration"], row["noise_fell_db"]))
            else:
                failed += 1
            for warning in row["warnings"] or ():
                logger.warning("%s", warning)
            _report(bar, row["source"], row["path"], error)
            bar.update()
    logger.info("%s", _last_line(reports, batch.left_out, failed, time.monotonic() - start, args.output))
    return failed, len(batch.jobs) + len(batch.unreadable)


def _report(bar: Bar, source: object, target: object, error: object) -> None:
    """Print an error; log a finished file where no bar is drawn."""
    if error is not None:
        print_error(error)
    elif not bar.on_terminal:
        logger.info("%s → %s", source, target)


def _draw(picture: Path, job: Job) -> None:
    with atomic_write(picture) as temp:
        draw_spectrograms(job.source, job.target, temp)
