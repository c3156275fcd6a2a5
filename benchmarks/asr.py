"""Print the errors of a speech recogniser for several wet levels as Markdown.

    pip install pocketsphinx '.[metrics]'
    python benchmarks/asr.py --data-dir DATA [--model FOLDER] [--count 30] [--dictated 10]

The recogniser is PocketSphinx with the English model of its wheel: nothing is downloaded. There are no transcripts: the
reference is its result on the clean recording. An attenuation limit of L dB equals a wet level of 1 - 10^(-L / 20): one
axis covers both options.

Word errors and lost words (words of the reference without a match) come from the dictation model. Phone errors come
from the phone loop, which has no vocabulary and less variance. Differences are relative to the noisy recording, with
95 % intervals by bootstrap over recordings.
"""

import argparse
import math
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pocketsphinx
import torch
from pystoi import stoi
from tqdm import tqdm

from modelscope_ext import Denoiser
from modelscope_ext.audio import audio_files, read_mono
from modelscope_ext.data.corpus import load_corpus
from modelscope_ext.data.mixing import validation_pairs

RATE = 16000
WETS = (0, 0.5, 0.7, 0.8, 0.9, 1)
#: Narrower beams than the defaults halve the time.
WORDS = {"maxhmmpf": 3000, "ds": 2}
PHONES = {"lm": None, "lw": 2.0, "pip": 0.3, "beam": 1e-10, "pbeam": 1e-10}

Pair = tuple[np.ndarray, np.ndarray, np.ndarray]


def recogniser(**options: object) -> Callable[[np.ndarray], list[str]]:
    decoder = pocketsphinx.Decoder(samprate=RATE, loglevel="FATAL", **options)

    def recognise(audio: np.ndarray) -> list[str]:
        decoder.reinit_feat()  # reset the means of the previous recording
        decoder.start_utt()
        decoder.process_raw((np.clip(audio, -1, 1) * 32767).astype(np.int16).tobytes(), full_utt=True)
        decoder.end_utt()
        text = decoder.hyp().hypstr if decoder.hyp() else ""
        return [each for each in re.sub(r"\(\d+\)", "", text).split() if each != "SIL" and each[0] not in "+<["]

    return recognise


def errors(expected: list[str], actual: list[str]) -> tuple[int, int]:
    """Return the least number of edits and, among these, the largest number of insertions."""
    row = [(j, -j) for j in range(len(actual) + 1)]
    for word in expected:
        above, row = row, [(row[0][0] + 1, row[0][1])]
        for j, other in enumerate(actual):
            (kept, inserted), (edits, before) = above[j], row[j]
            row.append(
                min((kept + (word != other), inserted), (above[j + 1][0] + 1, above[j + 1][1]), (edits + 1, before - 1))
            )
    return row[-1][0], -row[-1][1]


def measured(pairs: list[Pair], dictated: int, title: str) -> np.ndarray:
    """Return words, word errors, lost words, phones, phone errors, STOI %, ESTOI %: (wet levels, pairs, 7).

    Words are counted in the first `dictated` pairs only, since they take most of the time.
    """
    words = recogniser(**WORDS)
    phones = recogniser(**PHONES, allphone=pocketsphinx.get_model_path("en-us/en-us-phone.lm.bin"))
    found = np.zeros((len(WETS), len(pairs), 7))
    for i, (noisy, denoised, clean) in enumerate(tqdm(pairs, desc=title, leave=False)):
        said, sounds = words(clean) if i < dictated else [], phones(clean)
        for k, wet in enumerate(WETS):
            audio = noisy + wet * (denoised - noisy)
            wrong, inserted = errors(said, words(audio)) if said else (0, 0)
            phone_errors, _ = errors(sounds, phones(audio))
            intelligible = [100 * stoi(clean, audio, RATE, extended) for extended in (False, True)]
            found[k, i] = len(said), wrong, wrong - inserted, len(sounds), phone_errors, *intelligible
    return found


def table(title: str, pairs: list[Pair], dictated: int) -> None:
    found = measured(pairs, dictated, title)
    draws = np.random.default_rng(0).integers(len(pairs), size=(2000, len(pairs)))

    def rates(picked: np.ndarray) -> np.ndarray:
        """Return percentages (wet levels, 3) of counts (wet levels, pairs, 7)."""
        total = picked.sum(1)
        return 100 * np.stack((total[:, 1] / total[:, 0], total[:, 2] / total[:, 0], total[:, 4] / total[:, 3]), 1)

    resampled = np.stack([rates(found[:, draw]) for draw in draws])
    spread = 1.96 * (resampled - resampled[:, :1]).std(0)
    counts = f"{found[0, :, 0].sum():.0f} words, {found[0, :, 3].sum():.0f} phones"
    print(f"\n{title}: {len(pairs)} recordings, {counts}\n")
    heads = "wet", "limit, dB", "word errors %", "from noisy", "lost words %", "phone errors %", "from noisy"
    print("|", *(f"{head} |" for head in (*heads, "STOI %", "ESTOI %")))
    print(f"|{'---|' * (len(heads) + 2)}")
    mean = rates(found)
    for k, wet in enumerate(WETS):
        limit = "none" if wet == 1 else f"{0 - 20 * math.log10(1 - wet):.1f}"
        change = [f"{mean[k, m] - mean[0, m]:+.1f} ± {spread[k, m]:.1f}" if wet else "" for m in (0, 2)]
        cells = wet, limit, f"{mean[k, 0]:.1f}", change[0], f"{mean[k, 1]:.1f}", f"{mean[k, 2]:.1f}", change[1]
        print("|", *(f"{cell} |" for cell in (*cells, *(f"{found[k, :, m].mean():.1f}" for m in (5, 6)))), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--model", help="model folder or ONNX file [the packaged model]")
    parser.add_argument("--count", type=int, default=30, help="mixtures per SNR range [30]")
    parser.add_argument("--dictated", type=int, default=10, help="mixtures per range with word errors [10]")
    args = parser.parse_args()
    torch.set_num_threads(1)

    full = Denoiser(args.model, attenuation_limit_db=math.inf)
    with tempfile.TemporaryDirectory() as cache:
        speech, noise = (load_corpus(args.data_dir / name, cache) for name in ("valid_speech", "valid_noise"))
        for low, high in ((-5, 5), (5, 15)):
            mixed = validation_pairs(speech, noise, args.count, seed=2026 + high, seconds=5, snr_db=(low, high))
            title = f"Validation speech × noise, {low} … {high} dB"
            table(title, [(noisy, full(noisy, RATE), clean) for noisy, clean in mixed], args.dictated)
    folder = args.data_dir / "pairs"
    sides = ("noisy", "clean", "frcrn_published")
    recorded = [
        [read_mono(folder / side / path.name, RATE) for side in sides] for path in audio_files(folder / "noisy")
    ]
    table(
        "Recorded pairs (VoiceBank+DEMAND)",
        [(noisy, full(noisy, RATE), clean) for noisy, clean, _ in recorded],
        len(recorded),
    )
    published = [(noisy, output[: len(noisy)], clean) for noisy, clean, output in recorded]
    table("The same, mixed with the published outputs of FRCRN", published, len(published))


if __name__ == "__main__":
    main()
