"""Data set folders: their content, shards, resumption and card, against `datasets` and ModelScope."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pyarrow.parquet
import pytest
import soundfile
from conftest import LENGTHS, RATE, ROOT, shard_bytes

from modelscope_ext.data import dataset, prepare
from modelscope_ext.data.prepare import prepare_pairs
from modelscope_ext.data.segments import to_segment


def test_a_folder_holds_the_samples_of_its_files(tmp_path, dns, load_split, clean, noisy):
    from datasets import Value

    root = dns()
    summary = prepare_pairs(root / "noisy", root / "clean", tmp_path / "out")
    assert (summary.rows, summary.shards, summary.shards_written, summary.skipped) == (4, 1, 1, {})
    assert (summary.shortest_s, summary.longest_s) == (1.0, LENGTHS[2] / RATE)
    assert summary.hours == pytest.approx(sum(LENGTHS) / RATE / 3600)
    assert summary.rates == {RATE: 8}
    data = load_split(tmp_path / "out", "train")
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
def test_stock_and_our_segments_of_a_folder_are_equal(tmp_path, dns, load_split, stock, format):
    root = dns()
    prepare_pairs(root / "noisy", root / "clean", tmp_path / "out")
    data = load_split(tmp_path / "out", "train").with_format(format)
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


def run(code, tmp_path, arguments=(), **options):
    caches = {name: str(tmp_path / "caches") for name in ("HF_HOME", "HF_DATASETS_CACHE", "MODELSCOPE_CACHE")}
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, **caches, **offline}
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, **options)


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


ANOTHER = """
import shutil, sys
from pathlib import Path
import numpy as np
import soundfile
from datasets import load_dataset
from modelscope.msdatasets import MsDataset
from pyarrow.parquet import read_table
from modelscope_ext.checkpoint import save_model
from modelscope_ext.data.prepare import prepare_pairs
from modelscope_ext.models import build
from modelscope_ext.training import fine_tuning

folder = Path(sys.argv[1])
noisy, clean, model = (folder / name for name in ("noisy", "clean", "model"))
seen = []

class Stop(Exception):
    pass

def keep_rows(net, config, work_dir, train_rows, *others):
    seen.append(train_rows.with_format("numpy")[0]["noisy"][:100].tolist())
    raise Stop

fine_tuning.SegmentRecipe = keep_rows
options = {"type": "speech_cruse_ans_16k", "name": "CRUSE2-8-1xGRU2"}
save_model(build(options["name"]), model, {"model": options})
for number, out in enumerate((folder / "MIXED", folder / "MIXED", folder / "other" / "MIXED")):
    shutil.rmtree(out, ignore_errors=True)
    for each in (noisy, clean):
        each.mkdir(exist_ok=True)
        for name in ("a", "b", "c"):
            soundfile.write(each / f"{name}.wav", np.random.default_rng(number).uniform(-0.1, 0.1, 16000), 16000)
    prepare_pairs(noisy, clean, out)
    expected = read_table(next(out.glob("train/*.parquet")))["noisy"][0].as_py()["array"][:100]
    for data in (load_dataset(str(out), "train", split="train"),
                 MsDataset.load(str(out), subset_name="train", split="train")):
        assert data[0]["noisy"]["array"][:100] == expected
    for card in (None, "an older card"):
        if card:  # has no digest of the content
            lines = (out / "README.md").read_text().splitlines()
            (out / "README.md").write_text("\\n".join(line for line in lines if "description" not in line))
        try:
            fine_tuning.fine_tune(model, out, folder / "work")
        except Stop:
            pass
        assert seen.pop() == expected
"""


@pytest.mark.slow
def test_another_folder_of_the_same_name_is_not_taken_from_the_cache(tmp_path):
    done = run(ANOTHER, tmp_path, arguments=[tmp_path])
    assert done.returncode == 0, done.stderr


def test_shards_and_what_is_read_at_once_are_small(tmp_path, dns, monkeypatch):
    root = dns([RATE] * 7)
    monkeypatch.setattr(dataset, "ROWS_PER_GROUP", 2)
    summary = prepare_pairs(root / "noisy", root / "clean", tmp_path / "rows", rows_per_shard=3)
    assert summary.shards == 3
    files = [pyarrow.parquet.ParquetFile(path) for path in sorted((tmp_path / "rows" / "train").glob("*.parquet"))]
    groups = [[file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] for file in files]
    assert groups == [[2, 1], [2, 1], [1]]
    monkeypatch.setattr(dataset, "SAMPLES_PER_SHARD", int(2.5 * RATE))
    assert prepare_pairs(root / "noisy", root / "clean", tmp_path / "samples").shards == 4


def test_sixteen_bit_audio_takes_two_bytes_a_sample_at_most(tmp_path):
    rng = np.random.default_rng(0)
    for kind in ("noisy", "clean"):
        (tmp_path / kind).mkdir()
        soundfile.write(tmp_path / kind / "a.wav", rng.uniform(-1, 1, 20 * RATE), RATE)  # nothing to compress
    prepare_pairs(tmp_path / "noisy", tmp_path / "clean", tmp_path / "out")
    assert sum(map(len, shard_bytes(tmp_path / "out" / "train").values())) < 2 * 20 * RATE * 2 * 1.2


KILLED = """
import os, signal
from modelscope_ext.data import dataset, prepare
dataset.ROWS_PER_GROUP = 1

def progress(items):
    for number, item in enumerate(items):
        if isinstance(items, list) and isinstance(item, tuple) and number == 4:  # in the middle of the second shard
            os.kill(os.getpid(), signal.SIGKILL)
        yield item

prepare.{call}(*{arguments!r}, rows_per_shard=3, progress=progress, **{options!r})
"""


@pytest.mark.slow
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

    monkeypatch.setattr(dataset, "ROWS_PER_GROUP", 1)
    function, seen = getattr(prepare, f"prepare_{source}"), []
    options = {**options, "rows_per_shard": 3}
    resumed = function(*arguments, **options, progress=lambda items: seen.append(len(items)) or items)
    assert (resumed.shards, resumed.shards_written) == (3, 2)
    assert seen == [5]  # nothing is looked at again; five of the eight rows are missing
    after = (tmp_path / "out" / "train" / "train-00000-of-00003.parquet").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    unbroken = function(*arguments[:-1], tmp_path / "unbroken", **options)
    assert unbroken.shards_written == 3
    assert shard_bytes(tmp_path / "out" / "train") == shard_bytes(tmp_path / "unbroken" / "train")
    names = [
        sorted(str(p.relative_to(out)) for p in out.rglob("*")) for out in (tmp_path / "out", unbroken.folder.parent)
    ]
    assert names[0] == names[1]
    assert function(*arguments, **options).shards_written == 0


def test_of_two_at_once_the_second_waits_and_finds_it_done(tmp_path, dns, monkeypatch):
    root, out, go_on, found = dns(), tmp_path / "out", threading.Event(), []

    def write(progress):
        try:
            found.append(prepare_pairs(root / "noisy", root / "clean", out, progress=progress).shards_written)
        finally:
            go_on.set()

    second = threading.Thread(target=write, args=[iter])

    def progress(items):
        if (out / ".train.half").exists() and second.ident is None:  # the first one begins to write
            second.start()
            assert go_on.wait(60)
        yield from items

    log = logging.getLogger("modelscope_ext.atomic")
    monkeypatch.setattr(log, "filters", [lambda record: go_on.set() or True])  # it says that it waits
    write(progress)
    second.join()
    assert sorted(found) == [0, 1]
    assert sorted(path.name for path in out.rglob("*")) == [
        "README.md",
        "plan.json",
        "train",
        *shard_bytes(out / "train"),
    ]


def test_another_data_set_is_not_overwritten(tmp_path, dns):
    root, out = dns(), tmp_path / "out"
    prepare_pairs(root / "noisy", root / "clean", out)
    before = shard_bytes(out / "train")
    with pytest.raises(ValueError, match="other settings"):
        prepare_pairs(root / "noisy", root / "clean", out, rows_per_shard=2)
    dns([RATE] * 5, root)
    with pytest.raises(ValueError, match="source files have changed"):
        prepare_pairs(root / "noisy", root / "clean", out)
    assert shard_bytes(out / "train") == before
    (tmp_path / "mine" / "train").mkdir(parents=True)
    with pytest.raises(ValueError, match="not written by prepare-data"):
        prepare_pairs(root / "noisy", root / "clean", tmp_path / "mine")
    (tmp_path / "mine" / "README.md").write_text("# My notes")
    with pytest.raises(ValueError, match=r"README\.md: was not written by prepare-data"):
        prepare_pairs(root / "noisy", root / "clean", tmp_path / "mine", "test")
    with pytest.raises(ValueError, match="train, test"):
        prepare_pairs(root / "noisy", root / "clean", out, "validation")


def test_the_card_of_a_folder_names_what_is_there(tmp_path, dns):
    root, out = dns(), tmp_path / "out"
    prepare_pairs(root / "noisy", root / "clean", out)
    assert "config_name: test" not in (out / "README.md").read_text()
    prepare_pairs(root / "noisy", root / "clean", out, "test")
    text = (out / "README.md").read_text()
    assert text.index("config_name: train") < text.index("config_name: test") < text.index("default: true")
    assert str(tmp_path) not in text
    assert str(tmp_path) not in json.dumps(json.loads((out / "train" / "plan.json").read_text()))
