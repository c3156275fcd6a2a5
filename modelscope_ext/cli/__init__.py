"""The commands of `modelscope-ext`; each is added by the module that it belongs to.

Exit codes: 0 all went well, 1 some file or the whole command failed, 2 the command was not understood, 130 Ctrl-C,
141 nobody reads standard output any more.
"""

import argparse
import logging
import math
import os
import sys
from pathlib import Path
from typing import Any

from modelscope_ext.cli.stream import add_command as add_stream
from modelscope_ext.data.prepare import add_command as add_prepare_data
from modelscope_ext.demo import add_command as add_demo
from modelscope_ext.doctor import add_command as add_doctor
from modelscope_ext.evaluation import add_command as add_evaluate
from modelscope_ext.export import add_command as add_export
from modelscope_ext.info import add_command as add_info
from modelscope_ext.report import add_command as add_report

__all__ = ["add_denoise", "execute", "main"]

logger = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    return execute(_parser().parse_args(argv))


def execute(args: argparse.Namespace) -> int:
    """Runs what was parsed, and returns its exit code; errors are told in one line."""
    level = logging.WARNING if getattr(args, "quiet", False) else logging.INFO
    logging.basicConfig(level=level, format="%(message)s", handlers=[_Lines()])
    try:
        code = args.run(args)
        if sys.stdout:  # there is none after >&-
            sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered goes nowhere in peace
        return 141
    except (ValueError, OSError, ModuleNotFoundError) as error:
        return _fail(str(error))


class _Lines(logging.Handler):
    """Messages on standard error, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        _tell("\n".join(map(_one_line, self.format(record).split("\n"))))


def _tell(line: str) -> None:
    if tqdm := sys.modules.get("tqdm"):
        tqdm.tqdm.write(line, file=sys.stderr)
    else:
        print(line, file=sys.stderr)


def _fail(reason: str, code: int = 1) -> int:
    _tell(f"modelscope-ext: {_one_line(reason)}")
    return code


def _one_line(text: str) -> str:
    """Names of files may hold line feeds, and escape sequences that a terminal would obey."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _parser() -> argparse.ArgumentParser:
    from modelscope_ext import __version__

    parser = argparse.ArgumentParser(prog="modelscope-ext", description="Removes noise from speech recordings.")
    parser.add_argument("--version", action="version", version=f"modelscope-ext {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_denoise(commands)
    add_stream(commands, [_common()])
    add_report(commands, [_common()])
    add_demo(commands, [_common()])
    add_info(commands)
    add_doctor(commands)
    add_prepare_data(commands, _common(device=False))
    _add_train(commands)
    add_evaluate(commands, [_common()])
    add_export(commands, [_common(device=False)])
    return parser


def _common(device: bool = True) -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-q", "--quiet", action="store_true", help="no progress, only warnings and errors")
    if device:
        common.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1 … or, of ONNX files, openvino")
    return common


def add_denoise(commands: Any) -> argparse.ArgumentParser:
    """Adds `denoise` to the sub-commands of a parser, ours or that of ModelScope's command line."""
    denoise = commands.add_parser(
        "denoise",
        parents=[_common()],
        help="denoise files and folders",
        description="Denoises files and folders. Rate, channels, length and format of each file stay as they are.",
    )
    denoise.add_argument("inputs", nargs="+", type=_place, metavar="IN", help="audio files, or folders of them")
    denoise.add_argument(
        "-o",
        "--output",
        required=True,
        type=_place,
        metavar="OUT",
        help="folder for the results, where folders are mirrored; for one input file also a file name",
    )
    denoise.add_argument(
        "--model", metavar="M", help="model folder, or id of ModelScope's hub [the one in this package]"
    )
    denoise.add_argument("--wet", type=float, metavar="W", help="1 all denoised … 0 all as it was [1]")
    denoise.add_argument(
        "--attenuation-limit",
        type=float,
        metavar="DB",
        help="lower noise by at most DB; inf for no limit [what the model recommends]",
    )
    denoise.add_argument(
        "--asr-safe",
        action="store_true",
        help="for speech recognition: leaves as much of the input in as a recogniser was found to want",
    )
    denoise.add_argument("--skip-existing", action="store_true", help="leave out files whose result is there")
    denoise.add_argument("--spectrogram", type=Path, metavar="PNG", help="for one input file: draw before and after")
    cluster = denoise.add_argument_group(
        "clusters",
        "with --engine ray; IN and OUT may be URLs, such as s3://bucket/talks, and a rerun does only what is missing "
        "or has changed: see docs/cluster.md. It needs Ray: pip install 'modelscope-ext[ray]'",
    )
    cluster.add_argument("--engine", choices=["local", "ray"], default="local", help="what spreads the files [local]")
    cluster.add_argument("--workers", type=int, metavar="N", help="processes, each with a core or a GPU [all]")
    cluster.add_argument("--ray-address", metavar="A", help="of a running cluster [this computer, or $RAY_ADDRESS]")
    denoise.set_defaults(run=_denoise)
    return denoise


def _place(text: str) -> Path | str:
    """A path, or a URL as it is."""
    return text if "://" in text else Path(text)


def _add_train(commands: Any) -> None:
    train = commands.add_parser(
        "train",
        parents=[_common()],
        help="train a CRUSE on folders of audio, or a model folder on prepared data",
        description="Trains. Killed and started again, it goes on from its last checkpoint. Several processes or "
        "machines: torchrun --nproc-per-node N -m modelscope_ext train …",
    )
    what = train.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", type=Path, metavar="JSON", help="a CRUSE, mixed as it goes: see examples/")
    what.add_argument("--model", metavar="M", help="a model folder or an id, on what prepare-data wrote")
    train.add_argument("--work-dir", required=True, type=Path, metavar="DIR", help="checkpoints, logs, decoded audio")
    from_config = train.add_argument_group("with --config")
    from_config.add_argument(
        "--data-dir", default=Path(), type=Path, metavar="DIR", help="what the configuration's folders are relative to"
    )
    from_config.add_argument("--steps", type=int, metavar="N", help="stop after so many steps from here")
    from_model = train.add_argument_group("with --model")
    from_model.add_argument("--data", type=Path, metavar="DIR", help="the prepared data set")
    from_model.add_argument("--epochs", type=int, metavar="N", help="instead of the configuration's")
    from_model.add_argument("--iterations", type=int, metavar="N", help="of an epoch, likewise")
    from_model.add_argument("--batch", type=int, metavar="N", help="likewise")
    from_model.add_argument("--learning-rate", type=float, metavar="R", help="likewise")
    from_model.add_argument(
        "--gate", type=Path, metavar="PAIRS", help="refuse a result that scores worse than the model on these pairs"
    )
    train.set_defaults(run=_train)


def _denoise(args: argparse.Namespace) -> int:
    if args.asr_safe and (args.wet is not None or args.attenuation_limit is not None):
        raise ValueError("--asr-safe chooses the strength itself: leave out --wet and --attenuation-limit")
    if args.engine == "ray":
        return _denoise_on_ray(args)
    if args.workers is not None or args.ray_address is not None:
        raise ValueError("--workers and --ray-address are for --engine ray")
    if urls := [place for place in (*args.inputs, args.output) if isinstance(place, str)]:
        raise ValueError(f"{urls[0]}: URLs need --engine ray")
    jobs = _plan(args.inputs, args.output)
    if args.spectrogram and len(jobs) != 1:
        raise ValueError(f"--spectrogram takes one input file, got {len(jobs)}")
    if args.skip_existing:
        jobs = [(source, target) for source, target in jobs if not target.exists()]

    from tqdm import tqdm

    from modelscope_ext.atomic import remove_stale_temp_files
    from modelscope_ext.audio import AudioError, open_audio
    from modelscope_ext.inference.denoiser import Denoiser

    for folder in {target.parent for _, target in jobs}:
        remove_stale_temp_files(folder)
    denoiser = Denoiser(args.model, args.device, **_strength(args))
    seconds, readable, failed = 0.0, [], 0
    for source, target in jobs:
        try:
            with open_audio(source) as file:
                seconds += file.frames / file.samplerate
            readable.append((source, target))
        except AudioError as error:
            failed += 1
            _fail(str(error))
    layout = "{l_bar}{bar}| {n:.0f}/{total:.0f} s of audio [{elapsed}<{remaining}]"
    with tqdm(total=seconds, bar_format=layout, disable=True if args.quiet else None) as bar:
        for source, target in readable:
            try:
                denoiser.file(source, target, bar.update)
                if args.spectrogram:
                    from modelscope_ext.atomic import atomic_write
                    from modelscope_ext.plots import draw_spectrograms

                    with atomic_write(args.spectrogram) as half:
                        draw_spectrograms(source, target, half)
            except AudioError as error:
                failed += 1
                _fail(str(error))
                continue
            if bar.disable:  # where nobody sees a bar
                logger.info("%s → %s", source, target)
    if failed:
        return _fail(f"{failed} of {len(jobs)} files failed")
    return 0


def _strength(args: argparse.Namespace) -> dict[str, Any]:
    from modelscope_ext.inference.denoiser import ASR_SAFE_WET

    wet, limit = (ASR_SAFE_WET, math.inf) if args.asr_safe else (args.wet, args.attenuation_limit)
    return {"wet": 1.0 if wet is None else wet, "attenuation_limit_db": limit}


def _denoise_on_ray(args: argparse.Namespace) -> int:
    if args.spectrogram or args.skip_existing:
        name = "--spectrogram" if args.spectrogram else "--skip-existing"
        why = "draws nothing" if args.spectrogram else "leaves out what is done by itself"
        raise ValueError(f"--engine ray {why}: leave out {name}")
    if args.workers is not None and args.workers < 1:
        raise ValueError(f"--workers must be at least 1, got {args.workers}")
    from tqdm import tqdm

    from modelscope_ext.batch.ray import Batch

    batch = Batch(args.inputs, args.output, args.model, args.device, **_strength(args))
    if batch.left_out:
        logger.info("%d files are done already", batch.left_out)
    failed = 0
    with tqdm(total=len(batch.jobs), unit="file", disable=True if args.quiet else None) as bar:
        for row in batch.run(args.ray_address, args.workers):
            if row["status"] == "failed":
                failed += 1
                _fail(row["reason"])
            elif bar.disable:  # where nobody sees a bar
                logger.info("%s → %s", row["source"], row["path"])
            bar.update()
    return _fail(f"{failed} of {len(batch.jobs)} files failed") if failed else 0


def _plan(inputs: list[Path], output: Path) -> list[tuple[Path, Path]]:
    """What is to be denoised into what; a plan in which a result would be lost is an error."""
    from modelscope_ext.audio import SUFFIXES, AudioError, audio_files

    single = len(inputs) == 1 and not os.path.isdir(inputs[0])
    if single and output.suffix.lower() in SUFFIXES and not os.path.isdir(output):
        return [(inputs[0], output)]
    if os.path.exists(output) and not os.path.isdir(output):
        raise AudioError(f"{output}: is a file; with several inputs -o names a folder")

    def real(path: Path) -> Path:  # `resolve` does not end in a loop of links
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


def _train(args: argparse.Namespace) -> int:
    if args.model:
        return _fine_tune(args)
    from modelscope_ext.training.config import load_config
    from modelscope_ext.training.trainer import Trainer

    trainer = Trainer(load_config(args.config), args.data_dir, args.work_dir, args.device, progress=not args.quiet)
    scores = trainer.run(args.steps)
    for name, value in scores.items():
        print(f"{name} {value:.4g}")
    return 0


def _fine_tune(args: argparse.Namespace) -> int:
    if not args.data:
        raise ValueError("--model needs --data, a folder that prepare-data wrote")
    import modelscope_ext.plugin.fine_tuning as fine_tuning

    scores = fine_tuning.fine_tune(
        args.model,
        args.data,
        args.work_dir,
        args.epochs,
        args.iterations,
        args.batch,
        args.learning_rate,
        args.device,
        args.gate,
        progress=not args.quiet,
    )
    for name, value in scores.items():
        print(f"{name} {value:.4g}")
    return 0
