"""Run an hour of a stream: memory, milliseconds a chunk and alignment of the output. Prints Markdown.

    OMP_NUM_THREADS=1 python benchmarks/soak.py [--minutes 60] [--rates 16000 48000] [--model M]

The hour runs as fast as possible. It is ten seconds of a noisy voice, repeated: the last round is compared with the
output of the same `Denoiser` for an array of a few rounds.
"""

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch

from modelscope_ext import Denoiser
from modelscope_ext.audio import resample

EXAMPLE = Path(__file__).parent.parent / "examples" / "noisy.wav"
ROUND_S = 10
#: From this round on the silence before the first one has no effect above about 1e-5: its trace in the network's state
#: fades by a factor of about four a round.
SETTLED = 5


@dataclass
class Soak:
    """The result of a run. Memory is in MiB, after the first twelfth and then after each quarter."""

    rate: int
    samples_in: int
    samples_out: int
    milliseconds: np.ndarray  # a chunk, sorted
    memory: list[float]
    difference: float  # of the last round from the array's, where 1 is full scale
    lag: int  # samples between the two


def soak(denoiser: Denoiser, rate: int, minutes: float, chunk_ms: int = 10) -> Soak:
    """Stream chunks, at least six rounds; a round has a whole number of them."""
    audio = resample(soundfile.read(EXAMPLE, dtype="float32")[0], 16000, rate)
    audio = np.resize(audio, ROUND_S * rate)
    rounds, chunk = max(SETTLED + 1, round(60 * minutes / ROUND_S)), rate * chunk_ms // 1000
    chunks = audio.reshape(-1, chunk)
    took = np.full(rounds * len(chunks), np.inf)  # written to now: later growth of memory has other causes
    at = {max(1, round(rounds * share)) for share in (1 / 12, 1 / 4, 1 / 2, 3 / 4, 1)}
    out, memory, done = np.zeros(2 * len(audio), np.float32), [], 0
    stream = denoiser.stream(rate)
    for number in range(rounds * len(chunks)):
        start = time.perf_counter()
        output = stream.feed(chunks[number % len(chunks)])
        took[number] = 1000 * (time.perf_counter() - start)
        done = _keep(out, done, output)
        if (number + 1) % len(chunks) == 0 and (number + 1) // len(chunks) in at:
            memory.append(resident())
    done = _keep(out, done, stream.flush())
    last = np.take(out, np.arange(done - len(audio), done), mode="wrap")
    whole = denoiser(np.tile(audio, SETTLED + 1), rate)[-len(audio) :]
    spectra = np.fft.rfft(last), np.fft.rfft(whole)
    lag = int(np.argmax(np.fft.irfft(spectra[0] * spectra[1].conj(), len(audio))))
    lag -= len(audio) * (lag > len(audio) // 2)
    return Soak(rate, len(took) * chunk, done, np.sort(took), memory, float(np.abs(last - whole).max()), lag)


def _keep(out: np.ndarray, done: int, output: np.ndarray) -> int:
    """Write to the ring `out`; return the number of samples so far."""
    out[np.arange(done, done + len(output)) % len(out)] = output
    return done + len(output)


def resident() -> float:
    """Return MiB of memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rates", type=int, nargs="+", default=[16000, 48000])
    parser.add_argument("--model", default="stream")
    args = parser.parse_args()
    torch.set_num_threads(1)
    denoiser = Denoiser(args.model)
    shares = (0.5, 0.95, 0.99, 0.999)
    heading = ["Hz", "samples in, out", "lag", "difference", "median ms", "95 %", "99 %", "99.9 %", "most"]
    heading += ["real-time factor", "MiB"]
    print("|", " | ".join(heading), "|\n" + "|---" * len(heading) + "|")
    for rate in args.rates:
        run = soak(denoiser, rate, args.minutes)
        times = [run.milliseconds[int(share * len(run.milliseconds))] for share in shares] + [run.milliseconds[-1]]
        cells = [rate, f"{run.samples_in}, {run.samples_out}", run.lag, f"{run.difference:.1g}"]
        cells += [f"{value:.2f}" for value in times] + [f"{run.milliseconds.mean() / 10:.3f}"]
        print("|", " | ".join(map(str, cells)), "|", ", ".join(f"{value:.1f}" for value in run.memory), "|", flush=True)


if __name__ == "__main__":
    main()
