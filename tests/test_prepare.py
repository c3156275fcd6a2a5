"""Segments and data set folders, against `datasets` and ModelScope's own functions."""

import inspect
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet
import pytest
import soundfile
import torch
from conftest import RATE, ROOT

from modelscope_ext.audio import AudioError, read_mono
from modelscope_ext.cli import main
from modelscope_ext.data import prepare
from modelscope_ext.data import shards as writing
from modelscope_ext.data.corpus import load_corpus
from modelscope_ext.data.matching import match_pairs
from modelscope_ext.data.mixing import MixConfig, Mixer
from modelscope_ext.data.mixtures import prepare_mixtures
from modelscope_ext.data.pairs import prepare_from_dataset, prepare_pairs
from modelscope_ext.data.rooms import load_rooms
from modelscope_ext.data.segments import to_segment
from modelscope_ext.data.shards import DataError

LENGTHS = [RATE, 2 * RATE + 300, 3 * RATE - 1, RATE + 1]


@pytest.fixture(scope="session")
def stock():
    from modelscope.utils.audio.audio_utils import to_segment as stock

    return stock


@pytest.fixture
def load(tmp_path):
    """`load_dataset` with its cache in the test's folder."""
    from datasets import load_dataset

    def load(folder, split):
        return load_dataset(str(folder), split, split=split, cache_dir=str(tmp_path / "hf"))

    return load


@pytest.fixture
def dns(tmp_path, clean, noisy):
    """Pairs as the DNS challenge lays them out; sorted by name, the noisy files are in another order than the clean."""

    def make(lengths=LENGTHS, root=tmp_path / "dns"):
        for kind, audio, name in (
            ("noisy", noisy, "book_{}_snr5_fileid_{}.wav"),
            ("clean", clean, "clean_fileid_{1}.wav"),
        ):
            (root / kind).mkdir(parents=True, exist_ok=True)
            for i, length in enumerate(lengths):
                path = root / kind / name.format(len(lengths) - i, i)
                soundfile.write(path, audio[i * 1000 : i * 1000 + length], RATE)
        return root

    return make


def shards(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


def run(code, tmp_path, **options):
    caches = {name: str(tmp_path / "caches") for name in ("HF_HOME", "HF_DATASETS_CACHE", "MODELSCOPE_CACHE")}
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    environment = {**os.environ, **caches, **offline}
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, **options)


# Segments


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
    """A clip in every form in which an audio column gives it."""
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
        ({"bytes": b"no music", "path": "a.wav"}, r"row 1 of the batch, clean \(a\.wav\): not readable as audio"),
        ({"array": None, "path": None}, "row 1 of the batch, clean: need a dict .* got a dict of array, path"),
        (None, "row 1 of the batch, clean: need .* got NoneType"),
        ({"array": np.zeros((2, 2, 2)), "path": "b.wav"}, r"clean \(b\.wav\): need .* got shape \(2, 2, 2\)"),
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


# Data set folders


def test_a_folder_holds_the_samples_of_its_files(tmp_path, dns, load, clean, noisy):
    from datasets import Value

    root = dns()
    summary = prepare_pairs(root / "noisy", root / "clean", tmp_path / "out")
    assert (summary.rows, summary.shards, summary.shards_written, summary.skipped) == (4, 1, 1, {})
    assert (summary.shortest_s, summary.longest_s) == (1.0, LENGTHS[2] / RATE)
    assert summary.hours == pytest.approx(sum(LENGTHS) / RATE / 3600)
    assert summary.rates == {RATE: 8}
    data = load(tmp_path / "out", "train")
    assert data.features["noisy"]["array"].feature == Value("float32")
    assert list(data.features) == ["noisy", "clean", "duration"]
    assert data["duration"] == [length / RATE for length in LENGTHS]
    for i, row in enumerate(data):
        assert row["noisy"]["path"] == f"book_{4 - i}_snr5_fileid_{i}.wav"
        assert row["clean"]["path"] == f"clean_fileid_{i}.wav"
        assert row["noisy"]["sampling_rate"] == RATE
        for name, audio in (("noisy", noisy), ("clean", clean)):
            written = np.rint(audio[i * 1000 : i * 1000 + LENGTHS[i]].astype(np.float64) * 32768) / 32768
            assert np.array_equal(row[name]["array"], written)


@pytest.mark.parametrize("format", [None, "numpy", "torch"])
def test_stock_and_our_segments_of_a_folder_are_equal(tmp_path, dns, load, stock, format):
    root = dns()
    prepare_pairs(root / "noisy", root / "clean", tmp_path / "out")
    data = load(tmp_path / "out", "train").with_format(format)
    plain, ours = (
        data.map(function, batched=True, batch_size=3, remove_columns=["duration"]) for function in (stock, to_segment)
    )
    for column in ("noisy", "clean"):
        expected, got = (np.asarray(mapped.with_format("numpy")[column][:]) for mapped in (plain, ours))
        assert expected.shape == (1 + 2 + 2 + 1, RATE)
        assert np.array_equal(expected, got)
        assert got.dtype == np.float32
    kept = data.map(to_segment, batched=True, remove_columns=["duration"], fn_kwargs={"keep_remainder": True})
    assert len(kept) == 1 + 3 + 3 + 2


CARD = """
import sys
sys.modules["torchcodec"] = None
import numpy as np
from datasets import load_dataset
from modelscope.msdatasets import MsDataset
from modelscope.utils.audio.audio_utils import to_segment as stock
from modelscope_ext.data.segments import to_segment

def main():
    mapped = []
    for function in (stock, to_segment):
        hf_ds = load_dataset({folder!r}, 'train', split='train')
        mapped.append(hf_ds.map(function, remove_columns=['duration'], num_proc=8, batched=True, batch_size=36))
    for column in ('noisy', 'clean'):
        theirs, ours = (np.asarray(ds.with_format('numpy')[column][:]) for ds in mapped)
        assert len(ours) == {segments} and np.array_equal(theirs, ours)
    mapped_ds = mapped[1].train_test_split(test_size=3)
    mapped_ds = mapped_ds.shuffle()
    dataset = MsDataset.from_hf_dataset(mapped_ds)
    assert len(dataset['train']) == {segments} - 3 and len(dataset['test']) == 3
    assert len(dataset['train'][0]['noisy']) == 16000

    hf_ds = MsDataset.load({name!r}, split='test').to_hf_dataset()
    mapped_ds = hf_ds.map(to_segment, remove_columns=['duration'], batched=True, batch_size=36)
    assert len(MsDataset.from_hf_dataset(mapped_ds)) == 2
    train = MsDataset.load({folder!r}, subset_name='train', split='train')
    assert len(train) == {rows} and len(MsDataset.load({folder!r}, subset_name='test', split='test')) == 1

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
def test_the_snippets_of_the_model_card(tmp_path, dns):
    lengths = [RATE + i * 1000 for i in range(9)] + [2 * RATE]
    train, test = dns(lengths, tmp_path / "train"), dns([2 * RATE], tmp_path / "test")
    folder = tmp_path / "ICASSP_2021_DNS_Challenge"
    prepare_pairs(train / "noisy", train / "clean", folder, rows_per_shard=4)
    prepare_pairs(test / "noisy", test / "clean", folder, "test")
    done = run(CARD.format(folder=str(folder), name=folder.name, rows=10, segments=11), tmp_path)
    assert done.returncode == 0, done.stderr


def test_shards_and_what_is_read_at_once_are_small(tmp_path, dns, monkeypatch):
    root = dns([RATE] * 7)
    monkeypatch.setattr(writing, "ROWS_PER_GROUP", 2)
    summary = prepare_pairs(root / "noisy", root / "clean", tmp_path / "rows", rows_per_shard=3)
    assert summary.shards == 3
    files = [pyarrow.parquet.ParquetFile(path) for path in sorted((tmp_path / "rows" / "train").glob("*.parquet"))]
    groups = [[file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] for file in files]
    assert groups == [[2, 1], [2, 1], [1]]
    monkeypatch.setattr(writing, "SAMPLES_PER_SHARD", int(2.5 * RATE))
    assert prepare_pairs(root / "noisy", root / "clean", tmp_path / "samples").shards == 4


def test_sixteen_bit_audio_takes_two_bytes_a_sample_at_most(tmp_path):
    rng = np.random.default_rng(0)
    for kind in ("noisy", "clean"):
        (tmp_path / kind).mkdir()
        soundfile.write(tmp_path / kind / "a.wav", rng.uniform(-1, 1, 20 * RATE), RATE)  # nothing to compress
    prepare_pairs(tmp_path / "noisy", tmp_path / "clean", tmp_path / "out")
    assert sum(map(len, shards(tmp_path / "out" / "train").values())) < 2 * 20 * RATE * 2 * 1.2


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


def test_other_rates_and_channels_become_16_khz_mono(tmp_path, dns, load, clean):
    root = dns([RATE] * 2)
    soundfile.write(root / "noisy" / "a.wav", np.stack((clean[:96000], clean[100:96100]), 1), 48000)
    soundfile.write(root / "clean" / "a.flac", clean[:88200], 44100)
    summary = prepare_pairs(root / "noisy", root / "clean", tmp_path / "out")
    assert summary.rates == {RATE: 4, 48000: 1, 44100: 1}
    assert "resampled to 16000 Hz: 1 files of 44100 Hz, 1 files of 48000 Hz" in str(summary)
    row = next(row for row in load(tmp_path / "out", "train") if row["noisy"]["path"] == "a.wav")
    assert np.abs(np.array(row["noisy"]["array"]) - read_mono(root / "noisy" / "a.wav", RATE)).max() <= 0.5 / 32768
    assert len(row["clean"]["array"]) == 2 * RATE
    steps = np.array(row["noisy"]["array"]) * 32768
    assert np.array_equal(steps, np.rint(steps))  # what resampling left between them would double the files


def spoil(root, clean):
    """Every kind of bad data, and what is said of it."""

    def put(kind, number, audio, subtype="PCM_16"):
        name = f"x_fileid_{number}.wav" if kind == "noisy" else f"clean_fileid_{number}.wav"
        soundfile.write(root / kind / name, audio, RATE, subtype)

    good = clean[: 2 * RATE]
    nan, infinite = good.copy(), good.copy()
    nan[70], infinite[9000] = np.nan, -np.inf
    for number, noisy_audio, clean_audio in (
        (101, good, good[:-1]),
        (102, nan, good),
        (103, good, infinite),
        (104, np.zeros(RATE), good[:RATE]),
        (105, good, np.full(2 * RATE, 1e-6)),
        (106, good[: RATE - 1], good[: RATE - 1]),
        (107, good[:0], good),
        (108, good, good),
        (109, good, good),
    ):
        put("noisy", number, noisy_audio, "FLOAT")
        put("clean", number, clean_audio, "FLOAT")
    (root / "clean" / "clean_fileid_108.wav").write_text("no music")
    whole = root / "noisy" / "x_fileid_109.wav"
    whole.write_bytes(whole.read_bytes()[:1000])
    put("noisy", 110, good)
    put("clean", 111, good)
    put("noisy", "0000", good)  # fileid_0 is there already
    return {
        "noisy/x_fileid_101.wav": "is 2.0000 s long, its clean file",
        "noisy/x_fileid_102.wav": "NaN or infinite",
        "clean/clean_fileid_103.wav": "NaN or infinite",
        "noisy/x_fileid_104.wav": "silent",
        "clean/clean_fileid_105.wav": "silent",
        "noisy/x_fileid_106.wav": "shorter than 1.0 s",
        "noisy/x_fileid_107.wav": "empty",
        "clean/clean_fileid_108.wav": "not readable as audio",
        "noisy/x_fileid_109.wav": "",
        "noisy/x_fileid_110.wav": "has no clean file",
        "clean/clean_fileid_111.wav": "has no noisy file",
        "noisy/x_fileid_0000.wav": "is named like",
    }


def test_all_bad_data_are_named_before_anything_is_written(tmp_path, dns, load, clean):
    root = dns()
    expected = spoil(root, clean)
    with pytest.raises(DataError) as caught:
        prepare_pairs(root / "noisy", root / "clean", tmp_path / "out")
    problems = {str(root / name): reason for name, reason in expected.items()}
    assert caught.value.problems.keys() == problems.keys()
    for name, reason in problems.items():
        assert reason in caught.value.problems[name]
        assert f"{name}: " in str(caught.value)
    assert not (tmp_path / "out").exists()

    summary = prepare_pairs(root / "noisy", root / "clean", tmp_path / "out", skip_bad=True)
    assert summary.skipped == caught.value.problems
    assert summary.rows == 4
    assert f"{root / 'noisy' / 'x_fileid_104.wav'}: silent" in str(summary)
    assert len(load(tmp_path / "out", "train")) == 4
    with pytest.raises(DataError, match="12 problems"):  # asked again without, it does not pass for complete
        prepare_pairs(root / "noisy", root / "clean", tmp_path / "out")


def test_a_folder_of_bad_data_only_is_an_error(tmp_path, clean):
    for kind in ("noisy", "clean"):
        (tmp_path / kind).mkdir()
        soundfile.write(tmp_path / kind / "a.wav", clean[RATE : RATE + 100], RATE)
    with pytest.raises(DataError, match="shorter than"):
        prepare_pairs(tmp_path / "noisy", tmp_path / "clean", tmp_path / "out", skip_bad=True)
    assert not (tmp_path / "out").exists()
    assert prepare_pairs(tmp_path / "noisy", tmp_path / "clean", tmp_path / "out", shortest_s=0).rows == 1


KILLED = """
import os, signal
from modelscope_ext.data import prepare, shards
shards.ROWS_PER_GROUP = 1

def progress(items):
    for number, item in enumerate(items):
        if isinstance(items, list) and isinstance(item, tuple) and number == 4:  # in the middle of the second shard
            os.kill(os.getpid(), signal.SIGKILL)
        yield item

prepare.{call}(*{arguments!r}, rows_per_shard=3, progress=progress, **{options!r})
"""


@pytest.mark.parametrize("source", ["pairs", "mixtures"])
def test_killed_and_started_again_it_ends_with_the_same_bytes(tmp_path, dns, corpora, monkeypatch, source):
    root = dns([RATE + 10 * i for i in range(8)])
    if source == "pairs":
        arguments, options = [root / "noisy", root / "clean"], {}
    else:
        arguments, options = [corpora / "speech", corpora / "noise", corpora / "rir"], {"count": 8, "seed": 3}
    arguments = [*map(str, arguments), str(tmp_path / "out")]
    code = KILLED.format(call=f"prepare_{source}", arguments=arguments, options=options)
    assert run(code, tmp_path).returncode == -signal.SIGKILL
    half = tmp_path / "out" / ".train.half"
    assert [path.name for path in half.glob("*.parquet")] == ["train-00000-of-00003.parquet"]
    assert any(half.glob(".*.half"))
    assert not (tmp_path / "out" / "README.md").exists()
    before = (half / "train-00000-of-00003.parquet").stat()

    monkeypatch.setattr(writing, "ROWS_PER_GROUP", 1)
    function, seen = getattr(prepare, f"prepare_{source}"), []
    options = {**options, "rows_per_shard": 3}
    resumed = function(*arguments, **options, progress=lambda items: seen.append(len(items)) or items)
    assert (resumed.shards, resumed.shards_written) == (3, 2)
    assert seen == [5]  # nothing is looked at again; five of the eight rows are missing
    after = (tmp_path / "out" / "train" / "train-00000-of-00003.parquet").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    unbroken = function(*arguments[:-1], tmp_path / "unbroken", **options)
    assert unbroken.shards_written == 3
    assert shards(tmp_path / "out" / "train") == shards(tmp_path / "unbroken" / "train")
    names = [
        sorted(str(p.relative_to(out)) for p in out.rglob("*")) for out in (tmp_path / "out", unbroken.folder.parent)
    ]
    assert names[0] == names[1]
    assert function(*arguments, **options).shards_written == 0


def test_another_data_set_is_not_overwritten(tmp_path, dns):
    root, out = dns(), tmp_path / "out"
    prepare_pairs(root / "noisy", root / "clean", out)
    before = shards(out / "train")
    with pytest.raises(ValueError, match="other settings"):
        prepare_pairs(root / "noisy", root / "clean", out, rows_per_shard=2)
    dns([RATE] * 5, root)
    with pytest.raises(ValueError, match="source files have changed"):
        prepare_pairs(root / "noisy", root / "clean", out)
    assert shards(out / "train") == before
    (tmp_path / "mine" / "train").mkdir(parents=True)
    with pytest.raises(ValueError, match="not written by prepare-data"):
        prepare_pairs(root / "noisy", root / "clean", tmp_path / "mine")
    (tmp_path / "mine" / "README.md").write_text("# My notes")
    with pytest.raises(ValueError, match=r"README\.md: was not written by prepare-data"):
        prepare_pairs(root / "noisy", root / "clean", tmp_path / "mine", "test")
    with pytest.raises(ValueError, match="train, test"):
        prepare_pairs(root / "noisy", root / "clean", out, "validation")


def test_mixtures_are_those_of_the_mixer(tmp_path, corpora, load):
    folders = [corpora / "speech", corpora / "noise", corpora / "rir"]
    config = MixConfig(seconds=1.0)
    summary = prepare_mixtures(*folders, tmp_path / "out", hours=4 / 3600, seed=5, config=config)
    assert (summary.rows, summary.longest_s) == (4, 1.0)
    speech, noise = ([(load_corpus(folder, tmp_path / "cache"), 1.0)] for folder in folders[:2])
    mixer = Mixer(speech, noise, load_rooms(folders[2]), config, 5)
    for row, (noisy, target) in zip(load(tmp_path / "out", "train"), map(mixer.__getitem__, range(4)), strict=True):
        for name, audio in (("noisy", noisy), ("clean", target)):
            assert np.abs(np.array(row[name]["array"]) - audio).max() <= 0.5 / 32768
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["README.md", "train"]
    prepare_mixtures(*folders, tmp_path / "again", count=4, seed=5, config=config)
    assert shards(tmp_path / "again" / "train") == shards(tmp_path / "out" / "train")
    prepare_mixtures(*folders, tmp_path / "other", count=4, seed=6, config=config)
    assert shards(tmp_path / "other" / "train") != shards(tmp_path / "out" / "train")
    prepare_mixtures(*folders[:2], None, tmp_path / "dry", count=4, seed=5, config=config)
    assert shards(tmp_path / "dry" / "train") != shards(tmp_path / "out" / "train")


def test_bad_files_of_mixtures_are_named(tmp_path, corpora):
    soundfile.write(corpora / "speech" / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(corpora / "rir" / "silent.wav", np.zeros(RATE), RATE)
    (corpora / "noise" / "text.wav").write_text("no music")
    folders = [corpora / "speech", corpora / "noise", corpora / "rir"]
    with pytest.raises(DataError) as caught:
        prepare_mixtures(*folders, tmp_path / "out", count=1)
    bad = {str(corpora / name) for name in ("speech/silent.wav", "rir/silent.wav", "noise/text.wav")}
    assert caught.value.problems.keys() == bad
    assert not (tmp_path / "out").exists()
    summary = prepare_mixtures(*folders, tmp_path / "out", count=1, skip_bad=True)
    assert summary.skipped == caught.value.problems
    for amount in ({}, {"hours": 1, "count": 1}, {"count": 0}, {"hours": 0.0001}):
        with pytest.raises(ValueError, match="hours"):
            prepare_mixtures(*folders, tmp_path / "none", **amount)
    with pytest.raises(AudioError, match="gone: no such folder"):
        prepare_mixtures(corpora / "gone", corpora / "noise", None, tmp_path / "none", count=1)


@pytest.mark.parametrize(
    ("table", "header", "separator", "prefix"),
    [
        ("train.csv", ("noisy", "clean", "duration"), ",", "data/"),
        ("meta/train.csv", ("duration", "Clean:FILE", "Noisy:FILE"), ",", "data/"),
        ("train/meta.tsv", ("noisy", "clean", "duration"), "\t", "../data/"),
        ("dns_train_list.csv", ("noisy", "clean"), "\t", "data/"),
    ],
)
def test_an_earlier_data_set_with_a_table(tmp_path, dns, load, table, header, separator, prefix):
    old = tmp_path / "old"
    dns(root=old / "data")
    (old / "dataset.py").write_text("raise SystemExit('loader scripts are not run')")
    (old / table).parent.mkdir(exist_ok=True)
    lines = [header]
    for noisy in sorted((old / "data" / "noisy").iterdir()):
        number = noisy.stem.rpartition("_")[2]
        paths = {"noisy": f"{prefix}noisy/{noisy.name}", "clean": f"{prefix}clean/clean_fileid_{number}.wav"}
        lines.append([paths.get(column.split(":")[0].lower(), "1.0") for column in header])
    (old / table).write_text("\ufeff" + "".join(separator.join(line) + "\r\n" for line in lines), "utf-8")
    (summary,) = prepare_from_dataset(old, tmp_path / "out")
    assert (summary.folder, summary.rows) == (tmp_path / "out" / "train", 4)
    for row in load(tmp_path / "out", "train"):
        number = row["noisy"]["path"].rpartition("_")[2]
        assert row["clean"]["path"].endswith(f"clean_fileid_{number}")
        length = soundfile.info(old / "data" / "clean" / f"clean_fileid_{number}").frames
        assert len(row["clean"]["array"]) == length

    with (old / table).open("a") as file:
        file.write(separator.join("gone.wav" for _ in header) + "\n")
    with pytest.raises(DataError, match=f"{table}, line 6: no such file: gone.wav, gone.wav"):
        prepare_from_dataset(old, tmp_path / "out2")


def test_an_earlier_data_set_with_folders(tmp_path, dns, clean):
    old = tmp_path / "old"
    dns([RATE] * 3, old / "train"), dns([RATE] * 2, old / "test")
    summaries = prepare_from_dataset(old, tmp_path / "out")
    assert [(s.folder.name, s.rows) for s in summaries] == [("train", 3), ("test", 2)]
    assert [s.folder.name for s in prepare_from_dataset(old, tmp_path / "only", "test")] == ["test"]
    (old / "test" / "clean" / "clean_fileid_1.wav").unlink()
    with pytest.raises(DataError, match="has no clean file"):  # the test split is bad: nor is train written
        prepare_from_dataset(old, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_folder_that_is_no_data_set_is_described(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "train.zip").write_bytes(b"")
    (tmp_path / "old" / "train.csv").write_text("audio,text\n")
    with pytest.raises(ValueError, match=r"columns noisy and clean.*train/noisy.*Found: train.csv, train.zip\. Unpack"):
        prepare_from_dataset(tmp_path / "old", tmp_path / "out")
    with pytest.raises(ValueError, match="no such folder"):
        prepare_from_dataset(tmp_path / "none", tmp_path / "out")
    with pytest.raises(ValueError, match="choose another folder"):
        prepare_from_dataset(tmp_path / "old", tmp_path / "old")


# The command


def command(*arguments):
    return main(["prepare-data", "-q", *map(str, arguments)])


def test_the_command_writes_both_splits(tmp_path, dns, corpora, load, capsys):
    root, out = dns(), tmp_path / "out"
    assert command("--noisy", root / "noisy", "--clean", root / "clean", "-o", out, "--split", "test") == 0
    mix = ["--speech", corpora / "speech", "--noise", corpora / "noise", "--rooms", corpora / "rir", "--seed", 1]
    assert command(*mix, "--hours", 6 / 3600, "--seconds", 2, "-o", out) == 0
    captured = capsys.readouterr()
    assert f"{out / 'test'}: 4 rows of 1.0 … 3.0 s" in captured.out
    assert f"{out / 'train'}: 3 rows of 2.0 … 2.0 s" in captured.out
    assert not captured.err
    assert len(load(out, "train")) == 3
    assert len(load(out, "test")) == 4
    dns([RATE], tmp_path / "old" / "train")
    assert command("--from-dataset", tmp_path / "old", "-o", tmp_path / "new") == 0
    spoil(root, clean=np.sin(np.arange(3 * RATE)))
    assert command("--noisy", root / "noisy", "--clean", root / "clean", "-o", tmp_path / "b", "--skip-bad") == 0
    assert "left out 12:" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--noisy", "a"],
        ["--noisy", "a", "--clean", "b", "--speech", "c", "--noise", "d"],
        ["--noisy", "a", "--clean", "b", "--hours", "1"],
        ["--speech", "a", "--noise", "b"],
        ["--speech", "a", "--noise", "b", "--hours", "1", "--count", "2"],
        ["--from-dataset", "a", "--seed", "1"],
    ],
)
def test_a_command_that_is_not_understood(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        command(*arguments, "-o", "out")
    assert caught.value.code == 2
    assert "--" in capsys.readouterr().err


def test_the_card_of_a_folder_names_what_is_there(tmp_path, dns):
    root, out = dns(), tmp_path / "out"
    prepare_pairs(root / "noisy", root / "clean", out)
    assert "config_name: test" not in (out / "README.md").read_text()
    prepare_pairs(root / "noisy", root / "clean", out, "test")
    text = (out / "README.md").read_text()
    assert text.index("config_name: train") < text.index("config_name: test") < text.index("default: true")
    assert str(tmp_path) not in text
    assert str(tmp_path) not in json.dumps(json.loads((out / "train" / "plan.json").read_text()))
