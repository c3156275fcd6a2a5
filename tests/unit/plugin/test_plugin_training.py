"""`build_trainer` by the released name and configuration: FRCRN and CRUSE, in ModelScope's own terms."""

import json
import shutil

import pytest
import soundfile
import torch
from conftest import EXAMPLES
from processes import python, run_code

from modelscope_ext import Denoiser, build
from modelscope_ext.checkpoint import save_model
from modelscope_ext.pretrained import DEFAULT

pytestmark = pytest.mark.slow

USE = """
import numpy as np, torch
torch.set_num_threads(1)
import modelscope_ext
from datasets import Dataset
from modelscope.metainfo import Trainers
from modelscope.msdatasets import MsDataset
from modelscope.trainers import build_trainer

def segments(count, length=960, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        clean = rng.standard_normal(length).astype(np.float32) / 10
        rows.append({"noisy": clean + rng.standard_normal(length).astype(np.float32) / 20, "clean": clean})
    return MsDataset.from_hf_dataset(Dataset.from_list(rows))

def trainer(model, work_dir, name=Trainers.speech_frcrn_ans_cirm_16k, **more):
    options = {"train.dataloader.batch_size_per_gpu": 2, "evaluation.dataloader.batch_size_per_gpu": 2}
    kwargs = dict(model=model, train_dataset=segments(3), eval_dataset=segments(3, seed=1), work_dir=work_dir,
                  max_epochs=1, train_iters_per_epoch=2, cfg_options=options)
    return build_trainer(name, default_args=kwargs | more)
"""


def test_frcrn_trains_and_the_result_is_used(frcrn_folder, tmp_path):
    code = f"""
{USE}
run = trainer({str(frcrn_folder)!r}, {str(tmp_path / "work")!r}, max_epochs=2)
before = run.evaluate()
assert set(before) >= {{"avg_sisnr", "avg_loss", "total_loss"}}
run.train()
after = run.evaluate()
assert after != before
import csv
losses = [float(row["loss"]) for row in csv.DictReader(open({str(tmp_path / "work" / "log.csv")!r}))]
assert losses[1] < losses[0], losses
assert abs(after["total_loss"] - after["avg_loss"]) < 1e-6 * abs(after["avg_loss"])
again = trainer({str(frcrn_folder)!r}, {str(tmp_path / "again")!r}, max_epochs=2)
again.train(checkpoint_path={str(tmp_path / "work" / "epoch_1.pth")!r})
same = again.model.state_dict()
for name, value in run.model.state_dict().items():
    assert torch.equal(value, same[name]), name
assert again.evaluate(checkpoint_path={str(tmp_path / "work" / "epoch_1.pth")!r}) != after
from modelscope.models.audio.ans.frcrn import FRCRNDecorator
import json, os, shutil
own = {str(tmp_path / "own")!r}
shutil.copytree({str(frcrn_folder)!r}, own)
shutil.copyfile({str(tmp_path / "work" / "best.pth")!r}, own + "/pytorch_model.bin")
options = json.load(open(own + "/configuration.json"))["model"]
stock = FRCRNDecorator(own, **{{k: v for k, v in options.items() if k != "type"}})
from modelscope.pipelines import pipeline
from modelscope.utils.constant import Tasks
ans = pipeline(Tasks.acoustic_noise_suppression, model=own)
noisy = torch.randn(1, 3200) / 10
with torch.no_grad():
    a, b = stock.eval()({{"noisy": noisy}})["wav_l2"], ans.model.eval()({{"noisy": noisy}})["wav_l2"]
assert torch.norm(a - b) < 1e-4 * torch.norm(a)
begun = trainer({str(frcrn_folder)!r}, own).model.parameters()
assert any(not torch.equal(x, y) for x, y in zip(ans.model.parameters(), begun))
"""
    run_code(code, tmp_path)
    output = tmp_path / "work" / "output"
    assert Denoiser(output)(soundfile.read(EXAMPLES / "noisy.wav", frames=3200)[0], 16000).shape == (3200,)


def test_the_loss_is_the_stock_loss(frcrn_folder, tmp_path):
    """On the same batch, in training, and after one step of the same optimizer."""
    code = f"""
{USE}
import json
run = trainer({str(frcrn_folder)!r}, {str(tmp_path / "work")!r})
rows = [run.loop.recipe.train_rows[i] for i in range(2)]
batch = {{k: torch.from_numpy(np.stack([row[k] for row in rows])) for k in ("noisy", "clean")}}
from modelscope.models.audio.ans.frcrn import FRCRNDecorator
options = json.load(open({str(frcrn_folder / "configuration.json")!r}))["model"]
stock = FRCRNDecorator({str(frcrn_folder)!r}, **{{k: v for k, v in options.items() if k != "type"}}).train()
ours = run.model.train()(batch)
theirs = stock(batch)
for name in ("loss", "amp_loss", "phase_loss", "sisnr"):
    a, b = float(theirs[name].detach()), float(ours[name].detach())
    assert abs(a - b) <= 1e-4 * abs(a), (name, a, b)
"""
    run_code(code, tmp_path)


def test_from_scratch_and_with_changed_settings(frcrn_folder, tmp_path):
    """No weights in the folder: random ones; `cfg_modify_fn` and the arguments reach the trainer."""
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "configuration.json").write_text((frcrn_folder / "configuration.json").read_text())
    code = f"""
{USE}
def modify(cfg):
    cfg.train.optimizer.lr = 0.5
    return cfg
run = trainer({str(empty)!r}, {str(tmp_path / "work")!r}, cfg_modify_fn=modify, seed=3, val_iters_per_epoch=1)
assert run.loop.recipe.optimizer.param_groups[0]["lr"] == 0.5 and run.loop.config.seed == 3
assert run.loop.config.eval_iterations == 1
unset = dict(max_epochs=None, train_iters_per_epoch=None, cfg_options=None)
released = trainer({str(empty)!r}, {str(tmp_path / "work")!r}, **unset).loop
assert (released.config.epochs, released.config.iterations, released.config.batch) == (200, 2000, 12)
assert released.config.clip_norm == 10 and released.recipe.scheduler.factor == 0.98
try:
    trainer({str(empty)!r}, {str(tmp_path / "work")!r}, samplers=[print])
except TypeError as error:
    assert "no use for samplers" in str(error)
else:
    raise AssertionError
for rows, why in (
    ([{{"noisy": [1.0, 2.0], "clean": [1.0]}}], "row 0: noisy is (2,) and clean (1,)"),
    ([{{"noisy": [1.0, float("nan")], "clean": [1.0, 0.0]}}], "row 0: noisy has NaN"),
    ([{{"noisy": [1.0, 1.0]}}], "row 0: has no clean"),
):
    try:
        rows = MsDataset.from_hf_dataset(Dataset.from_list(rows))
        trainer({str(empty)!r}, {str(tmp_path / "work")!r}, train_dataset=rows)
    except ValueError as error:
        assert "training data: " + why in str(error), error
    else:
        raise AssertionError(why)
"""
    run_code(code, tmp_path)


def test_a_causal_frcrn_begins_with_the_released_weights(frcrn_folder, tmp_path):
    """`"causal": true` in the configuration is all there is to it; the result streams."""
    folder = tmp_path / "causal"
    shutil.copytree(frcrn_folder, folder)
    described = json.loads((folder / "configuration.json").read_text())
    described["model"]["causal"] = True
    (folder / "configuration.json").write_text(json.dumps(described))
    code = f"""
{USE}
run = trainer({str(folder)!r}, {str(tmp_path / "work")!r}, train_iters_per_epoch=1)
begun = run.model.model.unet.linear.conv_re.weight.item()
other = trainer({str(frcrn_folder)!r}, {str(tmp_path / "other")!r}).model.model
assert begun == other.unet.linear.conv_re.weight.item()
run.train()
"""
    run_code(code, tmp_path)
    denoiser = Denoiser(tmp_path / "work" / "output")
    audio = soundfile.read(EXAMPLES / "noisy.wav", frames=3200, dtype="float32")[0]
    stream = denoiser.stream(16000)
    assert stream.latency_ms == 40
    parts = [stream.feed(audio[:1000]), stream.feed(audio[1000:]), stream.flush()]
    assert torch.allclose(
        torch.from_numpy(denoiser(audio, 16000)), torch.cat([*map(torch.from_numpy, parts)]), atol=1e-5
    )


@pytest.fixture
def cruse_folder(tmp_path):
    """Return a small CRUSE with random weights, trained from its configuration."""
    folder = tmp_path / "cruse"
    torch.manual_seed(0)
    options = {"name": "CRUSE2-8-1xGRU2", "batch_norm": False}
    described = {
        "framework": "pytorch",
        "task": "acoustic-noise-suppression",
        "pipeline": {"type": "speech_cruse_ans_16k"},
        "model": {"type": "speech_cruse_ans_16k", **options},
        "train": {"loss": {"compression": 0.5}, "optimizer": {"type": "AdamW", "lr": 0.01}},
    }
    save_model(build(**options), folder, described)
    return folder


def test_cruse_trains_by_build_trainer(cruse_folder, tmp_path):
    code = f"""
{USE}
run = trainer({str(cruse_folder)!r}, {str(tmp_path / "work")!r}, name=Trainers.speech_cruse_ans_16k,
              train_iters_per_epoch=30, train_dataset=segments(8, 4000), eval_dataset=segments(4, 4000, seed=1))
assert run.model.loss.compression == 0.5
before = run.evaluate()
run.train()
assert run.metric_values["avg_loss"] < before["avg_loss"]
cell = lambda x, rate: {{"array": x, "sampling_rate": rate}}
rows = segments(2, 32000).to_hf_dataset()
whole = Dataset.from_list([{{k: cell(row[k], 16000) for k in ("noisy", "clean")}} for row in rows])
values = trainer({str(cruse_folder)!r}, {str(tmp_path / "work")!r}, name=Trainers.speech_cruse_ans_16k,
                 eval_dataset=MsDataset.from_hf_dataset(whole), train_dataset=None).evaluate()
assert set(values) >= {{"avg_loss", "avg_sisnr", "wb_pesq", "nb_pesq", "stoi", "si_sdr"}}, values
"""
    run_code(code, tmp_path)
    configurations = [folder / "configuration.json" for folder in (tmp_path / "work" / "output", cruse_folder)]
    assert json.loads(configurations[0].read_text()) == json.loads(configurations[1].read_text())


def shell(tmp_path, *arguments, fails=False):
    home = {"HF_HOME": str(tmp_path / "hf")}
    done = python("-m", "modelscope_ext", *arguments, "--quiet", environment=home, fails=fails)
    return done.stderr if fails else done.stdout


def test_the_shell_does_it_all(cruse_folder, corpora, tmp_path):
    """Prepare mixtures, train on them, go on, use the result; and the gate refuses what became worse."""
    prepared, work = tmp_path / "prepared", tmp_path / "run"
    for split, count in (("train", 4), ("test", 2)):
        folders = ["--speech", corpora / "speech", "--noise", corpora / "noise"]
        shell(tmp_path, "prepare-data", *folders, "--count", count, "--seconds", 2, "--split", split, "-o", prepared)
    train = ["train", "--model", cruse_folder, "--data", prepared, "--work-dir", work, "--batch", 2]
    first = shell(tmp_path, *train, "--epochs", 1, "--iterations", 3)
    assert "avg_sisnr" in first
    shell(tmp_path, *train, "--epochs", 2, "--iterations", 3)
    assert sorted(path.name for path in work.glob("epoch_*")) == ["epoch_1.pth", "epoch_2.pth"]
    assert len((work / "log.csv").read_text().splitlines()) == 3
    noisy = soundfile.read(EXAMPLES / "noisy.wav", frames=16000)[0]
    assert Denoiser(work / "output")(noisy, 16000).shape == (16000,)

    pairs = tmp_path / "pairs"
    for kind in ("noisy", "clean"):
        (pairs / kind).mkdir(parents=True)
        soundfile.write(pairs / kind / "a.wav", soundfile.read(EXAMPLES / f"{kind}.wav", frames=64000)[0], 16000)
    good = shutil.copytree(DEFAULT, tmp_path / "good")
    configuration = json.loads((good / "configuration.json").read_text())
    configuration["train"] = {"optimizer": {"type": "SGD", "lr": 1e-9}}
    (good / "configuration.json").write_text(json.dumps(configuration))
    gated = ["train", "--model", good, "--data", prepared, "--batch", 2, "--epochs", 1, "--gate", pairs]
    shell(tmp_path, *gated, "--iterations", 1, "--work-dir", tmp_path / "kept")
    assert (tmp_path / "kept" / "output" / "pytorch_model.bin").exists()
    spoilt = [*gated, "--iterations", 3, "--learning-rate", 100, "--work-dir", tmp_path / "spoilt"]
    told = shell(tmp_path, *spoilt, fails=True)
    assert "the result does not replace" in told
    assert "SI-SDR fell by" in told
    assert not (tmp_path / "spoilt" / "output").exists()
    assert "no such folder" in shell(tmp_path, *train[:4], tmp_path / "none", "--work-dir", work, fails=True)
