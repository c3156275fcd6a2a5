"""The command `info`: what a model is, costs and scores."""

import argparse
import json

from modelscope_ext.info import _as_text, describe

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `info`."""
    parser.description = (
        "Prints architecture, parameters, operations, latency, licence and sources of a model, and the tables of its "
        "card."
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help="folder, id or .onnx file [the packaged model]")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    """Print facts about a model."""
    found = describe(args.model)
    print(json.dumps(found, indent=2, ensure_ascii=False) if args.json else _as_text(found))
