"""FRCRN's weights in every known layout, both ways; damaged ones are reported."""

import json
import os
import pickle
import re

import pytest
import torch
from conftest import RELEASED, randomize
from safetensors.torch import save_file

from modelscope_ext.checkpoint import (
    FRCRN_TYPE,
    CheckpointError,
    load_model,
    load_weights,
    released_state_dict,
    save_model,
    save_released,
)
from modelscope_ext.models import build

CONFIGURATION = {"model": {"type": FRCRN_TYPE, **RELEASED}}
ENCODER = "unet.encoders.0.bn.bn_re.bias"
SECOND_NAME = "unet.encoder0.bn.bn_re.bias"


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(2)
    made = build("FRCRN")
    randomize(made)
    return made.eval()


@pytest.fixture(scope="module")
def blank():
    """Return a network to load weights into."""
    return build("FRCRN")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "configuration.json").write_text(json.dumps(CONFIGURATION))
    return tmp_path


def assert_same_weights(a, b):
    b = b.state_dict()
    for name, value in a.state_dict().items():
        assert torch.equal(value, b[name]), name


def stock_module():
    return pytest.importorskip("modelscope.models.audio.ans.frcrn")


def test_the_released_layout_is_the_stock_classs(net):
    """1,692 names, shapes and types, and the fixed matrices, are equal."""
    found, wanted = released_state_dict(net), stock_module().FRCRN(**RELEASED).state_dict()
    assert found.keys() == wanted.keys()
    assert len(found) == 1692
    for name, value in wanted.items():
        assert (found[name].shape, found[name].dtype) == (value.shape, value.dtype), name
        if "unet" not in name:
            torch.testing.assert_close(found[name], value, rtol=0, atol=2e-6)


def test_what_we_save_the_stock_model_loads(net, folder):
    save_released(net, folder / "pytorch_model.bin")
    assert sorted(p.name for p in folder.iterdir()) == ["configuration.json", "pytorch_model.bin"]
    assert (folder / "pytorch_model.bin").stat().st_size < 59e6  # each tensor once
    found = torch.load(folder / "pytorch_model.bin", weights_only=True)
    stock = stock_module().FRCRN(**RELEASED)
    stock.load_state_dict(found, strict=True)
    assert_same_weights(net, stock)
    decorated = stock_module().FRCRNDecorator(str(folder), **RELEASED).eval()
    assert_same_weights(net, decorated.model)


@pytest.mark.parametrize("layout", ["released", "trainer", "trainer, bare", "ours", "ours, safetensors"])
def test_every_layout_is_loaded(net, folder, layout):
    if layout.startswith("ours"):
        tensors = net.state_dict()
    else:
        stock = stock_module().FRCRNDecorator(str(folder), **RELEASED)
        stock.model.load_state_dict(released_state_dict(net))
        tensors = stock.model.state_dict() if layout == "released" else stock.state_dict()
    if layout == "trainer":
        tensors = {"state_dict": tensors, "meta": {"modelscope": "1.40.2", "epoch": 3, "time": "now"}}
    if layout.endswith("safetensors"):
        save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors")
    else:
        torch.save(tensors, folder / "pytorch_model.bin")
    loaded = load_model(folder)
    assert not loaded.training
    assert_same_weights(net, loaded)


def test_what_is_saved_is_loaded(net, tmp_path):
    save_model(net, tmp_path, CONFIGURATION | {"inference": {"attenuation_limit_db": 20}})
    loaded = load_model(tmp_path)
    assert loaded.attenuation_limit_db == 20
    audio = torch.randn(1, 700)
    with torch.no_grad():
        assert torch.equal(loaded.enhance(audio), net.enhance(audio))


def other(value):
    return lambda t: t.update({ENCODER: value(t[ENCODER])})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop(ENCODER), f"lacks {ENCODER}"),
        (lambda t: t.pop(SECOND_NAME), f"lacks {SECOND_NAME}"),
        (lambda t: t.update(extra=torch.zeros(1)), "has unknown extra"),
        (other(lambda v: v[:3]), rf"{ENCODER} is \(3,\) instead of \(128,\)"),
        (other(lambda v: v * torch.nan), f"{ENCODER} has NaN or infinite values"),
        (other(lambda v: v + 1), f"{ENCODER} and {SECOND_NAME} are one tensor and differ"),
        (lambda t: t.update({"stft.weight": t["stft.weight"] * 2}), "stft.weight is not that of a square-root Hann"),
    ],
    ids=["missing", "second name missing", "unknown", "shape", "nan", "two values", "another STFT"],
)
def test_released_weights_that_do_not_fit_are_reported(net, blank, tmp_path, edit, message):
    tensors = released_state_dict(net)
    edit(tensors)
    torch.save(tensors, tmp_path / "w.bin")
    with pytest.raises(CheckpointError, match=rf"w\.bin: {message}$|w\.bin: {message} window$"):
        load_weights(blank, tmp_path / "w.bin")


@pytest.mark.parametrize("content", [{}, {"a": 1}, [1], {"state_dict": {}}, {"state_dict": {1: torch.ones(1)}}])
def test_files_without_weights_are_reported(blank, tmp_path, content):
    torch.save(content, tmp_path / "w.bin")
    with pytest.raises(CheckpointError, match=r"w\.bin: holds no state dict"):
        load_weights(blank, tmp_path / "w.bin")


def test_damaged_files_are_reported(net, folder):
    path = folder / "pytorch_model.bin"
    save_released(net, path)
    whole = path.read_bytes()
    for content in (b"", whole[:100], whole[: len(whole) // 2], whole[:-100], b"\xff" * 999, b"<html>", whole[::-1]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: not a weights file, or damaged"):
            load_model(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_git_lfs_pointer_is_reported(folder, name):
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'7' * 64}\nsize 57991225\n"
    (folder / name).write_text(pointer)
    with pytest.raises(CheckpointError, match=rf"{re.escape(name)}: a Git LFS pointer.*git lfs pull"):
        load_model(folder)


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


def test_code_in_a_pickle_is_not_run(folder):
    path, trace = folder / "pytorch_model.bin", folder / "trace"
    torch.save({"unet": Attack(trace)}, path)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: would run posix\.system when .* refused"):
        load_model(folder)
    for protocol in (2, 4):
        path.write_bytes(pickle.dumps(Attack(trace), protocol))
        with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: (would run|not a weights file)"):
            load_model(folder)
    assert not trace.exists()
    pickle.loads(path.read_bytes())  # it is an attack indeed
    assert trace.exists()


def test_missing_weights_are_reported_with_the_way_out(blank, folder):
    with pytest.raises(CheckpointError, match=f"{re.escape(str(folder))}: has neither .*modelscope download --model"):
        load_model(folder)
    with pytest.raises(CheckpointError, match=r"none\.bin: no such file"):
        load_weights(blank, folder / "none.bin")


def test_configurations_of_other_frcrns_are_reported(folder):
    options = CONFIGURATION["model"] | {"model_depth": 10}
    (folder / "configuration.json").write_text(json.dumps({"model": options}))
    with pytest.raises(CheckpointError, match=r"configuration\.json: FRCRN: model_depth must be 14, got 10"):
        load_model(folder)
