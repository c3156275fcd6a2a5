import json

import pytest
import torch
from safetensors.torch import save_file

from modelscope_ext.checkpoint import CheckpointError, load_model, save_model
from modelscope_ext.models import CRUSE_TYPE, build

NAME = "CRUSE2-8-1xGRU2"
CONFIGURATION = {"model": {"type": CRUSE_TYPE, "name": NAME, "skip": "concat"}}


@pytest.fixture
def folder(tmp_path):
    save_model(build(NAME, skip="concat"), tmp_path / "model", CONFIGURATION)
    return tmp_path / "model"


def test_what_is_saved_is_loaded(tmp_path):
    net = build(NAME, skip="concat").eval()
    save_model(net, tmp_path, CONFIGURATION)
    loaded = load_model(tmp_path)
    audio = torch.randn(1, 1000)
    assert torch.equal(loaded.enhance(audio), net.enhance(audio))
    assert not loaded.training
    assert sorted(p.name for p in tmp_path.iterdir()) == ["configuration.json", "model.safetensors"]


def change(folder, edit):
    path = folder / "model.safetensors"
    from safetensors.torch import load_file

    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop("encoder.0.causal.conv.weight"), "lacks encoder.0.causal.conv.weight"),
        (lambda t: t.update(extra=torch.zeros(1)), "has unknown extra"),
        (
            lambda t: t.update({"encoder.0.norm.bias": torch.zeros(3)}),
            r"encoder.0.norm.bias is \(3,\) instead of \(16,\)",
        ),
        (lambda t: t["encoder.0.norm.bias"].fill_(torch.nan), "encoder.0.norm.bias has NaN"),
    ],
    ids=["missing", "unknown", "shape", "nan"],
)
def test_weights_that_do_not_fit_are_reported(folder, edit, message):
    change(folder, edit)
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: .*{message}"):
        load_model(folder)


def test_damaged_folders_are_reported(folder, tmp_path):
    with pytest.raises(CheckpointError, match="a model folder holds"):
        load_model(tmp_path / "nothing")
    weights = (folder / "model.safetensors").read_bytes()
    for content in (b"", weights[:100], weights[:-10], b"\xff" * 1000):
        (folder / "model.safetensors").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"model\.safetensors: not a safetensors file, or damaged"):
            load_model(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: no such file"):
        load_model(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "configuration.json: "),
        ("[]", 'has no "model" section'),
        (json.dumps({"model": {"type": "bert"}}), "model type 'bert' is unknown"),
        (json.dumps({"model": {"type": CRUSE_TYPE}}), "name"),
        (json.dumps({"model": {"type": CRUSE_TYPE, "name": NAME, "depth": 3}}), "unknown CRUSE options depth"),
    ],
)
def test_configurations_that_do_not_fit_are_reported(folder, content, message):
    (folder / "configuration.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        load_model(folder)
