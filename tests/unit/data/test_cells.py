"""Cells of audio columns through all doors: `to_segment`, the trainer's rows and the pipeline's preprocessor."""

import numpy as np
import pytest
import soundfile
import torch
from conftest import RATE

from modelscope_ext.audio import AudioError, read_mono
from modelscope_ext.data.segments import to_segment
from modelscope_ext.training.batches import BadDataError, Segments

CHANNELS_FIRST = np.random.default_rng(0).uniform(-0.5, 0.5, (2, RATE))
MONO = CHANNELS_FIRST.mean(0)
INTEGERS = {np.int16: 2.0**15, np.int32: 2.0**31, np.int8: 2.0**7}


def segments(cell):
    return to_segment({"noisy": [cell], "clean": [cell]})["noisy"][0]


def row(cell):
    return Segments([{"noisy": cell, "clean": cell}])[0]["clean"]


def pipeline_input(cell):
    from modelscope_ext.plugin.preprocessor import AudioPreprocessor

    return AudioPreprocessor()({"noisy": cell})["noisy"]


DOORS = [segments, row, pipeline_input]
CELLS = {
    "channels first": {"array": CHANNELS_FIRST},
    "channels last": {"array": CHANNELS_FIRST.T},
    "lists": {"array": CHANNELS_FIRST.tolist(), "sampling_rate": RATE},
    "tensor": {"array": torch.from_numpy(CHANNELS_FIRST)},
    "half": {"array": CHANNELS_FIRST.astype(np.float16), "sampling_rate": float(RATE)},
    "big endian": {"array": MONO.astype(">f4")},
    "unsigned": {"array": np.rint(MONO * 128 + 128).astype(np.uint8)},
    **{kind.__name__: {"array": np.rint(MONO * span).astype(kind)} for kind, span in INTEGERS.items()},
    "samples alone": MONO,
    "no rate": {"array": MONO, "path": None},
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", CELLS)
def test_samples_are_taken_in_every_type_and_order(door, name):
    found = np.asarray(door(CELLS[name]), np.float64)
    assert found.shape == (RATE,)
    assert np.abs(found - MONO).max() < {"half": 5e-4, "int8": 5e-3, "unsigned": 5e-3}.get(name, 2e-5)


BAD = {
    "64-bit integers": ({"array": [1, -1] * RATE}, "full scale of int64 samples is unclear"),
    "a square": ({"array": np.zeros((50, 50))}, r"got shape \(50, 50\)"),
    "many channels": ({"array": np.zeros((500, 900))}, r"got shape \(500, 900\)"),
    "truth": ({"array": np.zeros(RATE, bool)}, "not bool"),
    "complex": ({"array": np.zeros(RATE, complex)}, "not complex"),
    "text": ({"array": ["a"] * RATE}, "not <U1"),
    "ragged": ({"array": [[0.0], [0.0, 1.0]]}, "not an array"),
    "rate": ({"array": MONO, "sampling_rate": "high"}, "not a rate in Hz"),
    "unknown rate": ({"array": MONO, "sampling_rate": None}, "not a rate in Hz"),
    "rate of nothing": ({"array": MONO, "sampling_rate": 0}, "must be a whole number of Hz"),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", BAD)
def test_what_is_unclear_is_refused(door, name):
    cell, reason = BAD[name]
    with pytest.raises((AudioError, BadDataError), match=reason):
        door(cell)


@pytest.mark.parametrize("form", ["Audio", "int16", "float16", "channels", "two axes"])
def test_rows_of_datasets_are_read_as_they_are_stored(tmp_path, noisy, form):
    """Not as its formats give them: these need a decoder or change the type."""
    from datasets import Array2D, Audio, Dataset, Features, List, Value

    path = tmp_path / "clip.wav"
    stereo = np.stack((noisy[: 3 * RATE], noisy[RATE : 4 * RATE]), 1)
    soundfile.write(path, stereo, 48000)
    if form == "Audio":
        data = Dataset.from_dict({name: [str(path)] for name in ("noisy", "clean")})
        data = data.cast_column("noisy", Audio()).cast_column("clean", Audio(sampling_rate=8000))
        expected = read_mono(path, RATE)
    else:
        kinds = {"channels": List(List(Value("float32"))), "two axes": Array2D((2, 3 * RATE), "float32")}
        kind = kinds.get(form) or List(Value(form if "16" in form else "float32"))
        array = stereo.T if form in kinds else noisy[: 3 * RATE]
        array = np.rint(array * 2**15).astype(np.int16) if form == "int16" else array
        expected = stereo.mean(1) if form in kinds else noisy[: 3 * RATE]
        cells = [{"array": array if form in kinds else array.astype(kind.feature.dtype), "sampling_rate": RATE}]
        features = Features({key: {"array": kind, "sampling_rate": Value("int32")} for key in ("noisy", "clean")})
        data = Dataset.from_dict({"noisy": cells, "clean": cells}, features=features)
    found = Segments(data)[0]
    assert Segments(data).has_clips()
    for name in ("noisy", "clean"):
        assert found[name].dtype == np.float32
        assert np.abs(found[name] - expected).max() < (5e-4 if form == "float16" else 2e-5)
    mapped = data.map(to_segment, batched=True, remove_columns=[]).with_format("numpy")
    assert np.abs(np.concatenate(mapped["noisy"]) - expected[: len(expected) // RATE * RATE]).max() < 5e-4
