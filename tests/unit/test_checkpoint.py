import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from modelscope_ext.checkpoint import CheckpointError, load_model, save_model
from modelscope_ext.models import CRUSE_TYPE, build
from modelscope_ext.tensors import STEPS, in_8_bits, round_to_8_bits

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


MATRIX = "rnn.weight_ih_l0"


def rounded_network():
    net = build(NAME, skip="concat").eval()
    with torch.no_grad():
        net.rnn.weight_ih_l0.copy_(round_to_8_bits(net.rnn.weight_ih_l0))
        net.encoder[1].causal.conv.weight.copy_(net.encoder[1].causal.conv.weight.half())
    return net


def test_small_files_hold_the_same_weights(tmp_path):
    net = rounded_network()
    save_model(net, tmp_path / "small", CONFIGURATION, small=True)
    stored = load_file(tmp_path / "small" / "model.safetensors")
    assert stored[MATRIX].dtype == torch.int8
    assert stored[MATRIX + STEPS].shape == (*stored[MATRIX].shape[:-1], 1)
    assert stored["encoder.1.causal.conv.weight"].dtype == torch.float16
    assert stored["rnn.weight_hh_l0"].dtype == torch.float32  # which 16 bits do not hold
    found, wanted = load_model(tmp_path / "small").state_dict(), net.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_rounding_to_8_bits_is_close_and_exact_in_products():
    torch.manual_seed(0)
    value = torch.randn(3, 50, 40) * torch.logspace(-6, 3, 50)[:, None]
    value[1, 7] = 0
    rounded = round_to_8_bits(value)
    whole, steps = in_8_bits(rounded)
    assert torch.equal(whole * steps, rounded)
    assert int(whole.abs().max()) == 127
    assert (rounded - value).abs().div(value.abs().amax(-1, keepdim=True) + 1e-30).max() < 0.0045  # half of 1 / 127
    assert in_8_bits(value) is None


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        (MATRIX, torch.ones(1, 1, 1)),
        (MATRIX, torch.ones(1, 1, 4096)),
        ("encoder.0.norm.bias", torch.ones(1)),
    ],
    ids=["too few", "would grow", "of a tensor in 32 bits"],
)
def test_steps_that_do_not_fit_are_refused(tmp_path, name, steps):
    save_model(rounded_network(), tmp_path / "model", CONFIGURATION, small=True)
    change(tmp_path / "model", lambda tensors: tensors.update({name + STEPS: steps}))
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: .*{name}{STEPS} does not fit {name}"):
        load_model(tmp_path / "model")


def change(folder, edit):
    path = folder / "model.safetensors"
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
