"""The command `prepare-data`: write a data set folder of noisy and clean pairs."""

import argparse
import functools
from pathlib import Path

from modelscope_ext.cli.common import add_quiet, print_result
from modelscope_ext.data.mixing import MixConfig
from modelscope_ext.data.prepare import prepare_from_dataset, prepare_mixtures, prepare_pairs
from modelscope_ext.progress import Bar
from modelscope_ext.text import printable

#: Options that choose what to write. Exactly one group is given.
SOURCES = (("noisy", "clean"), ("speech", "noise"), ("from_dataset",))
#: Options that only mixtures take.
OF_MIXTURES = {"rooms", "hours", "count", "seconds", "seed"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `prepare-data`."""
    parser.description = (
        "Writes noisy and clean pairs as a data set folder with the configurations train and test. All data are "
        "checked before anything is written. If the run is interrupted, the same command continues it."
    )
    add = functools.partial(parser.add_argument, metavar="DIR", type=Path)
    add("--noisy", help="noisy files; pairs share a file name or ..fileid_N, as in the DNS challenge")
    add("--clean", help="the clean files of --noisy")
    add("--speech", help="clean speech for mixtures")
    add("--noise", help="noise for mixtures")
    add("--rooms", help="room impulse responses for mixtures")
    add("--from-dataset", help="an unpacked copy of a script-based data set")
    add("-o", "--output", required=True, metavar="OUT", help="the data set folder")
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--hours", type=float, metavar="H", help="hours of mixtures to write")
    amount.add_argument("--count", type=int, metavar="N", help="number of mixtures to write")
    parser.add_argument("--seconds", type=float, metavar="S", help="length of a mixture [4]")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the mixtures; each split has its own [0]")
    parser.add_argument(
        "--split", choices=("train", "test"), help="split to write [train; with --from-dataset all splits]"
    )
    parser.add_argument("--skip-bad", action="store_true", help="skip unusable files instead of stopping")
    add_quiet(parser)
    parser.set_defaults(usage_error=parser.error)


def run(args: argparse.Namespace) -> None:
    """Write the data set and print what was written."""
    source = _check(args)
    split = args.split or "train"
    options = {"skip_bad": args.skip_bad, "progress": functools.partial(Bar, quiet=args.quiet)}
    if source == "noisy":
        done = [prepare_pairs(args.noisy, args.clean, args.output, split, **options)]
    elif source == "speech":
        config = MixConfig(silent_share=0.0, **({} if args.seconds is None else {"seconds": args.seconds}))
        amount = {"hours": args.hours, "count": args.count, "seed": args.seed or 0, "config": config}
        done = [prepare_mixtures(args.speech, args.noise, args.rooms, args.output, split, **amount, **options)]
    else:
        done = prepare_from_dataset(args.from_dataset, args.output, args.split, **options)
    print_result(*map(printable, done))


def _check(args: argparse.Namespace) -> str:
    """Return the first option of the chosen source; exit with a usage error where options do not fit together."""
    given = {name for name, value in vars(args).items() if value is not None}
    chosen = [source for source in SOURCES if given & set(source)]
    if len(chosen) != 1 or not given >= set(chosen[0]):
        args.usage_error("give --noisy and --clean, or --speech and --noise, or --from-dataset")
    source = chosen[0][0]
    if source != "speech" and given & OF_MIXTURES:
        args.usage_error(f"--{min(given & OF_MIXTURES)} is for mixtures: it needs --speech and --noise")
    if source == "speech" and not given & {"hours", "count"}:
        args.usage_error("give the amount of mixtures: --hours or --count")
    return source
