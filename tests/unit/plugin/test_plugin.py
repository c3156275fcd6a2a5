"""The plugin in ModelScope; each case in a process of its own where the order of imports matters."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import EXAMPLES, ROOT, SHARED
from processes import run_code

from modelscope_ext import Denoiser
from modelscope_ext.pretrained import DEFAULT

pytestmark = pytest.mark.slow

USE = f"""
from modelscope.pipelines import pipeline
from modelscope.utils.constant import Tasks
ans = pipeline(Tasks.acoustic_noise_suppression, model={str(DEFAULT)!r})
"""


def enhance(source, tmp_path, before="import modelscope_ext"):
    target = tmp_path / "out.wav"
    done = run_code(
        f"{before}\n{USE}\nresult = ans({str(source)!r}, output_path={str(target)!r})\n"
        f"import soundfile\nassert soundfile.read({str(target)!r}, dtype='int16')[0].tobytes() == result['output_pcm']",
        tmp_path,
    )
    assert "warning" not in done.stderr.lower()
    return soundfile.read(target, dtype="int16")[0]


def test_the_pipeline_gives_what_the_denoiser_gives(tmp_path, noisy):
    out = enhance(EXAMPLES / "noisy.wav", tmp_path)
    assert np.abs(out / 32768 - Denoiser(DEFAULT)(noisy, 16000)).max() < 1e-4


@pytest.mark.parametrize(
    "before",
    [
        "from modelscope.utils.import_utils import LazyImportModule\nLazyImportModule.get_ast_index()\n",
        "import modelscope.utils.import_utils\n",
        "from modelscope.pipelines import pipeline\nfrom modelscope.models import Model\n",
    ],
    ids=["index loaded", "index not loaded", "everything imported"],
)
def test_modelscope_may_be_imported_first(tmp_path, before):
    assert len(enhance(EXAMPLES / "noisy.wav", tmp_path, before + "import modelscope_ext"))


def test_importing_us_imports_no_modelscope(tmp_path):
    run_code("import modelscope_ext, sys; assert 'modelscope' not in sys.modules", tmp_path)


def test_arrays_bytes_and_rates(tmp_path):
    code = f"""
import modelscope_ext, numpy as np, soundfile
{USE}
path = {str(EXAMPLES / "noisy.wav")!r}
pcm = soundfile.read(path, dtype="int16")[0]
expected = np.frombuffer(ans(path)["output_pcm"], np.int16)
for given in (open(path, "rb").read(), pcm, pcm / np.float32(32768), np.stack((pcm, pcm), 1)):
    got = np.frombuffer(ans(given)["output_pcm"], np.int16)
    assert np.abs(got.astype(int) - expected).max() <= 1, type(given)
loud = np.frombuffer(ans(pcm.astype(np.float32))["output_pcm"], np.int16)  # floats in ±32768
assert np.abs(loud.astype(int) - expected).max() <= 30
assert len(ans(np.zeros(48000, np.float32), sample_rate=48000)["output_pcm"]) == 2 * 16000
assert not any(ans(np.zeros(100, np.float32))["output_pcm"])
try:
    ans({str(ROOT / "setup.cfg")!r})
except ValueError as error:
    assert "setup.cfg: not readable as audio" in str(error), error
else:
    raise AssertionError
"""
    run_code(code, tmp_path)


def test_models_and_preprocessors_are_built_by_name(tmp_path):
    code = f"""
import modelscope_ext, torch
from modelscope.models import Model
from modelscope.preprocessors import Preprocessor
model = Model.from_pretrained({str(DEFAULT)!r})
assert type(model).__module__ == "modelscope_ext.plugin.model"
assert model({{"noisy": torch.zeros(2, 500)}})["wav_l2"].shape == (2, 500)
assert type(Preprocessor.from_pretrained({str(DEFAULT)!r})).__module__ == "modelscope_ext.plugin.preprocessor"
"""
    run_code(code, tmp_path)


@pytest.mark.shared
def test_a_real_recording(tmp_path):
    source = SHARED / "model_card" / "examples" / "speech_with_noise1.wav"
    out, before = enhance(source, tmp_path), soundfile.read(source, dtype="int16")[0]
    assert len(out) == len(before)
    assert 0 < np.abs(out.astype(float)).mean() < np.abs(before.astype(float)).mean()


def test_the_command_in_modelscopes_command_line(tmp_path, noisy, denoiser):
    modelscope = Path(sys.executable).with_name("modelscope")
    target = tmp_path / "out.wav"
    environment = {**os.environ, "MODELSCOPE_CACHE": str(tmp_path / "cache")}
    command = [modelscope, "denoise", EXAMPLES / "noisy.wav", "-o", target, "--quiet"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert np.abs(soundfile.read(target, dtype="float32")[0] - denoiser(noisy, 16000)).max() < 1e-4
    failed = subprocess.run([*command[:2], "none.wav", *command[3:]], env=environment, capture_output=True, text=True)
    assert failed.returncode == 1
    assert "none.wav: no such file" in failed.stderr
