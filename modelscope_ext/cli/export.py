"""The command `export`: write a model as an ONNX file."""

import argparse
from pathlib import Path

from modelscope_ext.atomic import require_apart
from modelscope_ext.cli.common import add_model, add_quiet
from modelscope_ext.export import export_onnx
from modelscope_ext.hub import local_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `export`."""
    parser.description = (
        "Writes a model as an ONNX file, which `denoise --model` runs without PyTorch. The file is compared with "
        "PyTorch first. It is refused where samples differ by more than 0.0001."
    )
    add_model(parser, "file with --utterance, else stream")
    parser.add_argument("--format", choices=["onnx"], default="onnx", help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="OUT.onnx", help="the file to write")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--utterance",
        action="store_const",
        const=True,
        help="export whole utterances instead of one step with its state; the default for non-causal networks",
    )
    kind.add_argument(
        "--blocks",
        action="store_true",
        help="export steps of any number of hops: files take half the time, a single hop a sixth more",
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="store the matrices of a CRUSE's step in 8 bits: a smaller file and a faster step without an audible "
        "difference",
    )
    add_quiet(parser)


def run(args: argparse.Namespace) -> None:
    """Export the model."""
    if args.output.suffix.lower() != ".onnx":
        raise ValueError(f"{args.output}: the name of an ONNX file ends in .onnx")
    folder = local_folder(args.model)
    files = folder.glob("*") if folder else ()
    require_apart([args.output], [path for path in files if path.suffix != ".onnx"])  # a graph there is a result too
    export_onnx(args.model, args.output, args.utterance, args.int8, args.blocks)
