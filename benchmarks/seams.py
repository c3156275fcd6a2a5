"""How far chunks of a long recording, faded into each other, are from the recording in one piece. Prints Markdown.

    python benchmarks/seams.py --model FOLDER --audio FOLDER [--seconds 50]

The files of the second folder, one after the other, are the recording. A seam is where one chunk's output fades
into the next one's.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from modelscope_ext.audio import audio_files, read_mono
from modelscope_ext.checkpoint import load_model
from modelscope_ext.engines.pytorch import TorchEngine
from modelscope_ext.utterances import Utterances, reference_gain

RATE = 16000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="an FRCRN's model folder")
    parser.add_argument("--audio", required=True, help="a folder of recordings")
    parser.add_argument("--seconds", type=float, default=50.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    engine = TorchEngine(load_model(args.model))
    audio = np.concatenate([read_mono(path, RATE) for path in audio_files(Path(args.audio))])
    audio = audio[None, : round(args.seconds * RATE)].astype(np.float32)
    gain = reference_gain(audio)
    whole = engine.enhance(audio * gain.astype(np.float32)) / gain
    print("| chunks | difference at the seams, dB | over all, dB |\n|---|---|---|")
    for chunk_s in (10.0, 15.0):
        chunks = Utterances(engine, gain, chunk_s)
        out, state = chunks.feed(audio)
        difference = np.concatenate((out, chunks.finish(state)), 1) - whole
        step = chunks.chunk - 2 * chunks.margin - chunks.fade
        starts = range(step + chunks.margin, audio.shape[1] - chunks.chunk // 2, step)
        seams = [level(difference[:, s : s + chunks.fade], whole[:, s : s + chunks.fade]) for s in starts]
        told = ", ".join(f"{seam:.0f}" for seam in seams)
        print(f"| {chunk_s:g} s | {told} | {level(difference, whole):.0f} |", flush=True)


def level(difference: np.ndarray, whole: np.ndarray) -> float:
    return 10 * np.log10(np.square(difference).sum() / np.square(whole).sum())


if __name__ == "__main__":
    main()
