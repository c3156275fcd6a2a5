"""Time of each block of a live stream: median, 99.9 % and slowest, in shares of the block.

python benchmarks/live.py [--seconds 120] [--model M] [--rate 48000] [--block 480]
python benchmarks/live.py --streams 32      # seconds of audio a second by 1 and by 32 streams, a thread each
"""

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile

from modelscope_ext import Denoiser
from modelscope_ext.inference.stream import DenoiseStream

NOISY = Path(__file__).parent.parent / "examples" / "noisy.wav"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--model")
    parser.add_argument("--rate", type=int, default=48000)
    parser.add_argument("--block", type=int, default=480)
    parser.add_argument("--streams", type=int)
    args = parser.parse_args()
    noisy = soundfile.read(NOISY, dtype="float32")[0]
    noisy = np.concatenate((noisy, np.zeros(5 * args.rate, np.float32)))  # digital silence, too
    count = int(args.seconds * args.rate) // args.block
    blocks = np.resize(noisy, (count, args.block))
    denoiser, length = Denoiser(args.model), args.block / args.rate
    if args.streams:
        for streams in (1, args.streams):
            all_at_once([denoiser.stream(args.rate, block=args.block) for _ in range(streams)], blocks, length)
        return
    stream = denoiser.stream(args.rate, block=args.block)
    took = np.empty(count)
    for i, block in enumerate(blocks):
        start = time.perf_counter()
        stream.feed(block)
        took[i] = time.perf_counter() - start
    print(f"{count} blocks of {1000 * length:.2f} ms at {args.rate} Hz, latency {stream.latency_ms:.1f} ms")
    for name, value in (("first", took[0]), ("median", np.median(took)), ("99.9 %", np.quantile(took, 0.999)),
                        ("slowest", took.max())):  # fmt: skip
        print(f"{name} {1000 * value:.2f} ms, {value / length:.1%} of a block")


def all_at_once(streams: list[DenoiseStream], blocks: np.ndarray, length: float) -> None:
    """Feed all blocks, an equal share to each stream, and print how many seconds of audio that is in a second."""
    each = len(blocks) // len(streams)

    def feed(stream: DenoiseStream) -> None:
        for block in blocks[:each]:
            stream.feed(block)

    start = time.perf_counter()
    with ThreadPoolExecutor(len(streams)) as threads:
        list(threads.map(feed, streams))
    seconds = time.perf_counter() - start
    print(f"{len(streams)} streams: {len(streams) * each * length / seconds:.1f} s of audio a second")


if __name__ == "__main__":
    main()
