"""The command `train`: a CRUSE on folders of audio, or a model folder on prepared data."""

import argparse
from collections.abc import Callable
from pathlib import Path

from modelscope_ext.checkpoint import has_weights
from modelscope_ext.cli.common import add_device, add_quiet
from modelscope_ext.data.pairs import find_pairs
from modelscope_ext.evaluation import MARGINS, evaluate, regression_gate
from modelscope_ext.hub import model_folder
from modelscope_ext.inference.denoiser import Denoiser
from modelscope_ext.training.config import load_config
from modelscope_ext.training.fine_tuning import fine_tune
from modelscope_ext.training.loop import TrainingLoop
from modelscope_ext.training.mixtures import MixtureRecipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `train`."""
    parser.description = (
        "Trains a network. If the run is interrupted, the same command continues it from its last checkpoint. Several "
        "processes or machines: torchrun --nproc-per-node N -m modelscope_ext train …"
    )
    add_quiet(parser)
    add_device(parser)
    recipe = parser.add_mutually_exclusive_group(required=True)
    recipe.add_argument(
        "--config", type=Path, metavar="JSON", help="train a CRUSE on mixtures made during training: see examples/"
    )
    recipe.add_argument("--model", metavar="M", help="train this model folder or id on what prepare-data wrote")
    parser.add_argument("--work-dir", required=True, type=Path, metavar="DIR", help="checkpoints, logs, decoded audio")
    cruse = parser.add_argument_group("with --config")
    cruse.add_argument(
        "--data-dir", default=Path(), type=Path, metavar="DIR", help="root of the configuration's folders [.]"
    )
    cruse.add_argument("--steps", type=int, metavar="N", help="stop after N further steps")
    segments = parser.add_argument_group("with --model", "Options that are not given come from the configuration.")
    segments.add_argument("--data", type=Path, metavar="DIR", help="the prepared data set")
    segments.add_argument("--epochs", type=int, metavar="N", help="number of epochs")
    segments.add_argument("--iterations", type=int, metavar="N", help="steps in an epoch")
    segments.add_argument("--batch", type=int, metavar="N", help="segments in a batch")
    segments.add_argument("--learning-rate", type=float, metavar="R", help="learning rate")
    segments.add_argument(
        "--gate", type=Path, metavar="PAIRS", help="refuse a result that scores worse than the model on these pairs"
    )


def run(args: argparse.Namespace) -> None:
    """Train and print the scores of the last validation."""
    if args.model:
        scores = _train_on_segments(args)
    else:
        recipe = MixtureRecipe(load_config(args.config), args.data_dir, args.work_dir, args.device, not args.quiet)
        scores = TrainingLoop(recipe).run(args.steps)
    for name, value in scores.items():
        print(f"{name} {value:.4g}")


def _train_on_segments(args: argparse.Namespace) -> dict[str, float]:
    if not args.data:
        raise ValueError("--model needs --data, a folder that prepare-data wrote")
    options = {
        "train.max_epochs": args.epochs,
        "train.train_iters_per_epoch": args.iterations,
        "train.dataloader.batch_size_per_gpu": args.batch,
        "evaluation.dataloader.batch_size_per_gpu": args.batch,
        "train.optimizer.lr": args.learning_rate,
    }
    folder = model_folder(args.model)
    return fine_tune(
        folder,
        args.data,
        args.work_dir,
        {key: value for key, value in options.items() if value is not None},
        args.device,
        _gate(folder, args.gate) if args.gate else None,
        not args.quiet,
    )


def _gate(folder: Path, pairs: Path) -> Callable[[Path], list[str]] | None:
    """Return a function that compares another model folder with this one or None if this one has no weights."""
    found, metrics = find_pairs(pairs), ("wb_pesq", "stoi", "si_sdr")  # quick ones that fine-tuning spoils first
    if not has_weights(folder):
        return None
    before = evaluate(found, Denoiser(folder), metrics, name="before")
    margins = {name: MARGINS[name] for name in metrics}
    return lambda result: regression_gate(before, evaluate(found, Denoiser(result), metrics, name="after"), margins)
