"""The same sound gives the same result, whatever its neighbours, blocks and threads are."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import randomize
from helpers import DFSMN, ZIPENHANCER

from modelscope_ext import Denoiser
from modelscope_ext.export import export_onnx
from modelscope_ext.inference import denoiser as module
from modelscope_ext.inference.stock import load_network
from modelscope_ext.models import build

RATE = 16000
LIMIT = 1e-6


def stock(section):
    """Return a network of ModelScope's own package with random weights."""
    with tempfile.TemporaryDirectory() as folder:
        described = {"framework": "pytorch", "task": "acoustic-noise-suppression", "model": section}
        Path(folder, "configuration.json").write_text(json.dumps(described))
        torch.manual_seed(0)
        return load_network(Path(folder), need_weights=False)


def chunked(net, seconds):
    """Return a network that needs a whole utterance with shorter chunks than it has."""
    net.chunk_s = seconds
    return net


#: Name → network, seconds: whole-utterance networks get several chunks.
NETWORKS = {
    "default": (None, 4.0),
    "default, 48 kHz": (None, 2.6),
    "CRUSE": (lambda: build("CRUSE2-8-1xGRU2"), 4.0),
    "CRUSE in both directions": (lambda: chunked(build("CRUSE2-8-1xGRU2", bidirectional=True), 6.0), 14.0),
    "DualPath": (lambda: build("DualPath-T"), 4.0),
    "DualPath in both directions": (lambda: chunked(build("DualPath-T", bidirectional=True), 6.0), 14.0),
    "FRCRN": (lambda: build("FRCRN"), 1.3),
    "ZipEnhancer": (lambda: chunked(stock(ZIPENHANCER), 2.0), 4.0),
    "DFSMN, 48 kHz": (lambda: stock(DFSMN), 2.6),
}


def signal(seconds, rate):
    rng = np.random.default_rng(0)
    level = np.repeat(rng.uniform(0.001, 0.2, round(2 * seconds) + 1), rate // 2)[: round(seconds * rate)]
    return (rng.standard_normal(len(level)) * level).astype(np.float32)


@pytest.fixture(params=[*NETWORKS, "ONNX step", "ONNX step, 8 bits", "ONNX utterance"], scope="module")
def case(request, tmp_path_factory):
    """Return a model, its denoiser, a signal and the result for it alone."""
    torch.manual_seed(0)
    if request.param in NETWORKS:
        make, seconds = NETWORKS[request.param]
        net = make and make()
        if net is not None:
            randomize(net)
        model = net and net.eval()
    else:
        model, seconds = tmp_path_factory.mktemp("onnx") / "net.onnx", 4.0
        kind = {"utterance": "utterance" in request.param, "int8": "8 bits" in request.param}
        export_onnx(build("CRUSE2-8-1xGRU2").eval(), model, **kind)
    denoiser, rate = Denoiser(model), 48000 if "48" in request.param else RATE
    audio = signal(seconds, rate)
    return model, denoiser, audio, rate, denoiser(audio, rate)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [2, 64])
def test_neighbours_make_no_difference(case, channels):
    _, denoiser, audio, rate, alone = case
    if channels > 2 and (len(audio) > 10 * rate or not denoiser.backend.causal):  # they process one channel at a time
        audio = audio[rate : rate + rate // 5]
        alone = denoiser(audio, rate)
    others = np.random.default_rng(1).standard_normal((len(audio), channels)).astype(np.float32) * 0.3
    others[:, 0] = others[:, -1] = audio
    found = denoiser(others, rate)
    assert np.abs(found[:, 0] - alone).max() <= LIMIT
    assert np.abs(found[:, -1] - alone).max() <= LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.3, 2.1])
def test_blocks_make_no_difference(case, seconds, monkeypatch):
    _, denoiser, audio, rate, alone = case
    monkeypatch.setattr(module, "BLOCK_S", seconds)
    assert np.abs(denoiser(audio, rate) - alone).max() <= LIMIT


@pytest.mark.slow
def test_threads_make_no_difference(case):
    model, _, audio, rate, alone = case
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = Denoiser(model)(audio, rate)
    finally:
        torch.set_num_threads(before)
    assert np.abs(found - alone).max() <= LIMIT
