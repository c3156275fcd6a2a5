"""The command `train`: a model on pairs of files or on prepared data, or a new network on folders of audio."""

import argparse
import functools
import logging
import math
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from modelscope_ext.atomic import require_apart
from modelscope_ext.checkpoint import has_weights, read_configuration
from modelscope_ext.cli.common import add_device, add_model, add_quiet, print_result
from modelscope_ext.data.pairs import Pair, find_pairs
from modelscope_ext.data.parts import PARTS, load_parts
from modelscope_ext.evaluation import COLUMNS, MARGINS, evaluate, regression_gate, to_markdown
from modelscope_ext.hub import model_folder
from modelscope_ext.inference.denoiser import Denoiser
from modelscope_ext.metrics import require
from modelscope_ext.progress import Bar
from modelscope_ext.training.config import load_config
from modelscope_ext.training.distributed import alone_at_work
from modelscope_ext.training.fine_tuning import fine_tune
from modelscope_ext.training.loop import TrainingLoop
from modelscope_ext.training.mixtures import WRITTEN, MixtureRecipe
from modelscope_ext.training.pair_rows import BATCH, MOST_STEPS, OPTIONS, load_rows, record_parts

logger = logging.getLogger(__name__)
#: Scores of the gate: quick ones that fine-tuning spoils first.
GATED = ("wb_pesq", "stoi", "si_sdr")
#: Minutes that a run on pairs takes, with its gate.
MINUTES = 15.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `train`."""
    parser.description = (
        "Trains a network. --data PAIRS adapts a model to recordings of your own, --config trains on mixtures. If the "
        "run is interrupted, the same command continues it from its last checkpoint. Several processes or machines: "
        "torchrun --nproc-per-node N -m modelscope_ext train …"
    )
    add_quiet(parser)
    add_device(parser)
    parser.add_argument("--work-dir", required=True, type=Path, metavar="DIR", help="checkpoints, logs, the result")
    segments = parser.add_argument_group("a model on data", "The result is DIR/output, a model folder.")
    segments.add_argument(
        "--data",
        type=Path,
        metavar="PAIRS",
        help="folder with noisy/ and clean/, or a data set that prepare-data wrote",
    )
    add_model(segments)
    segments.add_argument(
        "--minutes", type=float, metavar="N", help=f"end after N minutes in all [{MINUTES:.0f}; no limit if prepared]"
    )
    segments.add_argument("--epochs", type=int, metavar="N", help="number of epochs")
    segments.add_argument("--iterations", type=int, metavar="N", help="steps in an epoch")
    segments.add_argument("--batch", type=int, metavar="N", help="segments in a batch")
    segments.add_argument("--learning-rate", type=float, metavar="R", help="learning rate")
    segments.add_argument(
        "--split-by",
        choices=["speaker", "file"],
        help="what the parts of PAIRS for training, validation and gate do not share [speaker if there are enough]",
    )
    gate = segments.add_mutually_exclusive_group()
    gate.add_argument(
        "--gate",
        type=Path,
        metavar="PAIRS",
        help="refuse a result that scores worse than the model on these pairs [a tenth of --data, held back]",
    )
    gate.add_argument("--no-gate", action="store_true", help="take any result")
    mixtures = parser.add_argument_group("a network on mixtures made during training")
    mixtures.add_argument("--config", type=Path, metavar="JSON", help="network and mixtures: see examples/")
    mixtures.add_argument(
        "--data-dir", default=Path(), type=Path, metavar="DIR", help="root of the configuration's folders [.]"
    )
    mixtures.add_argument("--steps", type=int, metavar="N", help="stop after N further steps")


def run(args: argparse.Namespace) -> None:
    """Train and print the scores of the last validation, or those of the gate."""
    if (args.config is None) == (args.data is None):
        raise ValueError("give either --data, pairs or a prepared data set, or --config, a JSON file")
    if args.config:
        if args.model:
            raise ValueError('--model trains on --data; a --config names what it begins with as "start"')
        config = load_config(args.config)
        require_apart(map(args.work_dir.joinpath, WRITTEN), [args.config])
        with alone_at_work(args.work_dir):
            recipe = MixtureRecipe(config, args.data_dir, args.work_dir, args.device, not args.quiet)
            scores = TrainingLoop(recipe).run(args.steps)
    elif not args.data.is_dir():
        raise ValueError(f"{args.data}: no such folder")
    else:
        scores = _train_on_data(args)
    if scores:
        print_result(*(f"{name} {value:.4g}" for name, value in scores.items()))


def _train_on_data(args: argparse.Namespace) -> dict[str, float]:
    folder = model_folder(args.model or "file")
    given = {
        "train.max_epochs": args.epochs,
        "train.max_minutes": args.minutes,
        "train.train_iters_per_epoch": args.iterations,
        "train.dataloader.batch_size_per_gpu": args.batch,
        "evaluation.dataloader.batch_size_per_gpu": args.batch,
        "train.optimizer.lr": args.learning_rate,
    }
    options = {key: value for key, value in given.items() if value is not None}
    if not any(args.data.rglob("*.parquet")):
        return _train_on_pairs(args, folder, options)
    gate = None
    if args.gate and has_weights(folder):
        gate = _Gate(folder, find_pairs(args.gate), must_gain=False, quiet=args.quiet)
    return _train_and_judge(args, folder, args.data, options, gate)


def _train_on_pairs(args: argparse.Namespace, folder: Path, options: dict[str, Any]) -> dict[str, float]:
    """Train on a part of the pairs within `--minutes`; another part chooses the best weights, a third one judges."""
    begun, minutes = time.monotonic(), MINUTES if args.minutes is None else args.minutes
    read_configuration(folder)
    if not has_weights(folder):
        raise ValueError(f"{folder}: has no weights; a new network needs far more data: see --config")
    if not minutes > 0:
        raise ValueError(f"--minutes must be above 0, got {minutes:g}")
    if not args.no_gate:
        require(GATED)
    others = find_pairs(args.gate) if args.gate else []
    progress = functools.partial(Bar, desc="checking", leave=False, quiet=args.quiet)
    names = PARTS[:2] if args.gate or args.no_gate else PARTS
    parts, rule = load_parts(args.data, names, args.split_by, progress)
    if shared := {pair.clean.resolve() for pair in others} & {pair.clean.resolve() for pair in chain(*parts.values())}:
        raise ValueError(f"{min(shared)}: is in --data and in --gate; what was trained on cannot judge")
    with alone_at_work(args.work_dir):
        record_parts(args.work_dir / "parts.json", parts)
    counts = ", ".join(f"{len(pairs)} for {name}" for name, pairs in parts.items())
    logger.info("pairs: %s; no %s is in two of these parts", counts, rule)
    rows = tuple(load_rows(parts[name]) for name in PARTS[:2])
    gate = None if args.no_gate else _Gate(folder, others or parts["gate"], must_gain=True, quiet=args.quiet)
    spent = time.monotonic() - begun + (gate.seconds if gate else 0)  # it judges once more at the end
    steps = math.ceil(len(rows[0]) / options.get("train.dataloader.batch_size_per_gpu", BATCH))
    defaults = OPTIONS | {"train.train_iters_per_epoch": min(steps, MOST_STEPS)}
    options |= {"train.max_minutes": max(0.0, minutes - spent / 60)}
    scores = _train_and_judge(args, folder, rows, defaults | options, gate)
    if (output := args.work_dir / "output").exists():
        logger.info("done; use it with: modelscope-ext denoise --model %s", output)
    return {} if gate else scores


def _train_and_judge(
    args: argparse.Namespace, folder: Path, data: Any, options: dict[str, Any], gate: "_Gate | None"
) -> dict[str, float]:
    """Train, then print the gate's tables: a full standard output costs no result."""
    try:
        return fine_tune(folder, data, args.work_dir, options, args.device, gate, not args.quiet)
    finally:
        if gate and gate.tables:
            print_result(*gate.tables)


class _Gate:
    """A comparison with the model before the training. Called with the new model folder it returns complaints.

    seconds: the time that one model takes.
    tables: of the scores.
    """

    def __init__(self, folder: Path, pairs: Sequence[Pair], must_gain: bool, quiet: bool) -> None:
        begun = time.monotonic()
        self.pairs, self.must_gain, self.quiet = pairs, must_gain, quiet
        self.before = evaluate(pairs, Denoiser(folder), GATED, name="before", progress=not quiet)
        self.seconds, self.tables = time.monotonic() - begun, []

    def __call__(self, result: Path) -> list[str]:
        after = evaluate(self.pairs, Denoiser(result), GATED, name="after", progress=not self.quiet)
        table = to_markdown([self.before, after])
        self.tables.append(f"{len(self.pairs)} pairs that were not trained on:\n\n{table}\n")
        margins = {name: MARGINS[name] for name in GATED}
        complaints = regression_gate(self.before, after, margins)
        if self.must_gain and not complaints and not regression_gate(after, self.before, margins):
            least = ", ".join(f"{MARGINS[name]:g} {''.join(COLUMNS[name][:2])}" for name in GATED)
            complaints = [f"nothing was gained: no mean rose by more than {least}"]
        return complaints
