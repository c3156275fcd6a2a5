"""The command line `modelscope-ext`: a module for each command, imported when the command is called.

A command module has `add_arguments(parser)` and `run(args)`, which returns the exit code or None for 0.

Exit codes: 0 success, 1 a file or the whole command failed, 2 wrong usage, 130 Ctrl-C, 141 standard output was closed,
143 SIGTERM.
"""

import argparse
import importlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any, NoReturn

from modelscope_ext import __version__
from modelscope_ext.cli.common import Messages, configure_logging, print_error, print_result, standard_output
from modelscope_ext.text import printable

__all__ = ["COMMANDS", "add_command", "execute", "main"]

#: For commands of a light install that need the packages it leaves out.
INSTALL = "this needs {}, which a light install leaves out: pip install 'modelscope-ext[{}]'"
#: What torch, Python and C++ say in a RuntimeError where memory is scarce.
SCARCE = ("can't allocate memory", "can't start new thread", "bad alloc", "bad_alloc", "could not create a primitive")
#: Command → its line in `--help`; the module `cli/NAME.py` has the rest.
COMMANDS = {
    "denoise": "denoise files and folders",
    "stream": "denoise live: raw PCM from stdin to stdout, or sound devices",
    "report": "write a page to hear and see what a model does to files",
    "demo": "denoise in the browser",
    "info": "print what a model is, costs and scores",
    "doctor": "check the installation and a model, and print how to fix problems",
    "prepare-data": "write a data set folder that load_dataset and MsDataset.load read",
    "train": "adapt a model to pairs of your own, or train a network on mixtures",
    "evaluate": "score a model on pairs of noisy and clean recordings",
    "export": "write a model as an ONNX file",
}


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code."""
    return execute(lambda: _parse(sys.argv[1:] if argv is None else argv))


def execute(parse: Callable[[], argparse.Namespace]) -> int:
    """Run a command and return its exit code; print an error in one line.

    Args:
        parse: returns the parsed arguments; errors of this call are printed too, since it imports the command.
    """
    _open_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a console of an old code page lacks characters
            stream.reconfigure(errors="backslashreplace")
    with redirect_stderr(Messages(sys.stderr)):
        return _execute(parse)


def _execute(parse: Callable[[], argparse.Namespace]) -> int:
    try:
        with _unwound_by_sigterm():
            args = parse()
            configure_logging(getattr(args, "quiet", False))
            code = args.run(args) or 0
            with standard_output():
                return code
    except KeyboardInterrupt:
        print_error("interrupted")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # discard what is still buffered
        return 141
    except ModuleNotFoundError as error:
        extra = "metrics" if error.name == "pandas" else "full"  # `evaluate` needs no torch
        print_error(INSTALL.format(error.name, extra) if error.name else error)  # messages of ours say what to install
        return 1
    except (ValueError, OSError, ImportError) as error:  # a library that the system does not load, for want of memory
        print_error(error)
        return 1
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(text in str(error) for text in SCARCE):
            raise
        print_error(f"not enough memory: {str(error) or type(error).__name__}")
        return 1


@contextmanager
def _unwound_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that no temporary file is left; only the main thread can."""

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _open_streams() -> None:
    """Open what is closed of standard output and error: the next file would take its number, and its messages."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it has the lowest free number
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (until the end)


def add_command(commands: Any, name: str) -> argparse.ArgumentParser:
    """Import a command and add its parser to the sub-commands of `modelscope-ext` or `modelscope`."""
    module = importlib.import_module(f"modelscope_ext.cli.{name.replace('-', '_')}")
    parser = commands.add_parser(name, help=COMMANDS[name])
    module.add_arguments(parser)
    parser.set_defaults(run=module.run)
    return parser


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are safe to print, and whose help is an error where standard output takes no more."""

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))  # a shell's * may give the name of a file that begins with a dash

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is not sys.stdout:
            super()._print_message(message, file)
        elif file:
            print_result(message.removesuffix("\n"))


class _PrintCompletion(argparse.Action):
    """An option that prints a shell's completion script and ends the program."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, shell: Any, option: Any = None) -> None:
        import shtab

        whole = _parser(list(COMMANDS))
        commands = next(action for action in whole._actions if isinstance(action, argparse._SubParsersAction))
        for command in commands.choices.values():
            for action in command._actions:
                if action.nargs != 0 and not action.choices:
                    action.complete = shtab.FILE  # most values are names of files
        print_result(shtab.complete(whole, shell))
        parser.exit()


def _parse(argv: list[str]) -> argparse.Namespace:
    return _parser(argv[:1]).parse_args(argv)


def _parser(names: list[str]) -> argparse.ArgumentParser:
    """Return the parser with the options of these commands. A module of the others is not imported."""
    parser = _Parser(prog="modelscope-ext", description="Remove noise from speech recordings.")
    parser.add_argument("--version", action="version", version=f"modelscope-ext {__version__}")
    parser.add_argument(
        "--print-completion", choices=["bash", "zsh", "tcsh"], action=_PrintCompletion, help="print a shell's script"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, line in COMMANDS.items():
        try:
            if name in names:
                add_command(commands, name)
                continue
        except ModuleNotFoundError:  # of a light install
            if len(names) == 1:
                raise
        commands.add_parser(name, help=line)
    return parser
