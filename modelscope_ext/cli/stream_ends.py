"""The ends of a stream: pipes, and sound devices by the package sounddevice."""

import argparse
import logging
import sys
from collections.abc import Callable
from contextlib import ExitStack
from types import ModuleType
from typing import Any

import numpy as np

from modelscope_ext.cli.common import standard_output

logger = logging.getLogger(__name__)

EXAMPLE = "arecord -t raw -f S16_LE -r 16000 | modelscope-ext stream | aplay -t raw -f S16_LE -r 16000"


def add_devices(parser: argparse.ArgumentParser) -> None:
    """Add `--input` and `--output`."""
    devices = parser.add_argument_group(
        "sound devices", "These need sounddevice (pip install 'modelscope-ext[live]'). Ctrl-C ends the stream."
    )
    for name, end in (("input", "standard input"), ("output", "standard output")):
        devices.add_argument(
            f"--{name}",
            nargs="?",
            const="",
            metavar="DEV",
            help=f"device to use instead of {end}: its number or part of its name; without DEV the system's default; "
            "python -m sounddevice lists them",
        )


def check_ends(args: argparse.Namespace) -> None:
    """Raise an error if the chosen pipes or sound devices cannot be used."""
    if (args.input, args.output) != (None, None):
        _import_sounddevice()
    check_pipes(args.input is None, args.output is None, f"; pipe raw PCM into it, as in: {EXAMPLE}; or use --input")


def check_pipes(input: bool, output: bool, hint: str = "; give it a file by <") -> None:
    """Raise ValueError if standard input or output is to be used and is closed or a terminal."""
    if input and (not sys.stdin or sys.stdin.isatty()):
        raise ValueError(f"standard input is {'a terminal' if sys.stdin else 'closed'}{hint}")
    if output and (not sys.stdout or sys.stdout.isatty()):
        state = "a terminal, which cannot show audio" if sys.stdout else "closed"
        raise ValueError(f"standard output is {state}; pipe it to a program or use --output")


def open_ends(
    args: argparse.Namespace, block: int, dtype: np.dtype, stack: ExitStack
) -> tuple[Callable[[], bytes], Callable[[bytes], object]]:
    """Return `read() -> bytes`, which gives a block, or less at the end, and `write(bytes)`."""

    def device(kind: str, name: str) -> Any:
        sounds = _import_sounddevice()
        number = int(name) if name.isdecimal() else name or None
        options = {"samplerate": args.rate, "blocksize": block, "channels": args.channels, "dtype": dtype.name}
        try:
            return stack.enter_context(getattr(sounds, f"Raw{kind.title()}Stream")(device=number, **options))
        except (sounds.PortAudioError, ValueError) as error:
            option = f"--{kind} {name}".rstrip()
            raise ValueError(f"{option}: {error}; python -m sounddevice lists the devices") from error

    microphone = None if args.input is None else device("input", args.input)

    def read() -> bytes:
        if microphone is None:
            return sys.stdin.buffer.read(block * dtype.itemsize * args.channels)
        data, overflowed = microphone.read(block)
        if overflowed:
            logger.warning("the microphone was not read in time; samples were lost")
        return bytes(data)

    return read, _write if args.output is None else device("output", args.output).write


def _write(data: bytes) -> None:
    with standard_output():
        sys.stdout.buffer.write(data)


def _import_sounddevice() -> ModuleType:
    try:
        import sounddevice
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "--input and --output need the package sounddevice: pip install 'modelscope-ext[live]'"
        ) from error
    except OSError as error:  # PortAudio, which the package depends on, is missing
        raise OSError(
            f"sounddevice cannot be used ({error}); on Debian and Ubuntu: apt install libportaudio2"
        ) from error
    return sounddevice
