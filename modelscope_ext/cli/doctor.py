"""The command `doctor`: what of an installation and of a model works, what fails, and how to fix it."""

import argparse

from modelscope_ext.doctor import _run

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `doctor`."""
    parser.description = (
        "Checks Python, packages, audio, the model, the cache and the GPU. It reports what works, what fails, and the "
        "command that fixes it. Nothing is downloaded. The exit code is 1 if there is a problem."
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help="check this folder, id or .onnx file too")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the results; return 1 if there is a problem."""
    return _run(args)
