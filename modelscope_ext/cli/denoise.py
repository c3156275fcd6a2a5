"""The command `denoise`: files and folders, on this computer or on a Ray cluster."""

import argparse
import logging
import math
from pathlib import Path
from typing import Any

from tqdm import tqdm

from modelscope_ext.atomic import atomic_write
from modelscope_ext.batch import local
from modelscope_ext.batch.plan import Job, plan
from modelscope_ext.batch.ray import Batch
from modelscope_ext.cli.common import add_device, add_model, add_quiet, add_strength, bar_is_hidden, print_error
from modelscope_ext.inference.denoiser import ASR_SAFE_WET, Denoiser
from modelscope_ext.plots import draw_spectrograms

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `denoise`."""
    parser.description = "Denoises files and folders. The rate, channels, length and format of each file do not change."
    parser.add_argument("inputs", nargs="+", type=_path_or_url, metavar="IN", help="audio files, or folders of them")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        type=_path_or_url,
        metavar="OUT",
        help="folder for the results, which mirrors input folders; for one input file also a file name",
    )
    add_model(parser)
    add_device(parser)
    add_strength(parser)
    parser.add_argument(
        "--asr-safe",
        action="store_true",
        help="for speech recognition: keep the share of the input that recognisers were found to need",
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


def _run_locally(args: argparse.Namespace) -> tuple[int, int]:
    """Denoise on this computer; return the number of failed files and of all."""
    if args.workers is not None or args.ray_address is not None:
        raise ValueError("--workers and --ray-address are for --engine ray")
    if urls := [place for place in (*args.inputs, args.output) if isinstance(place, str)]:
        raise ValueError(f"{urls[0]}: URLs need --engine ray")
    jobs = plan(args.inputs, args.output)
    if args.spectrogram and len(jobs) != 1:
        raise ValueError(f"--spectrogram takes one input file, got {len(jobs)}")
    if args.skip_existing:
        jobs = [job for job in jobs if not job.target.exists()]
    denoiser = Denoiser(args.model, args.device, **_strength(args))
    seconds, unreadable = local.probe(jobs)
    for error in unreadable.values():
        print_error(error)
    failed = len(unreadable)
    layout = "{l_bar}{bar}| {n:.0f}/{total:.0f} s of audio [{elapsed}<{remaining}]"
    with tqdm(total=seconds, bar_format=layout, disable=bar_is_hidden(args)) as bar:
        for job, error in local.run([job for job in jobs if job not in unreadable], denoiser, bar.update):
            failed += error is not None
            if args.spectrogram and not error:
                _draw(args.spectrogram, job)
            _report(bar, job.source, job.target, error)
    return failed, len(jobs)


def _run_on_ray(args: argparse.Namespace) -> tuple[int, int]:
    """Denoise on a cluster; return the number of failed files and of all."""
    if args.spectrogram:
        raise ValueError("--engine ray draws nothing: leave out --spectrogram")
    if args.skip_existing:
        raise ValueError("--engine ray always skips finished files: leave out --skip-existing")
    if args.workers is not None and args.workers < 1:
        raise ValueError(f"--workers must be at least 1, got {args.workers}")
    batch = Batch(args.inputs, args.output, args.model, args.device, **_strength(args))
    if batch.left_out:
        logger.info("%d files are done already", batch.left_out)
    failed = 0
    with tqdm(total=len(batch.jobs), unit="file", disable=bar_is_hidden(args)) as bar:
        for row in batch.run(args.ray_address, args.workers):
            error = row["reason"] if row["status"] == "failed" else None
            failed += error is not None
            _report(bar, row["source"], row["path"], error)
            bar.update()
    return failed, len(batch.jobs)


def _report(bar: tqdm, source: object, target: object, error: object) -> None:
    """Print an error; log a finished file where no bar is shown."""
    if error is not None:
        print_error(error)
    elif bar.disable:
        logger.info("%s → %s", source, target)


def _draw(picture: Path, job: Job) -> None:
    with atomic_write(picture) as temp:
        draw_spectrograms(job.source, job.target, temp)
