"""Models by their ids: ModelScope's own client with a good and a faulty hub on this machine.

Each client is a process of its own, because it reads where the hub is when it is imported.
"""

import io
import math
import os
import re
import signal
import socket
from pathlib import Path

import pytest
import soundfile
import torch
from conftest import EXAMPLES, ROOT
from processes import python
from stub_hub import StubHub

from modelscope_ext.checkpoint import CheckpointError, load_model, save_released
from modelscope_ext.models import build

pytest.importorskip("modelscope_hub", reason="a client that speaks to another interface of the hub")
pytestmark = pytest.mark.slow

IDS = ("damo/speech_frcrn_ans_cirm_16k", "iic/speech_frcrn_ans_cirm_16k")
ID = IDS[1]
EXAMPLE = "examples/speech_with_noise1.wav"
EXAMPLE_URL = f"/api/v1/models/{ID}/repo?Revision=master&FilePath={EXAMPLE}"
WEIGHTS = "pytorch_model.bin"
FILES = {
    "configuration.json": (ROOT / "configuration.json").read_bytes(),
    WEIGHTS: bytes(range(256)) * 1000,
    "examples/a name.wav": b"RIFF",
    "empty": b"",
}

DOWNLOAD = """
from modelscope.hub.snapshot_download import snapshot_download
for model in {}:
    print(snapshot_download(model, local_files_only={}))
"""
DENOISE = """
import hashlib, modelscope_ext, numpy as np
from modelscope.pipelines import pipeline
from modelscope.utils.constant import Tasks
noisy = np.random.default_rng(0).standard_normal(8000).astype(np.float32) / 10
for model in {}:
    pcm = pipeline(Tasks.acoustic_noise_suppression, model=model)(noisy)["output_pcm"]
    print(len(pcm), len(set(pcm)) > 100, hashlib.sha256(pcm).hexdigest())
"""
DENOISE_WITHOUT_PIPELINE = """
import modelscope_ext, numpy as np
from modelscope.models import Model
model = {!r}
denoiser = modelscope_ext.Denoiser(model)
print(type(Model.from_pretrained(model)).__name__)
print(len(denoiser(np.zeros(8000, np.float32), 16000)))
"""


@pytest.fixture
def hub():
    with StubHub(dict.fromkeys(IDS, FILES)) as hub:
        yield hub


@pytest.fixture
def run(hub, tmp_path):
    def run(code, fails=False, **more):
        """Return the output of the client by lines, or its errors where it should fail."""
        environment = {name: None for name in os.environ if name.startswith("MODELSCOPE_")}
        environment |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "MODELSCOPE_ENDPOINT": hub.url}
        environment |= {"MODELSCOPE_HOME": str(tmp_path / "home"), "MODELSCOPE_CACHE": str(tmp_path / "cache")}
        done = python("-c", code, environment=environment | more, fails=fails, started=keep)
        run.progress = done.stderr
        return done.stderr if fails else done.stdout.splitlines()

    def keep(process):
        run.process = process

    return run


def folder_of(tmp_path, model=ID):
    return tmp_path / "cache" / "models" / model.replace("/", "--") / "snapshots" / "master"


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def test_both_ids_download_whole_and_are_found_without_the_hub(hub, run, tmp_path):
    folders = run(DOWNLOAD.format(IDS, False))
    assert folders == [str(folder_of(tmp_path, model)) for model in IDS]
    assert [contents(folder) for folder in folders] == [FILES, FILES]
    assert "Downloading: 100%" in run.progress
    assert f"{WEIGHTS}: " in run.progress
    hub.close()
    assert run(DOWNLOAD.format(IDS, True)) == folders


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return a model folder with fitting weights as {name: bytes}."""
    path = tmp_path_factory.mktemp("weights") / WEIGHTS
    torch.manual_seed(0)
    save_released(build("FRCRN").eval(), path)
    audio = io.BytesIO()
    soundfile.write(audio, soundfile.read(EXAMPLES / "noisy.wav", frames=9000)[0], 16000, format="WAV")
    return FILES | {WEIGHTS: path.read_bytes(), EXAMPLE: audio.getvalue()}


def test_the_pipeline_takes_ids_with_and_without_the_hub(hub, run, tmp_path, model):
    hub.models = dict.fromkeys(IDS, model)
    results = run(DENOISE.format(IDS))
    assert results[0] == results[1]
    assert results[0].startswith("16000 True ")
    assert [contents(folder_of(tmp_path, name)) for name in IDS] == [model, model]
    hub.close()
    assert run(DENOISE.format(IDS)) == results
    assert run(DENOISE_WITHOUT_PIPELINE.format(ID)) == ["FrcrnModel", "8000"]
    (folder_of(tmp_path) / WEIGHTS).rename(folder_of(tmp_path) / f"{WEIGHTS}.incomplete")
    assert "iic/speech_frcrn_ans_cirm_16k: no such folder" in run(DENOISE_WITHOUT_PIPELINE.format(ID), fails=True)


@pytest.mark.parametrize("snippet", [0, 1], ids=["inference", "own checkpoint"])
def test_the_snippets_of_the_card(hub, run, tmp_path, model, snippet):
    """Run the snippets of docs/modelscope.md with a local hub; both write output.wav."""
    hub.models = dict.fromkeys(IDS, model)
    own = tmp_path / "speech_frcrn_ans_cirm_16k"
    own.mkdir()
    for name in ("configuration.json", WEIGHTS):
        (own / name).write_bytes(model[name])
    page = (ROOT / "docs" / "modelscope.md").read_text()
    found = re.findall(r"```python\n(import modelscope_ext\n.*?)```", page, re.DOTALL)
    code = [code for code in found if "ans = pipeline(\n" in code][snippet]
    for published, here in (
        ("https://modelscope.cn/", f"{hub.url}/"),
        ("https://modelscope.oss-cn-beijing.aliyuncs.com/test/audios/speech_with_noise.wav", hub.url + EXAMPLE_URL),
        ("/your_local_path/speech_frcrn_ans_cirm_16k", str(own)),
        ("output.wav", str(tmp_path / "output.wav")),
    ):
        code = code.replace(published, here)
    run(code)
    assert soundfile.info(tmp_path / "output.wav").frames == 9000


SILENT = """
import modelscope_ext
from modelscope.pipelines import pipeline
from modelscope.utils.constant import Tasks
from modelscope_ext.hub import PATIENCE_S
assert PATIENCE_S <= 3
for use in (modelscope_ext.Denoiser, lambda model: pipeline(Tasks.acoustic_noise_suppression, model=model)):
    try:
        use("{}")
    except ValueError as error:
        print(error)
"""


def test_a_silent_hub_is_an_error_of_one_line(run):
    """It accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        lines = run(SILENT.format(ID), MODELSCOPE_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert len(lines) == 2
    assert all("ModelScope's hub does not answer; check the network" in line for line in lines)


def test_a_model_that_the_hub_has_not(hub, run, tmp_path):
    hub.models = {}
    assert "[404] record not found" in run(DOWNLOAD.format([ID], False), fails=True)
    assert contents(tmp_path / "cache") == {}
    assert "Cannot find cached snapshot" in run(DOWNLOAD.format([ID], True), fails=True)


def test_transfers_that_break_off_are_taken_up_again(hub, run, tmp_path):
    hub.cuts = {WEIGHTS: 2, "examples/a name.wav": 1}
    run(DOWNLOAD.format([ID], False))
    assert contents(folder_of(tmp_path)) == FILES
    size = len(FILES[WEIGHTS])
    assert [start for path, start in hub.transfers if path == WEIGHTS] == [0, size // 2, size * 3 // 4]
    assert [start for path, start in hub.transfers if path == "examples/a name.wav"] == [0, 2]
    assert f"{WEIGHTS}:  50%" in run.progress


def test_a_transfer_that_always_breaks_off(hub, run, tmp_path):
    hub.cuts = {WEIGHTS: math.inf}
    errors = run(DOWNLOAD.format([ID], False), fails=True, MODELSCOPE_DOWNLOAD_MAX_RETRIES="1")
    assert f"1 of {len(FILES)} file(s) failed to download from {ID}" in errors
    assert not (folder_of(tmp_path) / WEIGHTS).exists()
    with pytest.raises(CheckpointError, match=f"neither .* nor {WEIGHTS}"):
        load_model(folder_of(tmp_path))
    hub.cuts = {}
    run(DOWNLOAD.format([ID], False))
    assert contents(folder_of(tmp_path)) == FILES


def test_a_client_that_is_killed_while_it_downloads(hub, run, tmp_path):
    """Its remains are no model; the next client completes it."""
    hub.models[ID] = FILES | {WEIGHTS: FILES[WEIGHTS] * 100}  # more than what lies in buffers
    hub.halfway = {WEIGHTS: lambda: os.kill(run.process.pid, signal.SIGKILL)}
    run(DOWNLOAD.format([ID], False), fails=True)
    assert run.process.exitcode == -signal.SIGKILL
    assert not (folder_of(tmp_path) / WEIGHTS).exists()
    with pytest.raises(CheckpointError, match=r"no such file|neither"):
        load_model(folder_of(tmp_path))
    run(DOWNLOAD.format([ID], False))
    assert contents(folder_of(tmp_path)) == hub.models[ID]


def test_wrong_content_is_refused(hub, run, tmp_path):
    hub.wrong = {WEIGHTS: FILES[WEIGHTS][::-1], "configuration.json": b"{}"}
    errors = run(DOWNLOAD.format([ID], False), fails=True)
    assert f"Hash mismatch for {WEIGHTS}" in errors
    assert f"bytes for configuration.json but the repository lists {len(FILES['configuration.json'])}" in errors
    assert contents(folder_of(tmp_path)) == {path: right for path, right in FILES.items() if path not in hub.wrong}
    hub.wrong = {}
    run(DOWNLOAD.format([ID], False))
    assert contents(folder_of(tmp_path)) == FILES
