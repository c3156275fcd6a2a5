"""Counters and hooks of the trainer, beside those of ModelScope's own `EpochBasedTrainer`."""

import json

import pytest
import torch
from processes import run_code

from modelscope_ext import build
from modelscope_ext.checkpoint import save_model
from modelscope_ext.training.config import SegmentConfig

CODE = """
import numpy as np, torch
torch.set_num_threads(1)
import modelscope_ext
from modelscope.metainfo import Trainers
from modelscope.trainers import EpochBasedTrainer, build_trainer
from modelscope.trainers.hooks import CheckpointHook, Hook
from modelscope.trainers.hooks.priority import Priority

class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 6
    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        return {name: rng.standard_normal(800).astype(np.float32) / 9 for name in ("noisy", "clean")}

class Stock(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(()))
    def forward(self, noisy, clean):
        return {"loss": (self.gain * noisy - clean).square().mean()}

class Note(Hook):
    def __init__(self):
        self.seen = []
    def note(self, stage, trainer):
        of = ("epoch", "iter", "inner_iter", "max_epochs", "max_iters", "iters_per_epoch")
        self.seen.append((stage, *(getattr(trainer, name) for name in of)))
for stage in ("before_run", "before_train_epoch", "before_train_iter", "after_train_iter", "after_train_epoch",
              "after_run"):
    setattr(Note, stage, lambda self, trainer, stage=stage: self.note(stage, trainer))

def run(hook, **more):
    options = dict(model=FOLDER, work_dir=WORK + "/ours", train_dataset=Rows(), callbacks=hook, max_epochs=2, seed=1,
                   cfg_options={"train.dataloader.batch_size_per_gpu": 2, "train.train_iters_per_epoch": 3}, **more)
    return build_trainer(Trainers.speech_cruse_ans_16k, default_args=options)
"""


@pytest.fixture
def folder(tmp_path):
    options = {"name": "CRUSE2-8-1xGRU2", "batch_norm": False}
    torch.manual_seed(0)
    described = {"framework": "pytorch", "task": "acoustic-noise-suppression"}
    described["model"] = {"type": "speech_cruse_ans_16k", **options}
    save_model(build(**options), tmp_path / "cruse", described)
    train = {
        "max_epochs": 2,
        "optimizer": {"type": "SGD", "lr": 0.01},
        "lr_scheduler": {"type": "StepLR", "step_size": 1},
    }
    train["hooks"] = [{"type": "IterTimerHook"}]  # without checkpoints, which ModelScope would upload
    train["dataloader"] = {"batch_size_per_gpu": 2, "workers_per_gpu": 0}
    stock = {"framework": "pytorch", "task": "none", "model": {}, "train": train}
    (tmp_path / "stock.json").write_text(json.dumps(stock))
    return tmp_path / "cruse"


@pytest.mark.slow
def test_hooks_see_what_they_see_in_the_stock_trainer(folder, tmp_path):
    code = f"""
FOLDER, WORK = {str(folder)!r}, {str(tmp_path)!r}
{CODE}
theirs, ours = Note(), Note()
EpochBasedTrainer(Stock(), cfg_file=WORK + "/stock.json", work_dir=WORK + "/stock", train_dataset=Rows(),
                  callbacks=[theirs], device="cpu").train()
trainer = run([ours])
trainer.train()
assert len(ours.seen) == 2 + 2 * (2 + 3 * 2)
assert ours.seen == theirs.seen, (ours.seen, theirs.seen)
assert (trainer.epoch, trainer.iter) == (2, 6) and trainer.hooks == [ours]
resumed = Note()
again = run(resumed)
again.train(checkpoint_path=WORK + "/ours/epoch_1.pth")
assert resumed.seen[1:] == ours.seen[9:]  # the second epoch

order = []
class Late(Hook):
    PRIORITY = Priority.LOWEST
    def before_run(self, trainer):
        order.append("late")
class Early(Hook):
    PRIORITY = Priority.HIGHEST
    def before_run(self, trainer):
        order.append("early")
class Validation(Hook):
    def before_val(self, trainer):
        pass
run([Late(), Early()]).invoke_hook("before_run")
assert order == ["early", "late"]
for hook, kind, reason in (
    (print, TypeError, "is no Hook"),
    (Validation(), ValueError, "Validation waits for before_val"),
    (CheckpointHook(), ValueError, "CheckpointHook needs ModelScope's own trainer; name it in train.hooks"),
):
    try:
        run([hook])
    except kind as error:
        assert reason in str(error), error
    else:
        raise AssertionError(reason)
"""
    run_code(code, tmp_path)


def test_hooks_in_a_configuration_are_accepted_or_refused_by_name():
    hooks = [
        {"type": "EvaluationHook", "interval": 3},
        {"type": "CheckpointHook", "interval": 1, "max_checkpoint_num": 2},
        {"type": "PlateauLrSchedulerHook", "metric_key": "avg_sisnr"},
        {"type": "TextLoggerHook", "interval": 10},
    ]
    config = SegmentConfig.from_configuration({"train": {"hooks": hooks}})
    assert (config.eval_every, config.keep, config.scheduler_metric) == (3, 2, "avg_sisnr")
    for hook, reason in (
        ({"type": "SparsityHook"}, "has no SparsityHook; it does the work of BestCkptSaverHook, CheckpointHook"),
        ({"type": "EvaluationHook", "by_epoch": False}, "EvaluationHook works by epoch here"),
    ):
        with pytest.raises(ValueError, match=reason):
            SegmentConfig.from_configuration({"train": {"hooks": [hook]}})
