"""Print the error of the SNR estimate of `modelscope-ext report` on mixtures as Markdown.

python benchmarks/snr.py --data-dir DATA [--model FOLDER] [--count 150]
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import torch

from modelscope_ext import Denoiser
from modelscope_ext.data.corpus import load_corpus
from modelscope_ext.data.mixing import active_rms, validation_pairs
from modelscope_ext.report import estimated_snr, frame_powers

RATE = 16000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--model", help="model folder [the packaged model]")
    parser.add_argument("--count", type=int, default=150, help="mixtures per range [150]")
    args = parser.parse_args()
    torch.set_num_threads(1)

    denoiser = Denoiser(args.model)
    print("| SNR, dB | mean of estimate - truth | mean error | nine in ten below |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        speech, noise = (load_corpus(args.data_dir / name, folder) for name in ("valid_speech", "valid_noise"))
        before, after = Path(folder, "before.wav"), Path(folder, "after.wav")
        for seed, (low, high) in enumerate(((-5, 5), (5, 15), (15, 25))):
            errors = []
            for noisy, clean in validation_pairs(speech, noise, args.count, seed=2026 + seed, snr_db=(low, high)):
                truth = 20 * np.log10(active_rms(clean) / np.sqrt(np.mean(np.square(noisy - clean))))
                soundfile.write(before, noisy, RATE, "FLOAT")
                denoiser.file(before, after)
                errors.append(estimated_snr(frame_powers(before, after, denoiser.dry_gain)) - truth)
            size = np.abs(errors)
            print(
                f"| {low} … {high} | {np.mean(errors):+.1f} | {np.mean(size):.1f} | {np.quantile(size, 0.9):.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
