"""Data sets from pairs, mixtures and earlier data sets, and the command that writes them."""

import math

import numpy as np
import pytest
import soundfile
from conftest import RATE, shard_bytes

from modelscope_ext.audio import AudioError, read_mono
from modelscope_ext.cli import main
from modelscope_ext.data.corpus import load_corpus
from modelscope_ext.data.dataset import DataError
from modelscope_ext.data.mixing import MixConfig, Mixer
from modelscope_ext.data.prepare import prepare_from_dataset, prepare_mixtures, prepare_pairs
from modelscope_ext.data.rooms import load_rooms


def test_other_rates_and_channels_become_16_khz_mono(tmp_path, dns, load_split, clean):
    root = dns([RATE] * 2)
    soundfile.write(root / "noisy" / "a.wav", np.stack((clean[:96000], clean[100:96100]), 1), 48000)
    soundfile.write(root / "clean" / "a.flac", clean[:88200], 44100)
    summary = prepare_pairs(root / "noisy", root / "clean", tmp_path / "out")
    assert summary.rates == {RATE: 4, 48000: 1, 44100: 1}
    assert "resampled to 16000 Hz: 1 files of 44100 Hz, 1 files of 48000 Hz" in str(summary)
    row = next(row for row in load_split(tmp_path / "out", "train") if row["noisy"]["path"] == "a.wav")
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


def test_all_bad_data_are_named_before_anything_is_written(tmp_path, dns, load_split, clean):
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
    assert len(load_split(tmp_path / "out", "train")) == 4
    with pytest.raises(DataError, match="12 problems"):  # asked again without, it does not pass for complete
        prepare_pairs(root / "noisy", root / "clean", tmp_path / "out")


def test_names_outside_utf_8_are_written_and_unreadable_files_are_named(tmp_path, dns, load_split):
    root = dns()
    for kind in ("noisy", "clean"):
        (path,) = (root / kind).glob("*_fileid_0.wav")
        path.rename(root / kind / "\udcff_fileid_0.wav")
    (root / "noisy" / "gone.wav").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"gone\.wav: is no file"):
        prepare_pairs(root / "noisy", root / "clean", tmp_path / "out")
    prepare_pairs(root / "noisy", root / "clean", tmp_path / "out", skip_bad=True)
    assert "\\udcff_fileid_0.wav" in [row["path"] for row in load_split(tmp_path / "out", "train")["noisy"]]


def test_a_folder_of_bad_data_only_is_an_error(tmp_path, clean):
    for kind in ("noisy", "clean"):
        (tmp_path / kind).mkdir()
        soundfile.write(tmp_path / kind / "a.wav", clean[RATE : RATE + 100], RATE)
    with pytest.raises(DataError, match="shorter than"):
        prepare_pairs(tmp_path / "noisy", tmp_path / "clean", tmp_path / "out", skip_bad=True)
    assert not (tmp_path / "out").exists()
    assert prepare_pairs(tmp_path / "noisy", tmp_path / "clean", tmp_path / "out", shortest_s=0).rows == 1


def test_mixtures_are_those_of_the_mixer(tmp_path, corpora, load_split):
    folders = [corpora / "speech", corpora / "noise", corpora / "rir"]
    config = MixConfig(seconds=1.0)
    summary = prepare_mixtures(*folders, tmp_path / "out", hours=4 / 3600, seed=5, config=config)
    assert (summary.rows, summary.longest_s) == (4, 1.0)
    speech, noise = ([(load_corpus(folder, tmp_path / "cache"), 1.0)] for folder in folders[:2])
    mixer = Mixer(speech, noise, load_rooms(folders[2]), config, 5)
    for row, (noisy, target) in zip(
        load_split(tmp_path / "out", "train"), map(mixer.__getitem__, range(4)), strict=True
    ):
        for name, audio in (("noisy", noisy), ("clean", target)):
            assert np.abs(np.array(row[name]["array"]) - audio).max() <= 0.5 / 32768
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["README.md", "train"]
    prepare_mixtures(*folders, tmp_path / "again", count=4, seed=5, config=config)
    assert shard_bytes(tmp_path / "again" / "train") == shard_bytes(tmp_path / "out" / "train")
    prepare_mixtures(*folders, tmp_path / "other", count=4, seed=6, config=config)
    assert shard_bytes(tmp_path / "other" / "train") != shard_bytes(tmp_path / "out" / "train")
    prepare_mixtures(*folders[:2], None, tmp_path / "dry", count=4, seed=5, config=config)
    assert shard_bytes(tmp_path / "dry" / "train") != shard_bytes(tmp_path / "out" / "train")


def test_bad_files_of_mixtures_are_named(tmp_path, corpora):
    soundfile.write(corpora / "speech" / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(corpora / "rir" / "silent.wav", np.zeros(RATE), RATE)
    (corpora / "noise" / "text.wav").write_text("no music")
    (corpora / "rir" / "gone.wav").symlink_to("nowhere")
    (corpora / "noise" / "gone.wav").symlink_to("nowhere")
    folders = [corpora / "speech", corpora / "noise", corpora / "rir"]
    with pytest.raises(DataError) as caught:
        prepare_mixtures(*folders, tmp_path / "out", count=1)
    bad = {str(corpora / name) for name in ("speech/silent.wav", "rir/silent.wav", "noise/text.wav")}
    bad |= {str(corpora / kind / "gone.wav") for kind in ("noise", "rir")}
    assert caught.value.problems.keys() == bad
    assert not (tmp_path / "out").exists()
    summary = prepare_mixtures(*folders, tmp_path / "out", count=1, skip_bad=True)
    assert summary.skipped == caught.value.problems
    for amount in ({}, {"hours": 1, "count": 1}, {"count": 0}, {"hours": 0.0001}, {"hours": math.inf}):
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
def test_an_earlier_data_set_with_a_table(tmp_path, dns, load_split, table, header, separator, prefix):
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
    for row in load_split(tmp_path / "out", "train"):
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


def command(*arguments):
    return main(["prepare-data", "-q", *map(str, arguments)])


def test_the_command_writes_both_splits(tmp_path, dns, corpora, load_split, capsys):
    root, out = dns(), tmp_path / "out"
    assert command("--noisy", root / "noisy", "--clean", root / "clean", "-o", out, "--split", "test") == 0
    mix = ["--speech", corpora / "speech", "--noise", corpora / "noise", "--rooms", corpora / "rir", "--seed", 1]
    assert command(*mix, "--hours", 6 / 3600, "--seconds", 2, "-o", out) == 0
    captured = capsys.readouterr()
    assert f"{out / 'test'}: 4 rows of 1.0 … 3.0 s" in captured.out
    assert f"{out / 'train'}: 3 rows of 2.0 … 2.0 s" in captured.out
    assert not captured.err
    assert len(load_split(out, "train")) == 3
    assert len(load_split(out, "test")) == 4
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
