"""The command `denoise`: files and folders, on this computer or on a Ray cluster."""

import argparse
import logging
import math
import os
from pathlib import Path

from tqdm import tqdm

from modelscope_ext.atomic import atomic_write, remove_stale_temp_files
from modelscope_ext.audio import SUFFIXES, AudioError, audio_files, open_audio
from modelscope_ext.batch.ray import Batch
from modelscope_ext.cli.common import add_device, add_model, add_quiet, add_strength, bar_is_hidden, print_error
from modelscope_ext.inference.denoiser import ASR_SAFE_WET, Denoiser
from modelscope_ext.plots import draw_spectrograms

__all__ = ["add_arguments", "run"]

logger = logging.getLogger(__name__)

Jobs = list[tuple[Path, Path]]


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


def _strength(args: argparse.Namespace) -> dict[str, float | None]:
    if args.asr_safe:
        return {"wet": ASR_SAFE_WET, "attenuation_limit_db": math.inf}
    return {"wet": 1.0 if args.wet is None else args.wet, "attenuation_limit_db": args.attenuation_limit}


def _run_locally(args: argparse.Namespace) -> tuple[int, int]:
    """Denoise on this computer; return the number of failed files and of all."""
    if args.workers is not None or args.ray_address is not None:
        raise ValueError("--workers and --ray-address are for --engine ray")
    if urls := [place for place in (*args.inputs, args.output) if isinstance(place, str)]:
        raise ValueError(f"{urls[0]}: URLs need --engine ray")
    jobs = _plan(args.inputs, args.output)
    if args.spectrogram and len(jobs) != 1:
        raise ValueError(f"--spectrogram takes one input file, got {len(jobs)}")
    if args.skip_existing:
        jobs = [(source, target) for source, target in jobs if not target.exists()]
    for folder in {target.parent for _, target in jobs}:
        remove_stale_temp_files(folder)
    denoiser = Denoiser(args.model, args.device, **_strength(args))
    readable, seconds = _readable(jobs)
    failed = len(jobs) - len(readable)
    layout = "{l_bar}{bar}| {n:.0f}/{total:.0f} s of audio [{elapsed}<{remaining}]"
    with tqdm(total=seconds, bar_format=layout, disable=bar_is_hidden(args)) as bar:
        for source, target in readable:
            try:
                denoiser.file(source, target, bar.update)
                if args.spectrogram:
                    with atomic_write(args.spectrogram) as temp:
                        draw_spectrograms(source, target, temp)
            except AudioError as error:
                failed += 1
                print_error(error)
            else:
                _report(bar, source, target)
    return failed, len(jobs)


def _readable(jobs: Jobs) -> tuple[Jobs, float]:
    """Return the jobs whose input can be opened, and their seconds of audio; print why the others cannot."""
    readable, seconds = [], 0.0
    for source, target in jobs:
        try:
            with open_audio(source) as file:
                seconds += file.frames / file.samplerate
            readable.append((source, target))
        except AudioError as error:
            print_error(error)
    return readable, seconds


def _report(bar: tqdm, source: object, target: object) -> None:
    """Log a finished file where no bar is shown."""
    if bar.disable:
        logger.info("%s → %s", source, target)


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
            if row["status"] == "failed":
                failed += 1
                print_error(row["reason"])
            else:
                _report(bar, row["source"], row["path"])
            bar.update()
    return failed, len(batch.jobs)


def _plan(inputs: list[Path], output: Path) -> Jobs:
    """Map each input to its output. Raise AudioError if two inputs share one output."""
    single = len(inputs) == 1 and not os.path.isdir(inputs[0])
    if single and output.suffix.lower() in SUFFIXES and not os.path.isdir(output):
        return [(inputs[0], output)]
    if os.path.exists(output) and not os.path.isdir(output):
        raise AudioError(f"{output}: is a file; with several inputs -o names a folder")

    def real(path: Path) -> Path:  # `resolve` fails on a loop of links
        return Path(os.path.realpath(path))

    jobs: dict[Path, Path] = {}
    for given in inputs:
        if os.path.isdir(given):
            inside = audio_files(given)
            if real(given) in real(output).parents:  # earlier results are no input
                inside = [p for p in inside if real(output) not in real(p).parents]
            if not inside:
                raise AudioError(f"{given}: no audio files in this folder")
            pairs = [(p, output / p.relative_to(given)) for p in inside]
        else:
            pairs = [(given, output / given.name)]
        for source, target in pairs:
            if target in jobs:
                raise AudioError(f"{source} and {jobs[target]} would both become {target}")
            jobs[target] = source
    return [(source, target) for target, source in jobs.items()]
