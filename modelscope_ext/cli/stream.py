"""The command `stream`: raw PCM from standard input to standard output, or from a microphone to a loudspeaker.

Bytes hold interleaved samples, little-endian. The command line imports this when it starts; what takes time to import
is imported where it is used.
"""

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import ModuleType
from typing import Any

__all__ = ["FORMATS", "add_command"]

logger = logging.getLogger(__name__)

#: The names that ffmpeg has for them → those of numpy.
FORMATS = {"u8": "u1", "s16le": "<i2", "s32le": "<i4", "f32le": "<f4"}
#: What files begin with that are no raw PCM.
HEADERS = {b"RIFF": "a wav file", b"fLaC": "a flac file", b"OggS": "an ogg file", b"ID3": "an mp3 file"}
#: Seconds of audio after which a machine that is too slow is told so.
PATIENCE_S = 5.0
#: Seconds of a block, those of all channels together.
LONGEST_BLOCK_S = 10.0
#: Blocks of silence before a stream begins.
REHEARSED = 8


def add_command(commands: Any, parents: Sequence[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Adds `stream` to the sub-commands of a parser; `parents` bring `--quiet` and `--device`."""
    parser = commands.add_parser(
        "stream",
        parents=parents,
        help="denoise live: raw PCM from stdin to stdout, or sound devices",
        description="Denoises raw PCM from standard input to standard output as it comes: arecord -t raw -f S16_LE "
        "-r 16000 | modelscope-ext stream | aplay -t raw -f S16_LE -r 16000. What comes out lines up with what went "
        "in, and is as long. Latency and real-time factor are told on standard error.",
    )
    add = parser.add_argument
    add("--rate", type=int, default=16000, metavar="HZ", help="samples per second [16000]")
    add("--channels", type=int, default=1, metavar="N", help="each is denoised on its own [1]")
    add("--format", choices=tuple(FORMATS), default="s16le", help="of the samples, as ffmpeg names them [s16le]")
    add("--block-ms", type=float, default=20.0, metavar="MS", help="taken and given at a time [20]")
    add("--model", metavar="M", help="a causal model: folder or id [the one in this package]")
    add("--wet", type=float, default=1.0, metavar="W", help="1 all denoised … 0 all as it was [1]")
    add("--attenuation-limit", type=float, metavar="DB", help="lower noise by at most DB; inf for no limit")
    where = parser.add_argument_group(
        "sound devices", "these need sounddevice (pip install 'modelscope-ext[live]'); Ctrl-C ends"
    )
    for name, end in (("input", "standard input"), ("output", "standard output")):
        where.add_argument(
            f"--{name}",
            nargs="?",
            const="",
            metavar="DEV",
            help=f"number or part of the name of a device instead of {end}; without DEV the system's default; "
            "python -m sounddevice lists them",
        )
    parser.set_defaults(run=_run)
    return parser


def _run(args: argparse.Namespace) -> int:
    from modelscope_ext.audio import check_layout

    if args.channels < 1:
        raise ValueError(f"--channels must be at least 1, got {args.channels}")
    check_layout(args.rate, args.channels)
    if not args.block_ms * args.channels <= 1000 * LONGEST_BLOCK_S:
        raise ValueError(f"--block-ms {args.block_ms:g} is too long: at most {LONGEST_BLOCK_S:g} s of all channels")
    block = round(args.block_ms * args.rate / 1000)
    if block < 1:
        raise ValueError(f"--block-ms {args.block_ms:g} is less than a sample at {args.rate} Hz")
    sounds = _sounddevice() if (args.input, args.output) != (None, None) else None
    if args.input is None and (not sys.stdin or sys.stdin.isatty()):
        raise ValueError(
            f"standard input is {'a terminal' if sys.stdin else 'closed'}; pipe raw PCM into it, as in: arecord -t raw "
            "-f S16_LE -r 16000 | modelscope-ext stream | aplay -t raw -f S16_LE -r 16000; or take a microphone with "
            "--input"
        )
    if args.output is None and not sys.stdout:
        raise ValueError("standard output is closed; pipe it on or take --output DEV")
    if args.output is None and sys.stdout.isatty():
        raise ValueError(
            "standard output is a terminal, and raw PCM is not for reading; pipe it on or take --output DEV"
        )

    import numpy as np

    from modelscope_ext.inference.denoiser import Denoiser

    dtype = np.dtype(FORMATS[args.format])
    denoiser = Denoiser(args.model, args.device, wet=args.wet, attenuation_limit_db=args.attenuation_limit)
    torch = sys.modules.get("torch")  # ONNX files do without
    if torch and "OMP_NUM_THREADS" not in os.environ:  # frames are small: beside a busy core two threads are slower
        torch.set_num_threads(1)
    shape = (-1, args.channels) if args.channels > 1 else (-1,)
    rehearsal = denoiser.stream(args.rate, args.channels)
    for _ in range(REHEARSED):  # the first calls take many times as long as the others
        rehearsal.feed(np.zeros((block, *shape[1:]), dtype))
    stream = denoiser.stream(args.rate, args.channels)
    clock = _Clock(args.rate)

    def process(data: bytes) -> bytes:
        with clock:
            samples = np.frombuffer(data, dtype).reshape(shape)
            clock.samples += len(samples)
            return stream.feed(samples).tobytes()

    plural = "s" if args.channels > 1 else ""
    with ExitStack() as stack:
        read, write = _ends(args, block, dtype, sounds, stack)
        logger.info(
            "%d Hz, %d channel%s, %s: latency %.0f ms, of which %g ms for the block%s",
            *(args.rate, args.channels, plural, args.format, stream.latency_ms + args.block_ms, args.block_ms),
            ", without the devices'" if sounds else "",
        )
        try:
            try:
                _pump(read, process, write, dtype.itemsize * args.channels)
            finally:  # Ctrl-C ends the input too
                write(stream.flush().tobytes())
        except BrokenPipeError:
            logger.info("standard output was closed")
            raise
        finally:
            logger.info("%s", clock)
    return 0


def _pump(
    read: Callable[[], bytes], process: Callable[[bytes], bytes], write: Callable[[bytes], object], size: int
) -> None:
    """Blocks of whole samples of `size` bytes from one end to the other, until there are no more.

    Nothing is kept: when the reader is slow, `write` waits, and so does whoever writes to us.
    """
    first = True
    while data := read():
        if first and (found := next((what for start, what in HEADERS.items() if data.startswith(start)), None)):
            raise ValueError(
                f"the input is {found}, not raw PCM: arecord -t raw, or ffmpeg -i FILE -f s16le -ar 16000 -ac 1 -"
            )
        first = False
        if rest := len(data) % size:  # only at the end
            logger.warning("the input ends within a sample; its last %d byte(s) are left out", rest)
            data = data[:-rest]
        write(process(data))


class _Clock:
    """Times the processing of a stream: `with clock:` around each block; tells once when it is too slow."""

    def __init__(self, rate: int) -> None:
        self.rate, self.samples = rate, 0
        self.seconds = self.slowest = 0.0
        self.told = False

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_) -> None:
        took = time.perf_counter() - self.start
        self.seconds, self.slowest = self.seconds + took, max(self.slowest, took)
        if self.factor > 1 and self.samples > PATIENCE_S * self.rate and not self.told:
            self.told = True
            logger.warning("slower than real time: live audio will have gaps; try a larger --block-ms or another model")

    @property
    def factor(self) -> float:
        """Seconds of work for a second of audio."""
        return self.seconds * self.rate / max(1, self.samples)

    def __str__(self) -> str:
        return (
            f"{self.samples / self.rate:.1f} s of audio: real-time factor {self.factor:.3f}, "
            f"slowest block {1000 * self.slowest:.1f} ms"
        )


def _ends(
    args: argparse.Namespace, block: int, dtype: Any, sounds: ModuleType | None, stack: ExitStack
) -> tuple[Callable[[], bytes], Callable[[bytes], object]]:
    """`read() -> bytes`, a block or, at the end, less; and `write(bytes)`."""
    size = block * dtype.itemsize * args.channels

    def device(kind: str, name: str) -> Any:
        number = int(name) if name.isdecimal() else name or None
        options = {"samplerate": args.rate, "blocksize": block, "channels": args.channels, "dtype": dtype.name}
        try:
            return stack.enter_context(getattr(sounds, f"Raw{kind.title()}Stream")(device=number, **options))
        except (sounds.PortAudioError, ValueError) as error:
            raise ValueError(
                f"--{kind}{name and ' '}{name}: {error}; python -m sounddevice lists the devices"
            ) from error

    microphone = None if args.input is None else device("input", args.input)

    def read() -> bytes:
        if microphone is None:
            return sys.stdin.buffer.read(size)
        data, overflowed = microphone.read(block)
        if overflowed:
            logger.warning("the microphone was not read in time; samples were lost")
        return bytes(data)

    return read, _write if args.output is None else device("output", args.output).write


def _write(data: bytes) -> None:
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the rest fails again when Python ends
        raise OSError(f"standard output: {error.strerror}") from error


def _sounddevice() -> ModuleType:
    try:
        import sounddevice
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "--input and --output need the package sounddevice: pip install 'modelscope-ext[live]'"
        ) from error
    except OSError as error:  # the package is there, the library that it stands on is not
        raise OSError(
            f"sounddevice cannot be used ({error}); on Debian and Ubuntu: apt install libportaudio2"
        ) from error
    return sounddevice
