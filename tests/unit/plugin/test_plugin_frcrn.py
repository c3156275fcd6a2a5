"""FRCRN in ModelScope, by the released names and configuration; the stock classes are the oracle."""

import numpy as np
import pytest
import soundfile
from conftest import EXAMPLES, ROOT
from processes import run_code

from modelscope_ext import Denoiser
from modelscope_ext.cli import main

pytestmark = pytest.mark.slow

STOCK = """
import contextlib, io, json
def stock(folder):
    from modelscope.models.audio.ans.frcrn import FRCRNDecorator
    from modelscope.pipelines.audio.ans_pipeline import ANSPipeline
    options = json.load(open(folder + "/configuration.json"))["model"]
    ans = ANSPipeline(FRCRNDecorator(folder, **{k: v for k, v in options.items() if k != "type"}))
    def call(*args, **kwargs):
        with contextlib.redirect_stdout(io.StringIO()):
            return ans(*args, **kwargs)
    return call
"""
USE = """
import sys, warnings, numpy as np, soundfile, torch
torch.set_num_threads(1)
from modelscope.pipelines import pipeline
from modelscope.utils.constant import Tasks
def ours(folder, **options):
    return pipeline(Tasks.acoustic_noise_suppression, model=folder, **options)
def pcm(result):
    return np.frombuffer(result["output_pcm"], np.int16).astype(int)
"""


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """1.3 s in stereo, so that the stock pipeline pads and takes the first channel."""
    path = tmp_path_factory.mktemp("audio") / "short.wav"
    audio, rate = soundfile.read(EXAMPLES / "noisy.wav")
    soundfile.write(path, np.stack((audio, audio[::-1]), 1)[: int(1.3 * rate)], rate)
    return path


def test_reference_level_gives_the_stock_samples(frcrn_folder, short, tmp_path):
    """For padded lengths, other rates and stereo, within one step of 16 bits."""
    code = f"""
import modelscope_ext
{USE}{STOCK}
audio, rate = soundfile.read({str(short)!r})
theirs, ans = stock({str(frcrn_folder)!r}), ours({str(frcrn_folder)!r}, output_level="reference")
for name, (part, at) in dict(
    odd=(audio, 16000), second=(audio[:9000], 16000), window=(audio[:12345], 16000), rate=(audio[:20000], 22050)
).items():
    path = {str(tmp_path)!r} + f"/{{name}}.wav"
    soundfile.write(path, part, at, "FLOAT")
    a, b = pcm(theirs(path)), pcm(ans(path))
    assert a.shape == b.shape and abs(a).max() > 50, name
    assert abs(a - b).max() <= 1, (name, abs(a - b).max())
import modelscope_ext.plugin.pipeline as plugged
one_piece = pcm(ans(audio))
plugged.WHOLE_S = 1  # longer audio goes by the chunks of Denoiser, here still one of them
assert len(pcm(ans(audio))) == len(audio) and abs(pcm(ans(audio)) - one_piece).mean() < 0.2 * abs(one_piece).mean()
"""
    run_code(code, tmp_path)


@pytest.mark.parametrize("order", ["stock first", "stock last"])
def test_the_stock_modules_may_be_imported_before_and_after(frcrn_folder, short, tmp_path, order):
    """ZipEnhancer stays registered, the stock classes import, and the released names stay ours."""
    stock = "import modelscope.pipelines.audio.ans_pipeline, modelscope.models.audio.ans.frcrn\n"
    use = f"{USE}\nans = ours({str(frcrn_folder)!r})\n"
    code = f"""
{stock if order == "stock first" else ""}
import modelscope_ext
{use}
{stock if order == "stock last" else ""}
assert type(ours({str(frcrn_folder)!r})).__module__ == type(ans).__module__ == "modelscope_ext.plugin.pipeline"
assert type(ans.model).__module__ == "modelscope_ext.plugin.model"
from modelscope.metainfo import Pipelines
from modelscope.pipelines.audio.ans_pipeline import ANSPipeline, ANSZipEnhancerPipeline
from modelscope.pipelines.builder import PIPELINES
zip_enhancer = Pipelines.speech_zipenhancer_ans_multiloss_16k_base
assert PIPELINES.get(zip_enhancer, Tasks.acoustic_noise_suppression) is ANSZipEnhancerPipeline
assert len(ans({str(short)!r})["output_pcm"]) == 2 * int(1.3 * 16000)
"""
    done = run_code(code, tmp_path)
    assert "warning" not in done.stderr.lower()
    assert not done.stdout


def test_all_inputs_and_outputs(frcrn_folder, short, tmp_path):
    code = f"""
import modelscope_ext
{USE}
from pathlib import Path
ans, out = ours({str(frcrn_folder)!r}), Path({str(tmp_path)!r})
path = str(out / "short.wav")
soundfile.write(path, soundfile.read({str(short)!r}, frames=8000)[0], 16000)
audio, rate = soundfile.read(path, dtype="int16")
expected = ans(path, output_path=str(out / "one.wav"))["output_pcm"]
assert soundfile.read(out / "one.wav", dtype="int16")[0].tobytes() == expected
mono = (audio / 32768).mean(1).astype(np.float32)
cell = {{"array": mono, "sampling_rate": 16000}}
for given in (open(path, "rb").read(), audio, cell, {{"noisy": cell}}, {{"audio": {{"path": path, "bytes": None}}}}):
    assert abs(pcm(ans(given)) - np.frombuffer(expected, np.int16)).max() <= 1, type(given)
for options in ({{}}, {{"batch_size": 2}}):
    results = ans([path, mono, path], **options)
    assert [r["output_pcm"] == expected for r in results][::2] == [True, True] and len(results) == 3
results = ans([path, path], batch_size=2, output_path=[str(out / "a.wav"), str(out / "b.wav")])
assert soundfile.read(out / "b.wav", dtype="int16")[0].tobytes() == expected and len(results) == 2
ans([path], output_path=str(out / "many"))
assert (out / "many" / "short.wav").exists()
from datasets import Dataset
from modelscope.msdatasets import MsDataset
rows = MsDataset.from_hf_dataset(Dataset.from_list([{{"noisy": cell}}] * 2))
assert [len(r["output_pcm"]) for r in ans(rows)] == [len(expected)] * 2
assert not any(ans(np.zeros(1000, np.float32))["output_pcm"])
assert len(ans(np.ones(100, np.float32))["output_pcm"]) == 200 and ans(np.zeros(0))["output_pcm"] == b""
for wrong, why in (
    (lambda: ans([path, path], output_path="x.wav"), "one file for 2 inputs"),
    (lambda: ans([path, path], output_path=["x.wav", "x.wav"]), "several results would go to x.wav"),
    (lambda: ans([path], output_path=["x.wav", "y.wav"]), "1 inputs and 2 output paths"),
    (lambda: ans(str(out / "none.wav")), "none.wav"),
    (lambda: ans(3), "need a path"),
    (lambda: ans({{"text": "a"}}), "no audio in a row with text"),
    (lambda: ans(path, output_level="loud"), "output_level must be one of input, reference"),
):
    try:
        wrong()
    except ValueError as error:
        assert why in str(error), (why, error)
    else:
        raise AssertionError(why)
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(2) as pool:
    assert all(r["output_pcm"] == expected for r in pool.map(ans, [path] * 4))
# Peaks are clipped, and do not wrap around.
ans.model.model.enhance_part = lambda audio, *_: (audio * 4, audio.new_zeros(1, 22, 256))
sine = 0.9 * np.sin(np.arange(16000) / 10)
assert (np.sign(pcm(ans(sine))) == np.sign(sine))[abs(sine) > 0.01].all()
"""
    done = run_code(code, tmp_path)
    assert not done.stdout


def test_the_pipeline_gives_what_the_denoiser_gives(frcrn_folder, short, tmp_path):
    target = tmp_path / "out.wav"
    run_code(
        f"import modelscope_ext\n{USE}\nours({str(frcrn_folder)!r})({str(short)!r}, output_path={str(target)!r})",
        tmp_path,
    )
    audio = soundfile.read(short, dtype="float32")[0].mean(1)
    expected = Denoiser(frcrn_folder)(audio, 16000)
    assert np.abs(soundfile.read(target)[0] - expected).max() < 1e-4
    assert np.abs(expected).max() > 0.001


def test_models_and_preprocessors_by_name(frcrn_folder, tmp_path):
    code = f"""
import modelscope_ext, torch
from modelscope.models import Model
from modelscope.preprocessors import Preprocessor
torch.set_num_threads(1)
model = Model.from_pretrained({str(frcrn_folder)!r})
assert type(model).__module__ == "modelscope_ext.plugin.model"
noisy = torch.randn(2, 960) * 0.1
out = model({{"noisy": noisy, "clean": noisy / 2}})
assert set(out) == {{
    "spec_l1", "wav_l1", "mask_l1", "spec_l2", "wav_l2", "mask_l2",
    "loss", "amp_loss", "phase_loss", "sisnr", "log_vars",
}}
assert out["log_vars"]["loss"] == out["loss"].item()
import json
from modelscope.models.audio.ans.frcrn import FRCRNDecorator
options = json.load(open({str(frcrn_folder / "configuration.json")!r}))["model"]
stock = FRCRNDecorator({str(frcrn_folder)!r}, **{{k: v for k, v in options.items() if k != "type"}})
with torch.no_grad():
    for net in (stock, model):
        net.eval()
    a, b = (net({{"noisy": noisy, "clean": noisy / 2}}) for net in (stock, model))
assert a.keys() == b.keys() and a["log_vars"].keys() == b["log_vars"].keys()
for key in a:
    if key != "log_vars":
        assert torch.norm(a[key] - b[key]) <= 1e-4 * torch.norm(a[key]), key
assert type(Preprocessor.from_pretrained({str(frcrn_folder)!r})).__module__ == "modelscope_ext.plugin.preprocessor"
"""
    run_code(code, tmp_path)


def test_no_weights_no_inference(frcrn_folder, tmp_path):
    """The repository is a model folder without weights; the message says where to get them."""
    code = f"""
import modelscope_ext
{USE}
from modelscope.models import Model
Model.from_pretrained({str(ROOT)!r})  # training from scratch begins so
try:
    ours({str(ROOT)!r})
except ValueError as error:
    assert "without weights nothing can be denoised" in str(error) and "modelscope download" in str(error), error
else:
    raise AssertionError
"""
    run_code(code, tmp_path)


def test_importing_costs_little(tmp_path):
    code = """
import time, modelscope.pipelines
from modelscope.utils.import_utils import LazyImportModule
LazyImportModule.get_ast_index()
begun = time.perf_counter()
import modelscope_ext
assert time.perf_counter() - begun < 0.5
"""
    run_code(code, tmp_path)


def test_worker_processes_have_it_too(frcrn_folder, short, tmp_path):
    script = tmp_path / "workers.py"
    script.write_text(f"""
import multiprocessing
import modelscope_ext
def work(path):
    {"    ".join(USE.strip().splitlines(keepends=True))}
    return len(ours({str(frcrn_folder)!r})(path)["output_pcm"])
if __name__ == "__main__":
    for method in ("spawn", "fork"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert pool.map(work, [{str(short)!r}]) == [2 * int(1.3 * 16000)]
""")
    run_code(f"import runpy\nrunpy.run_path({str(script)!r}, run_name='__main__')", tmp_path)


def test_the_command_takes_the_folder(frcrn_folder, short, tmp_path):
    """Rate, channels and length stay; both channels are denoised."""
    target = tmp_path / "out.wav"
    assert main(["denoise", str(short), "-o", str(target), "--model", str(frcrn_folder), "--quiet"]) == 0
    out, rate = soundfile.read(target, dtype="float32")
    audio = soundfile.read(short, dtype="float32")[0]
    assert (out.shape, rate) == (audio.shape, 16000)
    assert np.abs(out - Denoiser(frcrn_folder)(audio, 16000)).max() < 1e-4
    assert not np.array_equal(out[:, 0], out[:, 1])
