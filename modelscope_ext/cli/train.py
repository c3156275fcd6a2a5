"""The command `train`: a CRUSE on folders of audio, or a model folder on prepared data."""

import argparse
from pathlib import Path

from modelscope_ext.cli.common import add_device, add_quiet, print_scores

__all__ = ["add_arguments", "run"]


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
        from modelscope_ext.training.config import load_config
        from modelscope_ext.training.trainer import Trainer

        config = load_config(args.config)
        scores = Trainer(config, args.data_dir, args.work_dir, args.device, progress=not args.quiet).run(args.steps)
    print_scores(scores)


def _train_on_segments(args: argparse.Namespace) -> dict[str, float]:
    if not args.data:
        raise ValueError("--model needs --data, a folder that prepare-data wrote")
    from modelscope_ext.plugin.fine_tuning import fine_tune

    return fine_tune(
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
