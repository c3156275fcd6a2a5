"""Denoise a file and print how much energy was removed.

python examples/denoise.py examples/noisy.wav denoised.wav
"""

import sys

import numpy as np
import soundfile

from modelscope_ext import Denoiser


def main(source: str, target: str) -> None:
    denoiser = Denoiser()  # or Denoiser("model folder, hub id or ONNX file", device="cuda", attenuation_limit_db=12)
    denoiser.file(source, target)  # any length; rate, channels and format as they were

    audio, rate = soundfile.read(source, dtype="float32")
    denoised = denoiser(audio, rate)  # the same for an array
    removed = np.sum((audio - denoised) ** 2) / max(np.sum(audio**2), 1e-12)
    print(f"{100 * removed:.1f} % of the energy was removed")


if __name__ == "__main__":
    main(*sys.argv[1:])
