"""What several test files share: where the corpora are, a voice and a noise of our own, one torch thread."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"
EXAMPLES = ROOT / "examples"
RATE = 16000

# Two threads can be ten times slower than one where the other core is busy; processes that tests start know it too.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("shared") and not (SHARED / "data").is_dir():
            item.add_marker(pytest.mark.skip(reason="there is no ../shared"))


def streamed(denoiser, audio, rate) -> np.ndarray:
    """What a stream makes of (N,) or (N, channels) samples in one chunk."""
    stream = denoiser.stream(rate, 1 if audio.ndim == 1 else audio.shape[1])
    return np.concatenate((stream.feed(audio), stream.flush()))


@pytest.fixture(scope="session")
def clean() -> np.ndarray:
    """8 s of a synthetic voice, (N,) float32."""
    return soundfile.read(EXAMPLES / "clean.wav", dtype="float32")[0]


@pytest.fixture(scope="session")
def noisy() -> np.ndarray:
    """The same voice in noise."""
    return soundfile.read(EXAMPLES / "noisy.wav", dtype="float32")[0]


@pytest.fixture(scope="session")
def denoiser():
    from modelscope_ext import Denoiser

    return Denoiser()


@pytest.fixture
def corpora(tmp_path, clean) -> Path:
    """A data folder as `examples/train_cruse.json` expects one, of seconds instead of hours."""
    rng = np.random.default_rng(0)
    for folder in ("speech", "noise", "valid_speech", "valid_noise", "speech_6khz", "rir"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    data = tmp_path / "data"
    soundfile.write(data / "speech" / "a.wav", clean[: 3 * RATE], RATE)
    soundfile.write(data / "speech" / "b.flac", np.tile(clean[3 * RATE : 5 * RATE, None], (1, 2)), 22050)
    soundfile.write(data / "speech_6khz" / "c.ogg", clean[4 * RATE : 6 * RATE], RATE)
    soundfile.write(data / "noise" / "n.wav", rng.standard_normal(2 * RATE) * 0.1, RATE)
    soundfile.write(data / "valid_speech" / "v.wav", clean[RATE : 4 * RATE], RATE)
    soundfile.write(data / "valid_noise" / "w.wav", rng.standard_normal(2 * RATE) * 0.1, RATE)
    room = np.zeros(2000)
    room[100], room[100:] = 1, rng.standard_normal(1900) * np.exp(-np.arange(1900) / 400) * 0.2
    room[100] = 1
    soundfile.write(data / "rir" / "room.wav", room, RATE)
    return data


@pytest.fixture(scope="session")
def frcrn_folder(tmp_path_factory):
    """A model folder as released: an empty preprocessor section, settings of older packages, random weights."""
    folder = tmp_path_factory.mktemp("models") / "speech_frcrn_ans_cirm_16k"
    folder.mkdir()
    configuration = json.loads((ROOT / "configuration.json").read_text()) | {"preprocessor": {}}
    configuration["train"]["lr_scheduler"]["verbose"] = True
    (folder / "configuration.json").write_text(json.dumps(configuration))
    from modelscope_ext.checkpoint import save_released
    from modelscope_ext.models import build

    torch.manual_seed(0)
    net = build("FRCRN").eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    for unet in (net.unet, net.unet2):  # small masks, so that no sample overflows in the stock pipeline
        for parameter in unet.linear.parameters():
            parameter.data *= 0.03
    save_released(net, folder / "pytorch_model.bin")
    return folder
