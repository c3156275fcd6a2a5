"""`modelscope denoise`: our command in ModelScope's command line."""

from argparse import ArgumentParser, Namespace
from typing import Any

from modelscope_ext.cli import add_denoise, execute

__all__ = ["DenoiseCommand"]


class DenoiseCommand:
    """The same as `modelscope-ext denoise`; found by its entry point, group `modelscope_hub.cli_plugins`."""

    name = "denoise"

    def __init__(self, args: Namespace) -> None:
        self.args = args

    @staticmethod
    def register(subparsers: Any) -> ArgumentParser:
        """Adds the command to ModelScope's parser."""
        parser = add_denoise(subparsers)
        parser.set_defaults(_command=DenoiseCommand)
        return parser

    def execute(self) -> None:
        """Runs it; a failure is told on stderr and becomes the exit code."""
        raise SystemExit(execute(self.args))
