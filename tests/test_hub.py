"""Models by their ids: ModelScope's own client against a hub on this machine, well and badly behaved.

Each client is a process of its own, because it reads where the hub is when it is imported.
"""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from stub_hub import StubHub

from modelscope_ext.checkpoint import CheckpointError, load_model, save_released
from modelscope_ext.models import build

pytest.importorskip("modelscope_hub", reason="a client that speaks to another interface of the hub")
pytestmark = pytest.mark.slow

IDS = ("damo/speech_frcrn_ans_cirm_16k", "iic/speech_frcrn_ans_cirm_16k")
ID = IDS[1]
WEIGHTS = "pytorch_model.bin"
FILES = {
    "configuration.json": (ROOT / "configuration.json").read_bytes(),
    WEIGHTS: bytes(range(256)) * 1000,
    "examples/a name.wav": b"RIFF",
    "empty": b"",
}

DOWNLOAD = "from modelscope.hub.snapshot_download import snapshot_download\nprint(snapshot_download({!r}))"
FIND = "from modelscope.hub.snapshot_download import snapshot_download\nfor model in {}:\n"
FIND += "    print(snapshot_download(model, local_files_only=True))"
DENOISE = """
import hashlib, modelscope_ext, numpy as np
from modelscope.pipelines import pipeline
from modelscope.utils.constant import Tasks
noisy = np.random.default_rng(0).standard_normal(8000).astype(np.float32) / 10
for model in {}:
    pcm = pipeline(Tasks.acoustic_noise_suppression, model=model)(noisy)["output_pcm"]
    print(len(pcm), len(set(pcm)) > 100, hashlib.sha256(pcm).hexdigest())
"""


@pytest.fixture
def hub():
    with StubHub(dict.fromkeys(IDS, FILES)) as hub:
        yield hub


@pytest.fixture
def run(hub, tmp_path):
    def run(code, fails=False, **more):
        """What the client wrote: its output by lines, or its errors where it is to fail."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MODELSCOPE_")}
        environment |= {"OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        environment |= {"MODELSCOPE_HOME": str(tmp_path / "home"), "MODELSCOPE_CACHE": str(tmp_path / "cache")}
        environment |= {"MODELSCOPE_ENDPOINT": hub.url} | more
        command = [sys.executable, "-W", "error::UserWarning", "-c", code]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        assert (done.returncode != 0) == fails, done.stderr
        run.progress = done.stderr
        return done.stderr if fails else done.stdout.splitlines()

    return run


def folder_of(tmp_path, model=ID):
    return tmp_path / "cache" / "models" / model.replace("/", "--") / "snapshots" / "master"


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def test_both_ids_download_whole_and_are_found_without_the_hub(hub, run, tmp_path):
    for model in IDS:
        (folder,) = run(DOWNLOAD.format(model))
        assert folder == str(folder_of(tmp_path, model))
        assert contents(folder) == FILES
        assert "Downloading: 100%" in run.progress
        assert f"{WEIGHTS}: " in run.progress
    hub.close()
    assert run(FIND.format(IDS)) == [str(folder_of(tmp_path, model)) for model in IDS]


def test_the_pipeline_takes_ids_and_without_the_hub_their_folders(hub, run, tmp_path):
    torch.manual_seed(0)
    save_released(build("FRCRN").eval(), tmp_path / WEIGHTS)
    model = FILES | {WEIGHTS: (tmp_path / WEIGHTS).read_bytes()}
    hub.models = dict.fromkeys(IDS, model)
    results = run(DENOISE.format(IDS))[-2:]
    assert results[0] == results[1]
    assert results[0].startswith("16000 True ")
    assert [contents(folder_of(tmp_path, id)) for id in IDS] == [model, model]
    hub.close()
    offline = DENOISE.format([str(folder_of(tmp_path, id)) for id in IDS])
    assert run(offline)[-2:] == results


def test_a_model_that_the_hub_has_not(hub, run, tmp_path):
    hub.models = {}
    assert "404" in run(DOWNLOAD.format(ID), fails=True)
    assert contents(tmp_path / "cache") == {}
    assert "Cannot find cached snapshot" in run(FIND.format([ID]), fails=True)
    hub.models = {ID: FILES}
    run(DOWNLOAD.format(ID))
    assert contents(folder_of(tmp_path)) == FILES


@pytest.mark.parametrize("times", [1, 2])
def test_a_transfer_that_breaks_off_is_taken_up_again(hub, run, tmp_path, times):
    hub.cuts = {WEIGHTS: times}
    run(DOWNLOAD.format(ID))
    assert contents(folder_of(tmp_path)) == FILES
    size = len(FILES[WEIGHTS])
    starts = [start for path, start in hub.transfers if path == WEIGHTS]
    assert starts == [0, size // 2, size * 3 // 4][: times + 1]
    assert f"{WEIGHTS}:  50%" in run.progress


def test_a_transfer_that_always_breaks_off(hub, run, tmp_path):
    hub.cuts = {WEIGHTS: math.inf}
    errors = run(DOWNLOAD.format(ID), fails=True, MODELSCOPE_DOWNLOAD_MAX_RETRIES="1")
    assert f"1 of {len(FILES)} file(s) failed to download from {ID}" in errors
    assert not (folder_of(tmp_path) / WEIGHTS).exists()
    with pytest.raises(CheckpointError, match=f"neither .* nor {WEIGHTS}"):
        load_model(folder_of(tmp_path))
    hub.cuts = {}
    run(DOWNLOAD.format(ID))
    assert contents(folder_of(tmp_path)) == FILES


@pytest.mark.parametrize(
    ("path", "wrong", "why"),
    [
        (WEIGHTS, FILES[WEIGHTS][::-1], f"Hash mismatch for {WEIGHTS}"),
        ("configuration.json", b"{}", "but the repository lists"),
    ],
    ids=["bytes", "size"],
)
def test_wrong_content_is_refused(hub, run, tmp_path, path, wrong, why):
    hub.wrong = {path: wrong}
    assert why in run(DOWNLOAD.format(ID), fails=True)
    assert contents(folder_of(tmp_path)) == {name: right for name, right in FILES.items() if name != path}
    hub.wrong = {}
    run(DOWNLOAD.format(ID))
    assert contents(folder_of(tmp_path)) == FILES
