"""Make `noisy.wav` and `clean.wav`: a synthetic voice (espeak-ng) in synthetic noise. Public domain (CC0).

Needs espeak-ng: `apt-get install espeak-ng`.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from modelscope_ext.audio import read_mono
from modelscope_ext.data.mixing import mix_at_snr

RATE = 16000
TEXT = "The meeting begins at nine. Please bring the drawings of the new bridge, and do not forget the keys."


def main(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        spoken = Path(scratch) / "spoken.wav"
        subprocess.run(["espeak-ng", "-v", "en-gb", "-s", "145", "-w", spoken, TEXT], check=True)
        voice = read_mono(spoken, RATE)
    clean = np.pad(voice, (RATE // 2, RATE // 2)) * np.float32(0.25 / np.abs(voice).max())
    rng = np.random.default_rng(7)
    time = np.arange(len(clean)) / RATE
    # A fan: pink noise that swells slowly, and the hum of its motor.
    spectrum = np.fft.rfft(rng.standard_normal(len(clean)))
    fan = np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)), len(clean))
    fan = fan / fan.std() * (1 + 0.3 * np.sin(2 * np.pi * 0.4 * time))
    hum = sum(np.sin(2 * np.pi * 100 * k * time + k) / k for k in range(1, 6))
    noise = (fan + 0.4 * hum).astype(np.float32)
    noisy = clean + mix_at_snr(clean, noise, 3.0)
    soundfile.write(folder / "clean.wav", clean, RATE, "PCM_16")
    soundfile.write(folder / "noisy.wav", noisy, RATE, "PCM_16")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
