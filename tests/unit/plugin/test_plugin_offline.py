"""ModelScope's entry points with the id of a cached model, while the hub cannot be reached."""

import os

import pytest
import torch
from processes import python
from stub_hub import StubHub

from modelscope_ext.checkpoint import save_model
from modelscope_ext.models import build

pytest.importorskip("modelscope_hub", reason="a client that speaks to another interface of the hub")
pytestmark = pytest.mark.slow

OURS, OTHERS = "iic/speech_cruse_small", "iic/another_model"
DOWNLOAD = f"""
from modelscope.hub.snapshot_download import snapshot_download
for model in ({OURS!r}, {OTHERS!r}):
    snapshot_download(model)
"""
PIPELINE = """
from modelscope.pipelines import pipeline
print(len(pipeline("acoustic-noise-suppression", model={!r})(np.zeros(8000, np.float32))["output_pcm"]))
"""
MODEL = """
from modelscope.models import Model
print(len(Model.from_pretrained({!r})({{"noisy": torch.zeros(1, 16000)}})["wav_l2"][0]))
"""
TRAINER = """
from modelscope.trainers import build_trainer
rows = [{{"noisy": np.ones(8000, np.float32), "clean": np.ones(8000, np.float32)}}]
options = dict(model={!r}, eval_dataset=rows, work_dir=sys.argv[1], device="cpu")
print(len(build_trainer("speech_cruse_ans_16k", default_args=options).evaluate()))
"""


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """Run code with two models in the cache and a hub that no longer answers."""
    folder = tmp_path_factory.mktemp("hub")
    options = {"name": "CRUSE2-8-1xGRU2"}
    model = {"type": "speech_cruse_ans_16k", **options}
    described = {"framework": "pytorch", "task": "acoustic-noise-suppression", "model": model}
    torch.manual_seed(0)
    save_model(build(**options), folder / "model", described | {"pipeline": {"type": "speech_cruse_ans_16k"}})
    files = {path.name: path.read_bytes() for path in (folder / "model").iterdir()}
    another = files | {"configuration.json": files["configuration.json"].replace(b"speech_cruse_ans", b"another")}
    environment = {name: None for name in os.environ if name.startswith("MODELSCOPE_")}
    environment |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    environment |= {"MODELSCOPE_HOME": str(folder / "home"), "MODELSCOPE_CACHE": str(folder / "cache")}
    with StubHub({OURS: files, OTHERS: another}) as hub:
        environment["MODELSCOPE_ENDPOINT"] = hub.url
        python("-c", DOWNLOAD, environment=environment)

    def run(code, model, fails=False):
        code = f"import sys, numpy as np, torch\nimport modelscope_ext\n{code.format(model)}"
        return python("-c", code, folder / "work", environment=environment, fails=fails)

    return run


@pytest.mark.parametrize(
    ("code", "printed"), [(PIPELINE, "16000"), (MODEL, "16000"), (TRAINER, "3")], ids=["pipeline", "model", "trainer"]
)
def test_a_cached_model_of_ours_needs_no_hub(offline, code, printed):
    assert offline(code, OURS).stdout.split()[-1] == printed


RELATIVE = """
import os, socket
from pathlib import Path
from modelscope.pipelines import pipeline
from modelscope_ext.checkpoint import save_model
from modelscope_ext.models import build

def refuse(*args, **kwargs):
    raise AssertionError("contacts the hub")

socket.create_connection = socket.socket.connect = refuse
kind = "speech_cruse_ans_16k"
os.makedirs(sys.argv[1], exist_ok=True)
os.chdir(sys.argv[1])
os.makedirs({!r}, exist_ok=True)
save_model(build("CRUSE2-8-1xGRU2"), "models/m", {{"framework": "pytorch", "task": "acoustic-noise-suppression",
           "model": {{"type": kind, "name": "CRUSE2-8-1xGRU2"}}, "pipeline": {{"type": kind}}}})
from modelscope.utils import automodel_utils
asked = []
automodel_utils._is_model_from_trusted_source = lambda model, *others: asked.append(model)
for model in ("models/m", Path("models/m"), Path("models/m").absolute()):
    assert len(pipeline("acoustic-noise-suppression", model=model)(np.zeros(8000, np.float32))["output_pcm"]) == 16000
assert all(os.path.isabs(model) for model in asked), asked
"""


def test_a_relative_folder_is_no_id_and_a_path_is_as_good_as_text(offline):
    offline(RELATIVE, "models")


SILENT = """
import socket, threading
from modelscope_ext.plugin import preprocessor
preprocessor.SILENT_S = 0.5
server = socket.create_server(("127.0.0.1", 0))
try:
    preprocessor.AudioPreprocessor()(f"http://127.0.0.1:{{server.getsockname()[1]}}/{}.wav")
except ValueError as error:
    print("refused", error)
"""


def test_a_url_whose_server_is_silent_is_an_error(offline):
    assert "timed out" in offline(SILENT, "a").stdout


def test_other_models_are_left_to_modelscope(offline):
    assert "Error" in offline(MODEL, OTHERS, fails=True).stderr
