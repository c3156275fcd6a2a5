"""Segments of every form of audio column, against ModelScope's own function."""

import inspect
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from conftest import RATE

from modelscope_ext.audio import AudioError, read_mono
from modelscope_ext.data.pairs import match_pairs
from modelscope_ext.data.segments import to_segment


@pytest.mark.parametrize("kind", [np.float32, np.float64, list])
@pytest.mark.parametrize("segment_length", [RATE, 4800, 997])
def test_on_stock_input_it_is_the_stock_function(stock, kind, segment_length):
    rng = np.random.default_rng(1)
    lengths = [(RATE, RATE), (40000, 41000), (0, 5), (15999, 16000), (48000, 47999), (800, 800), (2 * RATE, 2 * RATE)]
    make = np.ndarray.tolist if kind is list else lambda audio: audio.astype(kind)
    batch = {
        name: [{"array": make(rng.standard_normal(pair[side])), "sampling_rate": RATE} for pair in lengths]
        for side, name in enumerate(("noisy", "clean"))
    }
    expected, ours = stock(batch, segment_length), to_segment(batch, segment_length)
    assert expected.keys() == ours.keys()
    for name, segments in expected.items():
        assert len(segments) > 5
        assert len(ours[name]) == len(segments)
        for segment, other in zip(segments, ours[name], strict=True):
            assert np.asarray(segment).dtype == other.dtype
            assert np.asarray(segment).tobytes() == other.tobytes()


def test_it_is_called_as_the_stock_function_is(stock):
    theirs = [(p.name, p.default) for p in inspect.signature(stock).parameters.values()]
    ours = [(p.name, p.default) for p in inspect.signature(to_segment).parameters.values()]
    assert ours[: len(theirs)] == theirs


def forms(path):
    """Return a clip in every form that an audio column has."""
    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    audio = audio.T  # (channels, N), as `datasets` has it
    decoder = SimpleNamespace(get_all_samples=lambda: SimpleNamespace(data=torch.from_numpy(audio), sample_rate=rate))
    return {
        "array": {"array": audio, "sampling_rate": rate, "path": str(path)},
        "tensor": {"array": torch.from_numpy(audio), "sampling_rate": rate},
        "decoder": decoder,
        "bytes": {"bytes": path.read_bytes(), "path": None},
        "bytes and a name": {"bytes": path.read_bytes(), "path": "nowhere.wav"},
        "undecoded path": {"bytes": None, "path": str(path)},
        "path": str(path),
        "path object": path,
    }


@pytest.mark.parametrize(("rate", "channels"), [(RATE, 1), (48000, 1), (44100, 2), (RATE, 2)])
def test_every_form_of_an_audio_column_gives_16_khz_mono(tmp_path, noisy, rate, channels):
    path = tmp_path / "clip.wav"
    soundfile.write(path, np.stack([noisy[: 2 * rate], noisy[500 : 2 * rate + 500]][:channels], 1), rate)
    expected = read_mono(path, RATE)
    assert len(expected) == 2 * RATE or rate != RATE
    for name, cell in forms(path).items():
        segments = to_segment({"noisy": [cell], "clean": [cell]})
        assert len(segments["noisy"]) == len(segments["clean"]) == len(expected) // RATE, name
        assert np.abs(np.concatenate(segments["noisy"]) - expected[: len(expected) // RATE * RATE]).max() < 1e-6, name


def test_the_remainder_is_kept_on_demand(stock):
    rng = np.random.default_rng(2)
    clips = [rng.standard_normal(n).astype(np.float32) for n in (2 * RATE + 10, 700, RATE, 0)]
    batch = {"noisy": [{"array": clip} for clip in clips], "clean": [{"array": -clip} for clip in clips]}
    assert len(stock(batch)["noisy"]) == len(to_segment(batch)["noisy"]) == 3
    kept = to_segment(batch, keep_remainder=True)
    assert [segment.shape for segment in kept["noisy"]] == [(RATE,)] * 5
    expected = np.zeros(5 * RATE, np.float32)
    expected[: len(clips[0])], expected[3 * RATE : 3 * RATE + 700], expected[4 * RATE :] = clips[:3]
    assert np.array_equal(np.concatenate(kept["noisy"]), expected)
    assert np.array_equal(np.concatenate(kept["clean"]), -expected)
    shorter = {**batch, "clean": [{"array": -clip[:-5]} for clip in clips]}
    assert not np.concatenate(to_segment(shorter, keep_remainder=True)["noisy"])[2 * RATE + 5 : 3 * RATE].any()


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ({"bytes": None, "path": "gone.wav"}, r"row 1 of the batch, clean: gone\.wav: no such file"),
        ({"bytes": b"no music", "path": "a.wav"}, r"row 1 of the batch, clean: a\.wav: not readable as audio"),
        ({"array": None, "path": None}, "row 1 of the batch, clean: need a dict .* got a dict of array, path"),
        (None, "row 1 of the batch, clean: need .* got NoneType"),
        ({"array": np.zeros((2, 2, 2)), "path": "b.wav"}, r"clean: b\.wav: need .* got shape \(2, 2, 2\)"),
    ],
)
def test_a_cell_that_is_no_audio_is_named(cell, message):
    good = {"array": np.zeros(RATE)}
    with pytest.raises(AudioError, match=message):
        to_segment({"noisy": [good, good], "clean": [good, cell]})


def test_audio_columns_are_mapped_without_a_decoder(tmp_path, dns):
    """In `datasets` 4 and later, looking at such a column takes torchcodec."""
    from datasets import Audio, Dataset

    pairs, _ = match_pairs(dns() / "noisy", dns() / "clean")
    columns = {"noisy": [str(pair.noisy) for pair in pairs], "clean": [str(pair.clean) for pair in pairs]}
    expected = to_segment(columns)
    for column in (
        columns,
        {name: [{"bytes": Path(p).read_bytes()} for p in paths] for name, paths in columns.items()},
    ):
        for feature in (Audio(), Audio(decode=False)):
            data = Dataset.from_dict(column).cast_column("noisy", feature).cast_column("clean", feature)
            mapped = data.map(to_segment, batched=True, batch_size=3).with_format("numpy")
            assert np.array_equal(mapped["noisy"][:], np.stack(expected["noisy"]))
            assert np.array_equal(mapped["clean"][:], np.stack(expected["clean"]))


def test_rows_instead_of_batches_are_refused():
    from datasets import Dataset

    with pytest.raises(ValueError, match="batched=True"):
        to_segment({"noisy": {"array": np.zeros(RATE)}, "clean": {"array": np.zeros(RATE)}})
    data = Dataset.from_dict({name: [{"array": np.zeros(RATE)}] * 2 for name in ("noisy", "clean")})
    with pytest.raises(ValueError, match="batched=True"):
        data.map(to_segment)
    with pytest.raises(ValueError, match="at least 1"):
        to_segment({"noisy": [], "clean": []}, 0)
