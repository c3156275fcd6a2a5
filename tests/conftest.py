"""What several test files share: where the corpora are, a voice and a noise of our own, one torch thread."""

import functools
import http.server
import json
import os
import runpy
import shutil
import threading
import unicodedata
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"
EXAMPLES = ROOT / "examples"
RATE = 16000
#: Samples of the pairs in `dns`.
LENGTHS = [RATE, 2 * RATE + 300, 3 * RATE - 1, RATE + 1]
#: The "model" section of the released FRCRN without its type.
RELEASED = {
    "complex": True,
    "model_complexity": 45,
    "model_depth": 14,
    "log_amp": False,
    "padding_mode": "zeros",
    "win_len": 640,
    "win_inc": 320,
    "fft_len": 640,
    "win_type": "hann",
}

# Two threads can be ten times slower than one where the other core is busy; processes that tests start know it too.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("shared") and not (SHARED / "data").is_dir():
            item.add_marker(pytest.mark.skip(reason="there is no ../shared"))


def randomize(net):
    """Set batch norms as after some training: no value is initial."""
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, 0, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.3)


def streamed(denoiser, audio, rate) -> np.ndarray:
    """Return (N,) or (N, channels) samples after a stream, fed in one chunk."""
    stream = denoiser.stream(rate, 1 if audio.ndim == 1 else audio.shape[1])
    return np.concatenate((stream.feed(audio), stream.flush()))


def speech(rate, seconds=3.0, channels=1) -> np.ndarray:
    """Return (N, channels) of `noisy.wav` at a rate; channels differ in level."""
    from scipy.signal import resample_poly

    noisy, ratio = soundfile.read(EXAMPLES / "noisy.wav", dtype="float32")[0], Fraction(rate, RATE)
    audio = resample_poly(noisy[: round(seconds * RATE)], ratio.numerator, ratio.denominator)
    return np.float32(audio)[:, None] * np.linspace(1, 0.5, channels, dtype=np.float32)


def wait_for(browser, script, seconds=120):
    """Return the first true value of a script in the page."""
    ui = pytest.importorskip("selenium.webdriver.support.ui")
    return ui.WebDriverWait(browser, seconds).until(lambda page: page.execute_script(f"return {script}"), script)


@pytest.fixture(scope="session")
def clean() -> np.ndarray:
    """8 s of a synthetic voice, (N,) float32."""
    return soundfile.read(EXAMPLES / "clean.wav", dtype="float32")[0]


@pytest.fixture(scope="session")
def noisy() -> np.ndarray:
    """Return the same voice in noise."""
    return soundfile.read(EXAMPLES / "noisy.wav", dtype="float32")[0]


@pytest.fixture(scope="session")
def denoiser():
    from modelscope_ext import Denoiser

    return Denoiser()


@pytest.fixture(scope="session")
def dry():
    """Return a denoiser that changes nothing and does so fast: what differs comes from reading and writing."""
    from modelscope_ext import Denoiser
    from modelscope_ext.models import build

    return Denoiser(build("CRUSE2-8-1xGRU2").eval(), wet=0.0, band="speech")


@pytest.fixture
def caseless(monkeypatch):
    """Make the disk ignore the case of letters and how accents are made, as on macOS; only questions notice it."""

    def plain(name):
        return unicodedata.normalize("NFC", name).casefold()

    def exists(path, **options):
        return path.parent.is_dir() and plain(path.name) in {plain(name) for name in os.listdir(path.parent)}

    monkeypatch.setattr(Path, "exists", exists)


@pytest.fixture
def corpora(tmp_path, clean) -> Path:
    """Return a data folder for `examples/train_cruse.json` with seconds instead of hours of audio."""
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
    """Return a model folder as released: an empty preprocessor section, settings of older packages, random weights."""
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


@pytest.fixture(scope="session")
def stock():
    from modelscope.utils.audio.audio_utils import to_segment as stock

    return stock


@pytest.fixture
def load_split(tmp_path):
    """`load_dataset` with its cache in the test's folder."""
    from datasets import load_dataset

    def load(folder, split):
        return load_dataset(str(folder), split, split=split, cache_dir=str(tmp_path / "hf"))

    return load


@pytest.fixture
def dns(tmp_path, clean, noisy):
    """Pairs as the DNS challenge lays them out; sorted by name, the noisy files are in another order than the clean."""

    def make(lengths=LENGTHS, root=tmp_path / "dns"):
        for kind, audio, name in (
            ("noisy", noisy, "book_{}_snr5_fileid_{}.wav"),
            ("clean", clean, "clean_fileid_{1}.wav"),
        ):
            (root / kind).mkdir(parents=True, exist_ok=True)
            for i, length in enumerate(lengths):
                path = root / kind / name.format(len(lengths) - i, i)
                soundfile.write(path, audio[i * 1000 : i * 1000 + length], RATE)
        return root

    return make


def shard_bytes(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Return a Chromium of 1200 x 1400 pixels; its microphone is `noisy.wav`."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if not all(programs):
        pytest.skip("there is no browser: apt install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    profile = tmp_path_factory.mktemp("profile")
    for flag in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "autoplay-policy=no-user-gesture-required",
        "use-fake-device-for-media-stream",
        "use-fake-ui-for-media-stream",
        f"use-file-for-fake-audio-capture={EXAMPLES / 'noisy.wav'}",
        f"user-data-dir={profile}",
        "window-size=1200,1400",
    ):
        options.add_argument(f"--{flag}")
    with webdriver.Chrome(options, webdriver.ChromeService(programs[1])) as driver:
        yield driver


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("onnx", reason="onnx is not installed")
    if not shutil.which("npm"):
        pytest.skip("there is no npm")
    out = tmp_path_factory.mktemp("site")
    runpy.run_path(str(EXAMPLES / "browser" / "build.py"))["build"](out)
    return out


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@contextmanager
def served(site):
    handler = functools.partial(Quiet, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def page(browser, site):
    with served(site) as address:
        browser.get(address)
        wait_for(browser, "document.title")
        if browser.execute_script("return document.documentElement.lang") != "en":
            browser.find_element("id", "language").click()
        yield browser
