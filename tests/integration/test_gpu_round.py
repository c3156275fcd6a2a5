"""The pack of a training for another machine, and a round of it on a CPU."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from conftest import RATE, ROOT
from helpers import CRUSE_CONFIG, log_rows

from modelscope_ext.data.corpus import load_corpus
from modelscope_ext.data.rooms import load_rooms
from modelscope_ext.data.speakers import speaker_names
from modelscope_ext.training.config import load_config
from modelscope_ext.training.loop import Progress
from modelscope_ext.training.mixtures import schedule

sys.path.append(str(ROOT / "benchmarks"))
from gpu_pack import main as gpu_pack
from gpu_pack import size
from gpu_round import train as gpu_train

MEGABYTES = 0.3


@pytest.fixture
def packed(corpora, clean, tmp_path):
    """Return a configuration, its data and their pack; the speech of two speakers is more than the pack takes."""
    for speaker in ("anna", "bert"):
        for i, length in enumerate((20, 14)):
            soundfile.write(corpora / "speech" / f"{speaker}_{i}.wav", np.resize(clean, length * 2 * RATE), RATE)
    speech = {"speech": {"weight": 0.5, "speaker": "name"}, "speech_6khz": {"weight": 2.0, "band_limit_hz": 6000}}
    noise = {"noise": {"weight": 1.5, "kind": "music"}, "more_noise": 0.7}
    os.rename(corpora / "rir", corpora / "rooms")
    (corpora / "more_noise").symlink_to(corpora / "noise")
    data = CRUSE_CONFIG["data"] | {"speech": speech, "noise": noise, "room_folder": "rooms", "max_speaker_share": 0.9}
    path = tmp_path / "train.json"
    path.write_text(json.dumps(CRUSE_CONFIG | {"data": data}))
    places = ["--data-dir", corpora, "--cache", tmp_path / "cache", "--out", tmp_path / "pack"]
    gpu_pack([str(each) for each in ("--config", path, *places, "--megabytes", MEGABYTES)])
    return load_config(path), corpora, tmp_path / "pack"


@pytest.mark.slow
def test_a_pack_keeps_speakers_shares_bands_and_rooms_and_its_budget(packed, tmp_path):
    before, data, pack = packed
    after = load_config(pack / "config.json")
    assert 0.8 * MEGABYTES < size(pack) / 1e6 <= MEGABYTES
    whole, kept = {}, {}
    for side in ("speech", "noise"):
        old, new = getattr(before.data, side), getattr(after.data, side)
        assert list(old) == list(new)
        for folder, options in old.items():
            options = options if isinstance(options, dict) else {"weight": options}
            whole[folder], kept[folder] = (
                load_corpus(root / folder, tmp_path / "cache") for root in (data, pack / "data")
            )
            assert {**new[folder], "weight": 0} == {**options, "weight": 0}
            assert new[folder]["weight"] * kept[folder].seconds == pytest.approx(
                options["weight"] * whole[folder].seconds
            )
    assert kept["speech"].seconds < 0.9 * whole["speech"].seconds
    assert set(speaker_names(kept["speech"], "name")) == set(speaker_names(whole["speech"], "name"))
    assert kept["noise"].seconds == pytest.approx(whole["noise"].seconds)
    assert after.data.rooms == 0
    (room,) = load_rooms(data / "rooms")
    *simulated, real = load_rooms(pack / "data" / after.data.room_folder)
    assert [len(each) for each in simulated] == [4]
    assert np.abs(real[0][: len(room[0])] - room[0][: len(real[0])]).max() < 1e-3
    left = {"batch": 0, "data": None}
    assert replace(after, **left) == replace(before, **left)


@pytest.mark.slow
def test_a_budget_that_takes_no_piece_of_some_corpus_is_an_error(packed, tmp_path):
    _, data, pack = packed
    places = ["--data-dir", str(data), "--cache", str(tmp_path / "cache"), "--out", str(pack)]
    with pytest.raises(ValueError, match="too small for one piece of each corpus"):
        gpu_pack(["--config", str(tmp_path / "train.json"), *places, "--megabytes", "0.03"])


def play(pack, work, out, **settings):
    """Run a round and return its log."""
    variables = {
        "OUT": out,
        "WORK_DIR": work,
        "PYTHON": sys.executable,
        "BATCH": 2,
        "WORKERS": 1,
        "PROBE": 2,
        "GRACE_S": 300,
        **settings,
    }
    command = ["bash", ROOT / "benchmarks" / "gpu_round.sh", pack]
    done = subprocess.run(
        command, env=os.environ | {k: str(v) for k, v in variables.items()}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) <= 8
    assert {"best/configuration.json", "best/model.safetensors", "last.pt.00"} <= {
        str(p.relative_to(out)) for p in files
    }
    return log_rows(out)


class Clock:
    """A training that does nothing but let time pass."""

    def __init__(self, step_s):
        self.now, self.step_s, self.done, self.recipe, self.planned = 0.0, step_s, Progress(), SimpleNamespace(), []

    def run(self, steps):
        self.planned.append(self.config.steps)
        self.done.step += steps
        seconds = steps * self.step_s[min(len(self.planned), len(self.step_s)) - 1]
        self.done.seconds += seconds
        self.now += seconds + 4.0  # of a validation


@pytest.mark.parametrize("step_s", [[0.5], [0.3, 0.1], [0.02], [0.1, 0.11, 0.09, 0.1]])
def test_the_steps_are_planned_so_that_the_rates_end_in_time(monkeypatch, tmp_path, step_s):
    path = tmp_path / "train.json"
    path.write_text(json.dumps(CRUSE_CONFIG))
    config, ends = load_config(path), []
    for more_s in (0.0, 100.0):
        loop = Clock(step_s)
        monkeypatch.setattr("time.monotonic", lambda loop=loop: loop.now)
        gpu_train(loop, config, 20, 100.0, more_s)
        assert 90 < loop.now < 110
        assert schedule(replace(config, steps=loop.planned[0]), loop.done.step) == 1  # the probe is at full rates
        ends.append((loop.planned[-1], loop.done.step))
    assert ends[0][0] == ends[0][1]
    assert 1.2 * ends[1][1] < ends[1][0] < 6 * ends[1][1]


@pytest.mark.slow
def test_a_round_leaves_a_checkpoint_and_another_machine_continues_it(packed, tmp_path):
    _, _, pack = packed
    assert [int(row["step"]) for row in play(pack, tmp_path / "one", tmp_path / "out", ROUND_S=0)] == [2]
    (tmp_path / "out").rename(pack / "state")
    rows = play(pack, tmp_path / "two", tmp_path / "again", ROUND_S=0)
    assert [int(row["step"]) for row in rows] == [2, 4]
    config = load_config(pack / "config.json")
    rates = [float(row["learning_rate"]) / config.learning_rate for row in rows]
    assert rates == pytest.approx([1, config.final_share])  # no time is left: the second call's steps are the last
