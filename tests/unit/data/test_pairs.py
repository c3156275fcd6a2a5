"""Noisy and clean files that belong together."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import RATE

from modelscope_ext.audio import AudioError
from modelscope_ext.data.pairs import Pair, check_pairs, match_pairs


def test_partners_are_found_by_name(tmp_path, clean):
    names = {
        "noisy": ["p226_001.wav", "deep/p226_001.flac", "x_snr3_fileid_7.wav", "deep/y_fileid_07.wav"],
        "clean": ["p226_001.flac", "deep/p226_001.wav", "clean_fileid_7.wav", "deep/clean_fileid_7.wav"],
    }
    for kind, paths in names.items():
        for name in paths:
            (tmp_path / kind / name).parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(tmp_path / kind / name, clean[:RATE], RATE)
    pairs, problems = match_pairs(tmp_path / "noisy", tmp_path / "clean")
    assert {pair.names for pair in pairs} == set(zip(*names.values(), strict=True))
    assert not problems
    with pytest.raises(AudioError, match="none: no such folder"):
        match_pairs(tmp_path / "none", tmp_path / "clean")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AudioError, match="empty: no audio files"):
        match_pairs(tmp_path / "noisy", tmp_path / "empty")


@pytest.fixture
def checked(tmp_path):
    """Return the problems of one pair, given as samples and rates, without the folder."""

    def check(noisy, clean, rates=(RATE, RATE), **options):
        for name, audio, rate in zip(("noisy.wav", "clean.wav"), (noisy, clean), rates, strict=True):
            soundfile.write(tmp_path / name, audio, rate, "FLOAT")
        pair = Pair(tmp_path / "noisy.wav", tmp_path / "clean.wav", ("noisy.wav", "clean.wav"))
        (result,) = check_pairs([pair], **options)
        assert pair.name == "noisy.wav"
        problems = {Path(path).name: reason.replace(f"{tmp_path}/", "") for path, reason in result.problems.items()}
        return result.samples, result.rates, problems

    return check


TONE = np.sin(np.arange(2 * RATE) / 10).astype(np.float32)
DITHER = np.where(np.arange(RATE) % 2, 2**-15, -(2**-15))  # two steps of 16 bits


@pytest.mark.parametrize(
    ("noisy", "clean", "scoring", "training"),
    [
        (TONE, TONE, {}, {}),
        (TONE, TONE[:0], {"clean.wav": "empty"}, {"clean.wav": "empty"}),
        (TONE[:RATE], DITHER, {"clean.wav": "silent"}, {"clean.wav": "silent"}),
        (TONE[:RATE], DITHER * 1.1, {}, {}),
        (DITHER, TONE[:RATE], {}, {"noisy.wav": "silent"}),
    ],
)
def test_silence_is_a_problem_of_references_and_of_training(checked, noisy, clean, scoring, training):
    lengths = {"noisy.wav": f"32000 samples, but clean.wav {len(clean)}"} if len(noisy) != len(clean) else {}
    assert checked(noisy, clean)[2] == scoring | lengths
    seconds = {"noisy.wav": f"is 2.0000 s long, its clean file clean.wav is {len(clean) / RATE:.4f} s"}
    assert checked(noisy, clean, sample_rate=RATE)[2] == training | (seconds if lengths else {})


def test_rates_may_differ_where_signals_are_resampled(checked):
    assert checked(TONE[:RATE], TONE, (RATE, 2 * RATE))[2] == {"noisy.wav": "16000 Hz, but clean.wav 32000 Hz"}
    assert checked(TONE[:RATE], TONE, (RATE, 2 * RATE), sample_rate=RATE) == (RATE, (RATE, 2 * RATE), {})
    off_by_one = checked(TONE[: RATE + 1], TONE, (RATE, 2 * RATE), sample_rate=RATE)
    assert off_by_one == (RATE, (RATE, 2 * RATE), {})
    problems = checked(TONE[: RATE + 2], TONE, (RATE, 2 * RATE), sample_rate=RATE)[2]
    assert problems == {"noisy.wav": "is 1.0001 s long, its clean file clean.wav is 1.0000 s"}


def test_each_unusable_file_has_its_own_reason(checked):
    nan, loud = TONE.copy(), TONE.copy()
    nan[5], loud[7] = np.nan, 1e12
    assert checked(nan, loud)[2] == {
        "noisy.wav": "has NaN or infinite samples after 0.00 s",
        "clean.wav": "has samples of up to 1e+12 where full scale is 1 after 0.00 s",
    }
