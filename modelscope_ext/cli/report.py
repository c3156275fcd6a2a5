"""The command `report`: a page of files before and after denoising."""

import argparse
import logging
from pathlib import Path

from modelscope_ext import __version__
from modelscope_ext.atomic import require_apart
from modelscope_ext.audio import AudioError
from modelscope_ext.cli.common import add_device, add_model, add_quiet
from modelscope_ext.hub import local_folder
from modelscope_ext.inference.denoiser import Denoiser
from modelscope_ext.progress import Bar
from modelscope_ext.report import collect, write_page

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `report`."""
    parser.description = (
        "Denoises a file or a folder and writes one HTML page with players, spectrograms, levels and figures. The page "
        "embeds everything it shows. It needs matplotlib: pip install 'modelscope-ext[demo]'."
    )
    parser.add_argument("input", type=Path, metavar="INPUT", help="an audio file, or a folder of them")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("report.html"), metavar="HTML", help="the page [report.html]"
    )
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="CLEAN",
        help="the clean file, or a folder of clean files with the same names or the same ..fileid_N, for scores "
        "instead of an estimate",
    )
    add_model(parser)
    add_device(parser)
    add_quiet(parser)


def run(args: argparse.Namespace) -> None:
    """Write the page. Raise AudioError if a file failed."""
    problems: dict[str, str] = {}
    sources = collect(args.input, args.reference, problems)
    read = (path for each in sources for path in (each.noisy, each.clean))
    require_apart([args.output], [local_folder(args.model), *read])
    denoiser = Denoiser(args.model, args.device)
    model = f"{args.model or 'the model in modelscope-ext'}, modelscope-ext {__version__}"
    with Bar(sources, desc="report", unit="file", quiet=args.quiet) as bar:
        failed = write_page(args.output, bar, denoiser, model, problems)
    for name, reason in failed.items():
        logger.warning("%s: %s", name, reason)
    if failed:
        total = len(sources) + len(problems)
        raise AudioError(f"{len(failed)} of {total} files failed; {args.output} shows the others")
    logger.info("%s: %d file(s), %.1f MB", args.output, len(sources), args.output.stat().st_size / 1e6)
