"""Options, messages and progress bars that several commands share."""

import argparse
import logging
import sys


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """Add `-q`."""
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress, only warnings and errors")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add `--device`."""
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1 …; for ONNX files also openvino")


def add_model(parser: argparse.ArgumentParser, kind: str = "model folder, or id of ModelScope's hub") -> None:
    """Add `--model`; `kind` says which models the command takes."""
    parser.add_argument("--model", metavar="M", help=f"{kind} [the model in this package]")


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


def bar_is_hidden(args: argparse.Namespace) -> bool | None:
    """Return tqdm's `disable`: True with `-q`, None to hide the bar where standard error is not a terminal."""
    return True if args.quiet else None


def configure_logging(quiet: bool) -> None:
    """Print the package's log on standard error; with `quiet` only warnings and errors."""
    logging.basicConfig(level=logging.WARNING if quiet else logging.INFO, format="%(message)s", handlers=[_Lines()])


def print_error(reason: object) -> None:
    """Print one line on standard error."""
    _print_line(f"modelscope-ext: {_escape(str(reason))}")


class _Lines(logging.Handler):
    """Log messages on standard error, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        _print_line("\n".join(map(_escape, self.format(record).split("\n"))))


def _print_line(line: str) -> None:
    if tqdm := sys.modules.get("tqdm"):
        tqdm.tqdm.write(line, file=sys.stderr)
    else:
        print(line, file=sys.stderr)


def _escape(text: str) -> str:
    """Escape line feeds and terminal sequences, which file names may contain."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
