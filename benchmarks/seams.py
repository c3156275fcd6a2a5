"""Measure the difference between a long recording in cross-faded chunks and in one piece. Prints Markdown.

    python benchmarks/seams.py --model FOLDER --audio FOLDER [--seconds 50]

The files of the second folder, one after the other, are the recording. A seam is the fade from one chunk's output into
the next one's. The level of the difference is relative to the whole denoised recording and, in brackets, to the output
at that seam: chunks end in pauses.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from modelscope_ext.audio import audio_files, read_mono
from modelscope_ext.checkpoint import load_model
from modelscope_ext.inference.chunking import ChunkedInference
from modelscope_ext.inference.recording import RecordingStats, scan
from modelscope_ext.inference.torch_backend import TorchBackend

RATE = 16000


class Watched(ChunkedInference):
    """Chunks that record the positions of their fades."""

    def _quiet_step(self, waiting: np.ndarray, count: int) -> int:
        step = super()._quiet_step(waiting, count)
        self.steps = [*getattr(self, "steps", []), *[step] * count]
        return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="an FRCRN's model folder")
    parser.add_argument("--audio", required=True, help="a folder of recordings")
    parser.add_argument("--seconds", type=float, default=50.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    backend = TorchBackend(load_model(args.model))
    audio = np.concatenate([read_mono(path, RATE) for path in audio_files(Path(args.audio))])
    audio = audio[None, : round(args.seconds * RATE)].astype(np.float32)
    known = scan(backend, [audio])
    gain = known.gain
    whole = backend.enhance(audio * gain.astype(np.float32))[0] / gain
    print("| means | chunks at once | difference at the seams, dB | over all, dB |\n|---|---|---|---|")
    for name, stats in (("of the chunk", RecordingStats(gain)), ("of the recording", known)):
        for batch in (1, 2):
            chunks = Watched(backend, stats, batch=batch)
            out, state = chunks.feed(audio)
            difference = np.concatenate((out, chunks.flush(state)), 1) - whole
            fades = [slice(s, s + chunks.fade) for s in np.cumsum(chunks.steps) + chunks.margin]
            seams = [(power(difference[:, f]), power(whole[:, f])) for f in fades]
            cells = ", ".join(f"{db(d / power(whole)):.0f} ({db(d / there):.0f})" for d, there in seams)
            print(f"| {name} | {batch} | {cells} | {db(power(difference) / power(whole)):.0f} |", flush=True)


def power(audio: np.ndarray) -> float:
    return float(np.square(audio, dtype=np.float64).mean())


def db(ratio: float) -> float:
    return 10 * np.log10(ratio)


if __name__ == "__main__":
    main()
