"""How far chunks of a long recording, faded into each other, are from the recording in one piece. Prints Markdown.

    python benchmarks/seams.py --model FOLDER --audio FOLDER [--seconds 50]

The files of the second folder, one after the other, are the recording. A seam is where one chunk's output fades
into the next one's. The level of the difference is told against that of the whole denoised recording and, in
brackets, against what is left of the recording in that seam: chunks end in pauses.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from modelscope_ext.audio import audio_files, read_mono
from modelscope_ext.checkpoint import load_model
from modelscope_ext.inference.chunking import ChunkedInference, reference_gain
from modelscope_ext.inference.recording import recording_means
from modelscope_ext.inference.torch_backend import TorchBackend

RATE = 16000


class Watched(ChunkedInference):
    """Chunks that remember where their fades are."""

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
    engine = TorchBackend(load_model(args.model))
    audio = np.concatenate([read_mono(path, RATE) for path in audio_files(Path(args.audio))])
    audio = audio[None, : round(args.seconds * RATE)].astype(np.float32)
    gain = reference_gain(audio)
    whole = engine.enhance(audio * gain.astype(np.float32)) / gain
    known = recording_means(engine, gain, lambda: [audio])
    print("| means | chunks at once | difference at the seams, dB | over all, dB |\n|---|---|---|---|")
    for name, means in (("of the chunk", None), ("of the recording", known)):
        for batch in (1, 2):
            chunks = Watched(engine, gain, means, batch=batch)
            out, state = chunks.feed(audio)
            difference = np.concatenate((out, chunks.finish(state)), 1) - whole
            fades = [slice(s, s + chunks.fade) for s in np.cumsum(chunks.steps) + chunks.margin]
            seams = [(power(difference[:, f]), power(whole[:, f])) for f in fades]
            told = ", ".join(f"{db(d / power(whole)):.0f} ({db(d / there):.0f})" for d, there in seams)
            print(f"| {name} | {batch} | {told} | {db(power(difference) / power(whole)):.0f} |", flush=True)


def power(audio: np.ndarray) -> float:
    return float(np.square(audio, dtype=np.float64).mean())


def db(ratio: float) -> float:
    return 10 * np.log10(ratio)


if __name__ == "__main__":
    main()
