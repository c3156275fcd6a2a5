"""The models in the package by their names."""

import json
from pathlib import Path

import numpy as np
import pytest

from modelscope_ext import Denoiser, build
from modelscope_ext.checkpoint import save_model
from modelscope_ext.cli import main
from modelscope_ext.export import export_onnx
from modelscope_ext.hub import model_folder
from modelscope_ext.models import DUAL_PATH_TYPE
from modelscope_ext.pretrained import MODELS

NOISE = np.random.default_rng(0).standard_normal(8000).astype(np.float32) / 10


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Two small networks in the place of those in the package; the one for files needs the whole recording."""
    nets = {"file": build("DualPath-T", bidirectional=True), "stream": build("DualPath-T")}
    for name, net in nets.items():
        options = {"type": DUAL_PATH_TYPE, "name": "DualPath-T", "bidirectional": not net.causal}
        save_model(net.eval(), tmp_path / name, {"model": options})
        export_onnx(net, tmp_path / name / "model.onnx", blocks=net.causal)
        monkeypatch.setitem(MODELS, name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return {name: tmp_path / name for name in nets}


def streamed(denoiser):
    stream = denoiser.stream(16000)
    return np.concatenate([stream.feed(NOISE), stream.flush()])


def test_a_denoiser_takes_the_model_for_what_it_is_asked(folders):
    denoiser = Denoiser()
    assert np.array_equal(denoiser(NOISE, 16000), Denoiser(folders["file"])(NOISE, 16000))
    assert np.array_equal(streamed(denoiser), streamed(Denoiser(folders["stream"])))
    assert denoiser.stream(16000).latency_ms > 0


def test_names_are_models(folders):
    for name, folder in folders.items():
        assert model_folder(name) == folder
        assert np.array_equal(Denoiser(name)(NOISE, 16000), Denoiser(folder)(NOISE, 16000))
    with pytest.raises(ValueError, match='stream with the model "stream"'):
        Denoiser("file").stream(16000)


def test_names_are_those_of_the_package_and_no_folders(tmp_path, monkeypatch):
    (tmp_path / "stream").mkdir()
    monkeypatch.chdir(tmp_path)
    assert model_folder("stream") == MODELS["stream"]
    assert model_folder("./stream") == model_folder(Path("stream")) == Path("stream")


def test_each_model_has_its_own_limit(folders):
    path = folders["stream"] / "configuration.json"
    configuration = json.loads(path.read_text()) | {"inference": {"attenuation_limit_db": 0.0}}
    path.write_text(json.dumps(configuration))
    export_onnx(folders["stream"], folders["stream"] / "model.onnx", blocks=True)
    denoiser = Denoiser()
    assert np.abs(streamed(denoiser) - NOISE).max() < 1e-6
    assert np.abs(denoiser(NOISE, 16000) - NOISE).max() > 1e-3


def test_the_package_has_a_model_for_files_and_one_for_streams():
    denoiser = Denoiser()
    assert np.array_equal(streamed(denoiser), streamed(Denoiser("stream")))
    assert np.array_equal(denoiser(NOISE, 16000), Denoiser("file")(NOISE, 16000))
    assert not np.allclose(denoiser(NOISE, 16000), Denoiser("stream")(NOISE, 16000), atol=1e-5)


def test_info_takes_names(capsys):
    assert main(["info", "stream"]) == 0
    assert "CRUSE4-64-1xGRU4" in capsys.readouterr().out
