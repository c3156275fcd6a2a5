"""`modelscope denoise`: our command in ModelScope's command line."""

from argparse import ArgumentParser, Namespace
from typing import Any

from modelscope_ext.cli import add_command, execute


class DenoiseCommand:
    """The same as `modelscope-ext denoise`, with the entry point group `modelscope_hub.cli_plugins`."""

    name = "denoise"

    def __init__(self, args: Namespace) -> None:
        self.args = args

    @staticmethod
    def register(subparsers: Any) -> ArgumentParser:
        """Add the command to ModelScope's parser."""
        parser = add_command(subparsers, "denoise")
        parser.set_defaults(_command=DenoiseCommand)
        return parser

    def execute(self) -> None:
        """Run the command and exit with its code."""
        raise SystemExit(execute(lambda: self.args))
