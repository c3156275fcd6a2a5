"""Options, messages and progress bars that several commands share."""

import argparse
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from modelscope_ext.text import printable


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """Add `-q`."""
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress, only warnings and errors")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add `--device`."""
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1 …; for ONNX files also openvino")


def add_model(parser: argparse._ActionsContainer, default: str = "file") -> None:
    """Add `--model`; `default` names a model in this package."""
    kinds = "file or stream, the models in this package; a model folder; or an id of ModelScope's hub"
    parser.add_argument("--model", metavar="M", help=f"{kinds} [{default}]")


def add_strength(parser: argparse.ArgumentParser) -> None:
    """Add `--wet` and `--attenuation-limit`, None where not given, and `--band`."""
    parser.add_argument("--wet", type=float, metavar="W", help="1 all denoised … 0 unchanged [1]")
    parser.add_argument(
        "--attenuation-limit",
        type=float,
        metavar="DB",
        help="lower noise by at most DB; inf for no limit [what the model recommends]",
    )
    parser.add_argument(
        "--band",
        choices=["full", "speech"],
        default="full",
        help="full keeps speech above 8 kHz, speech lowers all there [full]",
    )


def configure_logging(quiet: bool) -> None:
    """Print the package's log on standard error, of other packages and with `quiet` only warnings and errors."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[_Lines()])
    logging.getLogger("modelscope_ext").setLevel(logging.WARNING if quiet else logging.INFO)


@contextmanager
def messages_without(text: str) -> Iterator[None]:
    """Leave a text out of the log in the block: the name of a temporary folder means nothing to a user."""

    def shorten(record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                each if isinstance(each, (int, float)) else str(each).replace(text, "") for each in record.args
            )
        return True

    handlers = list(logging.getLogger().handlers)
    for handler in handlers:
        handler.addFilter(shorten)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(shorten)


@contextmanager
def standard_output() -> Iterator[None]:
    """Flush standard output after the block; raise OSError that names it where it takes no more."""
    try:
        yield
        if sys.stdout:  # None after >&-
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # discard what is still buffered
        raise OSError(f"standard output: {error.strerror}") from error


def print_result(*lines: object) -> None:
    """Print lines on standard output, after all files are written."""
    with standard_output():
        print(*lines, sep="\n")


def print_error(reason: object) -> None:
    """Print an error on standard error: one line, or those of a list of problems."""
    title, *others = getattr(reason, "lines", [str(reason)])
    _print_line("\n".join([f"modelscope-ext: {printable(title)}", *map(printable, others)]))


class _Lines(logging.Handler):
    """Log messages on standard error, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.args, tuple):  # names in them may have line feeds
            record.args = tuple(each if isinstance(each, (int, float)) else printable(each) for each in record.args)
        _print_line("\n".join(map(printable, self.format(record).split("\n"))))


def _print_line(line: str) -> None:
    """Print on standard error, above a progress bar if there is one."""
    if tqdm := sys.modules.get("tqdm"):
        tqdm.tqdm.write(line, file=sys.stderr)
    else:
        print(line, file=sys.stderr)
    sys.stderr.flush()


class Messages:
    """Standard error that drops what it cannot take: the work goes on without messages, also those of other packages.

    Args:
        stream: the real one.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text, if the stream takes it; return its length."""
        with suppress(OSError, ValueError):  # a full disk, or closed
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered, if the stream takes it."""
        with suppress(OSError, ValueError):
            self._stream.flush()
