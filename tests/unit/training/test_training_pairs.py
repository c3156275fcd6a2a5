"""The command that adapts a model to pairs of one's own, with a small network."""

import json
import logging
import re
import shutil
import threading

import numpy as np
import pytest
import soundfile
import torch
from conftest import RATE
from helpers import CRUSE_CONFIG, log_rows

from modelscope_ext import Denoiser
from modelscope_ext.atomic import alone_in
from modelscope_ext.checkpoint import save_model
from modelscope_ext.cli import main
from modelscope_ext.evaluation import Evaluation
from modelscope_ext.models import CRUSE_TYPE, build

NAME = "CRUSE2-8-1xGRU2"


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    options = {"name": NAME, "batch_norm": False, "mask": "complex"}
    save_model(build(**options).eval(), tmp_path / "model", {"model": {"type": CRUSE_TYPE, **options}})
    return tmp_path / "model"


@pytest.fixture
def pairs(tmp_path, clean):
    """Write 20 pairs of a second of a voice in white noise."""
    rng = np.random.default_rng(0)
    for kind in ("noisy", "clean"):
        (tmp_path / "pairs" / kind).mkdir(parents=True)
    for i in range(20):
        voice = clean[i * 5000 : i * 5000 + RATE]
        soundfile.write(tmp_path / "pairs" / "clean" / f"me_{i}.wav", voice, RATE)
        soundfile.write(tmp_path / "pairs" / "noisy" / f"me_{i}.wav", voice + rng.normal(0, 0.03, len(voice)), RATE)
    return tmp_path / "pairs"


@pytest.fixture
def train(tmp_path, model, pairs, capsys):
    """Return a function that runs the command and returns its exit code, its output and its messages."""

    def run(*options, data=pairs, work="run"):
        arguments = ["--model", model, "--data", data, "--work-dir", tmp_path / work, "--device", "cpu", *options]
        code = main(["train", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


def test_a_gain_is_a_model_folder(train, tmp_path, pairs, caplog, monkeypatch):
    def scored(pairs, denoise, metrics, name, **options):
        rows = {pair.name: dict.fromkeys(metrics, 3.0 if name == "after" else 2.9) for pair in pairs}
        return Evaluation(name, rows, {})

    monkeypatch.setattr("modelscope_ext.cli.train.evaluate", scored)
    caplog.set_level("INFO", "modelscope_ext")
    code, out, err = train("--epochs", 2, "--iterations", 10, "--batch", 2, "--learning-rate", 0.01)
    assert code == 0, err
    assert [row.split("|")[2].split()[0] for row in re.findall(r"\| (?:before|after) .*", out)] == ["2.90", "3.00"]
    assert Denoiser(tmp_path / "run" / "output")(np.zeros(RATE, np.float32), RATE).shape == (RATE,)
    assert "pairs: 16 for train, 2 for validation, 2 for gate; no file is in two of these parts" in caplog.text
    line = "epoch 2, step 20, learning rate 0.01, loss .*, SI-SNR (.*) dB, validation: loss .*, SI-SNR (.*) dB, .* s"
    trained, validated = map(float, re.search(line, caplog.text).groups())
    last = log_rows(tmp_path / "run")[-1]
    assert (trained, validated) == pytest.approx((-float(last["sisnr"]), float(last["avg_sisnr"])), rel=1e-3)
    for kind in ("noisy", "clean"):
        shutil.copy(pairs / kind / "me_0.wav", pairs / kind / "me_20.wav")
    code, _, err = train("--epochs", 3, "--batch", 2)
    assert code == 1
    assert "parts.json is of a run with other pairs" in err
    (tmp_path / "run" / "parts.json").write_text("[")
    assert "parts.json: was not written by train" in train()[2]


def test_no_gain_is_an_error_that_says_so(train, tmp_path):
    options = ("--epochs", 1, "--iterations", 1, "--batch", 1, "--learning-rate", 1e-9)
    code, _, err = train(*options)
    assert code == 1
    assert "nothing was gained: no mean rose by more than 0.05 WB-PESQ, 0.5 STOI %, 0.5 SI-SDR dB" in err
    assert not (tmp_path / "run" / "output").exists()
    code, _, err = train(*options, "--no-gate", work="any")
    assert code == 0, err
    assert (tmp_path / "any" / "output" / "configuration.json").exists()


def test_too_little_time_is_an_error_that_says_so(train, tmp_path):
    code, _, err = train("--minutes", 1e-6, "--iterations", 2, "--batch", 1, "--no-gate")
    assert code == 1
    assert "the time was over before the first evaluation" in err
    assert not (tmp_path / "run" / "output").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--data", "{}/none"], "none: no such folder"),
        (["--data", "{}/model"], "model: holds no pairs"),
        (["--model", "{}/none"], "none/configuration.json: no such file"),
        (["--model", "{}/empty"], "empty: has no weights"),
        (["--model", "{}/other/output", "--work-dir", "{}/other", "--no-gate"], "would be overwritten; choose another"),
        (["--gate", "{}/none"], "none: no such folder"),
        (["--gate", "{}/pairs"], "is in --data and in --gate"),
        (["--work-dir", "{}/file"], "File exists"),
        (["--minutes", "0"], "--minutes must be above 0"),
        (["--config", "{}/file"], "give either --data"),
    ],
)
def test_wrong_paths_are_errors_before_any_work(train, tmp_path, model, options, reason, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    shutil.copytree(model, tmp_path / "other" / "output")
    (tmp_path / "empty" / "configuration.json").write_text(json.dumps({"model": {"type": CRUSE_TYPE, "name": NAME}}))
    monkeypatch.setattr("modelscope_ext.cli.train.evaluate", None)  # it would fail
    code, _, err = train(*(option.format(tmp_path) for option in options))
    assert code == 1
    assert reason in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["pairs", "mixtures"])
def test_of_two_in_one_folder_the_second_waits(tmp_path, model, pairs, corpora, kind, monkeypatch):
    config, work, waits = tmp_path / "train.json", tmp_path / "run", threading.Event()
    config.write_text(json.dumps({**CRUSE_CONFIG, "data": {**CRUSE_CONFIG["data"], "rooms": 0}, "steps": 1}))
    own = ["--data", pairs, "--model", model, "--epochs", 1, "--iterations", 1, "--batch", 2, "--no-gate"]
    options = own if kind == "pairs" else ["--config", config, "--data-dir", corpora]
    arguments, codes = ["train", "-q", "--work-dir", work, "--device", "cpu", *options], []
    log = logging.getLogger("modelscope_ext.atomic")
    monkeypatch.setattr(log, "filters", [lambda record: waits.set() or True])
    second = threading.Thread(target=lambda: codes.append(main(list(map(str, arguments)))))
    work.mkdir()
    with alone_in(work):
        second.start()
        assert waits.wait(60)
        assert list(work.iterdir()) == []
    second.join()
    assert codes == [0]
    assert (work / ("output" if kind == "pairs" else "best")).is_dir()
