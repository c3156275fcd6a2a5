"""The command `prepare-data`, which writes data set folders.

It is imported whenever the command line starts; all that takes time to import is imported where it is used. The
functions behind the command can be had from here too.
"""

import argparse
import functools
import importlib
from pathlib import Path
from typing import Any

__all__ = ["add_command"]

_HOMES = {
    "prepare_from_dataset": "modelscope_ext.data.pairs",
    "prepare_mixtures": "modelscope_ext.data.mixtures",
    "prepare_pairs": "modelscope_ext.data.pairs",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def add_command(commands: argparse._SubParsersAction, common: argparse.ArgumentParser) -> None:
    """Adds `prepare-data` to the commands; `common` has `--quiet`."""
    parser = commands.add_parser(
        "prepare-data",
        parents=[common],
        help="write a data set folder that load_dataset and MsDataset.load read",
        description="Writes noisy and clean pairs as a data set folder with the configurations train and test. All data"
        " are checked before anything is written. Killed and started again, it goes on after the last whole shard.",
    )
    add = functools.partial(parser.add_argument, metavar="DIR", type=Path)
    add("--noisy", help="noisy files; partners have the same name or the same ..fileid_N, as in the DNS challenge")
    add("--clean", help="their clean files")
    add("--speech", help="clean speech to make mixtures of")
    add("--noise", help="noise for the mixtures")
    add("--rooms", help="room impulse responses for the mixtures")
    add("--from-dataset", help="a copy of a script-based data set, unpacked")
    add("-o", "--output", required=True, metavar="OUT", help="the data set folder")
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--hours", type=float, metavar="H", help="of mixtures")
    amount.add_argument("--count", type=int, metavar="N", help="of mixtures, instead of hours")
    parser.add_argument("--seconds", type=float, metavar="S", help="length of a mixture [4]")
    parser.add_argument("--seed", type=int, metavar="N", help="of the mixtures; another one for each split [0]")
    parser.add_argument(
        "--split", choices=("train", "test"), help="what to write [train; with --from-dataset all there is]"
    )
    parser.add_argument("--skip-bad", action="store_true", help="leave unusable files out instead of stopping")
    parser.set_defaults(run=functools.partial(_run, parser))


def _run(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    given = {name for name, value in vars(args).items() if value is not None}
    kinds = [("noisy", "clean"), ("speech", "noise"), ("from_dataset",)]
    chosen = [kind for kind in kinds if given & set(kind)]
    if len(chosen) != 1 or not given >= set(chosen[0]):
        parser.error("give --noisy and --clean, or --speech and --noise, or --from-dataset")
    of_mixtures = given & {"rooms", "hours", "count", "seconds", "seed"}
    if chosen[0] != ("speech", "noise") and of_mixtures:
        parser.error(f"--{min(of_mixtures)} is for mixtures: it goes with --speech and --noise")
    if chosen[0] == ("speech", "noise") and not given & {"hours", "count"}:
        parser.error("say how much to mix: --hours or --count")

    from tqdm import tqdm

    bar = functools.partial(tqdm, disable=True if args.quiet else None)
    options = {"skip_bad": args.skip_bad, "progress": bar}
    if args.noisy:
        from modelscope_ext.data.pairs import prepare_pairs

        done = [prepare_pairs(args.noisy, args.clean, args.output, args.split or "train", **options)]
    elif args.speech:
        from modelscope_ext.data.mixing import MixConfig
        from modelscope_ext.data.mixtures import prepare_mixtures

        config = MixConfig(silent_share=0.0, **({} if args.seconds is None else {"seconds": args.seconds}))
        amount = {"hours": args.hours, "count": args.count, "seed": args.seed or 0, "config": config}
        folders = (args.speech, args.noise, args.rooms, args.output, args.split or "train")
        done = [prepare_mixtures(*folders, **amount, **options)]
    else:
        from modelscope_ext.data.pairs import prepare_from_dataset

        done = prepare_from_dataset(args.from_dataset, args.output, args.split, **options)
    print(*done, sep="\n")
    return 0
