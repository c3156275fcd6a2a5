"""The command `stream`: raw PCM from standard input to standard output, or from a microphone to a loudspeaker.

Samples are interleaved and little-endian.
"""

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np

from modelscope_ext.audio import validate_format
from modelscope_ext.cli.common import add_device, add_model, add_quiet, add_strength
from modelscope_ext.cli.stream_ends import EXAMPLE, add_devices, check_ends, open_ends
from modelscope_ext.inference.denoiser import Denoiser
from modelscope_ext.inference.stream import DenoiseStream

logger = logging.getLogger(__name__)

#: ffmpeg's name of a sample format → numpy's.
FORMATS = {"u8": "u1", "s16le": "<i2", "s32le": "<i4", "f32le": "<f4"}
#: First bytes of files that are not raw PCM.
HEADERS = {b"RIFF": "a wav file", b"fLaC": "a flac file", b"OggS": "an ogg file", b"ID3": "an mp3 file"}
#: Seconds of audio after which a machine that is too slow is reported.
PATIENCE_S = 5.0
#: Longest block in seconds, summed over channels.
LONGEST_BLOCK_S = 10.0
#: Blocks of silence that are processed before a stream begins. The first calls take much longer than later ones.
WARMUP_BLOCKS = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `stream`."""
    parser.description = (
        f"Denoises raw PCM from standard input to standard output as it arrives: {EXAMPLE}. The output is aligned with "
        "the input and as long. Latency and real-time factor are printed on standard error."
    )
    add = parser.add_argument
    add("--rate", type=int, default=16000, metavar="HZ", help="samples per second [16000]")
    add("--channels", type=int, default=1, metavar="N", help="channels, each denoised on its own [1]")
    add("--format", choices=tuple(FORMATS), default="s16le", help="sample format, as ffmpeg names it [s16le]")
    add("--block-ms", type=float, default=20.0, metavar="MS", help="length of a block [20]")
    add_model(parser, "stream")
    add_device(parser)
    add_strength(parser)
    add_quiet(parser)
    add_devices(parser)


def run(args: argparse.Namespace) -> None:
    """Denoise until the input ends."""
    block = _check(args)
    check_ends(args)
    dtype = np.dtype(FORMATS[args.format])
    shape = (-1, args.channels) if args.channels > 1 else (-1,)
    stream = _open_stream(args, np.zeros((block, *shape[1:]), dtype))
    clock = _Clock(args.rate)

    def process(data: bytes) -> bytes:
        with clock:
            samples = np.frombuffer(data, dtype).reshape(shape)
            clock.samples += len(samples)
            return stream.feed(samples).tobytes()

    with ExitStack() as stack:
        read, write = open_ends(args, block, dtype, stack)
        latency = stream.latency_ms + args.block_ms
        devices = "" if (args.input, args.output) == (None, None) else ", without the devices'"
        logger.info(
            f"{args.rate} Hz, {args.channels} channel{'s' * (args.channels > 1)}, {args.format}: "
            f"latency {latency:.0f} ms, of which {args.block_ms:g} ms for the block{devices}"
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


def _check(args: argparse.Namespace) -> int:
    """Return the samples in a block, of each channel."""
    if args.channels < 1:
        raise ValueError(f"--channels must be at least 1, got {args.channels}")
    validate_format(args.rate, args.channels)
    if not args.block_ms * args.channels <= 1000 * LONGEST_BLOCK_S:
        raise ValueError(f"--block-ms {args.block_ms:g} is too long: at most {LONGEST_BLOCK_S:g} s of all channels")
    block = round(args.block_ms * args.rate / 1000)
    if block < 1:
        raise ValueError(f"--block-ms {args.block_ms:g} is less than a sample at {args.rate} Hz")
    return block


def _open_stream(args: argparse.Namespace, silence: np.ndarray) -> DenoiseStream:
    wet = 1.0 if args.wet is None else args.wet
    model = args.model or "stream"
    denoiser = Denoiser(model, args.device, wet=wet, attenuation_limit_db=args.attenuation_limit, band=args.band)
    torch = sys.modules.get("torch")  # not imported for ONNX files
    if torch and "OMP_NUM_THREADS" not in os.environ:  # on small frames, two threads are slower next to a busy core
        torch.set_num_threads(1)
    rehearsal = denoiser.stream(args.rate, args.channels)
    for _ in range(WARMUP_BLOCKS):
        rehearsal.feed(silence)
    return denoiser.stream(args.rate, args.channels)


def _pump(
    read: Callable[[], bytes], process: Callable[[bytes], bytes], write: Callable[[bytes], object], size: int
) -> None:
    """Denoise blocks of whole samples of `size` bytes until the input ends.

    Nothing is buffered: while the reader is slow `write` blocks and so does the program that writes to us.
    """
    first = True
    while data := read():
        if first and (kind := next((kind for start, kind in HEADERS.items() if data.startswith(start)), None)):
            raise ValueError(
                f"the input is {kind}, not raw PCM: arecord -t raw, or ffmpeg -i FILE -f s16le -ar 16000 -ac 1 -"
            )
        first = False
        if rest := len(data) % size:  # only at the end
            logger.warning("the input ends within a sample; its last %d byte(s) are left out", rest)
            data = data[:-rest]
        write(process(data))


class _Clock:
    """A stopwatch for the processing of blocks: `with clock:`. It warns once if the machine is too slow."""

    def __init__(self, rate: int) -> None:
        self.rate, self.samples = rate, 0
        self.seconds = self.slowest = 0.0
        self.warned = False

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_) -> None:
        took = time.perf_counter() - self.start
        self.seconds, self.slowest = self.seconds + took, max(self.slowest, took)
        if self.factor > 1 and self.samples > PATIENCE_S * self.rate and not self.warned:
            self.warned = True
            logger.warning("slower than real time: live audio will have gaps; try a larger --block-ms or another model")

    @property
    def factor(self) -> float:
        """Return the seconds of processing for a second of audio."""
        return self.seconds * self.rate / max(1, self.samples)

    def __str__(self) -> str:
        seconds, slowest = self.samples / self.rate, 1000 * self.slowest
        return f"{seconds:.1f} s of audio: real-time factor {self.factor:.3f}, slowest block {slowest:.1f} ms"
