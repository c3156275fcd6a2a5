"""The trainer of epochs, with a network that is small enough to train in a test."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from helpers import Mean, Rows, Tiny
from helpers import epoch_trainer as trainer
from processes import python

from modelscope_ext.training.epochs import BadDataError, EpochConfig, EpochTrainer, check_rows


def log(folder):
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def equal(a, b):
    return all(torch.equal(a[name], b[name]) for name in a) and a.keys() == b.keys()


def test_all_epochs_run_on_few_rows(tmp_path):
    """7 rows for 24: they are taken up again, and every epoch trains all its iterations."""
    run = trainer(tmp_path, optimizer_options={"lr": 0.01})
    values = run.train()
    rows = log(tmp_path)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["iter"] for row in rows] == ["4", "8", "12"]
    assert float(rows[2]["avg_loss"]) == pytest.approx(values["avg_loss"], rel=1e-5)
    assert float(rows[2]["loss"]) < float(rows[0]["loss"])
    assert {p.name for p in tmp_path.iterdir()} >= {"epoch_1.pth", "epoch_2.pth", "epoch_3.pth", "best.pth"}
    assert any(p.name.startswith("events.out") for p in tmp_path.iterdir())
    best = min(range(3), key=lambda i: float(rows[i]["avg_loss"])) + 1
    weights = [torch.load(tmp_path / f"{n}.pth", weights_only=True)["state_dict"] for n in ("best", f"epoch_{best}")]
    assert equal(*weights)


def test_every_row_comes_once_in_a_pass(tmp_path):
    run, seen = trainer(tmp_path, rows=8), []
    run.model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]["noisy"].clone()))
    run.eval_rows = None
    run.train()
    heard = torch.cat(seen).numpy()
    index = [int(np.flatnonzero((run.train_rows.noisy == row).all(1))[0]) for row in heard]
    passes = [index[i : i + 8] for i in range(0, 24, 8)]
    assert all(sorted(p) == list(range(8)) for p in passes)
    assert passes[0] != passes[1] != passes[2]


def test_the_rate_falls_when_the_loss_does_not(tmp_path):
    run = trainer(tmp_path, optimizer_options={"lr": 0.5})
    run.metrics = lambda: [type("Bad", (Mean,), {"evaluate": lambda self: {"avg_loss": 1.0}})()]
    run.train()
    assert run.optimizer.param_groups[0]["lr"] == 0.125
    assert [float(row["learning_rate"]) for row in log(tmp_path)] == [0.5, 0.5, 0.25]


KILLED = """
import os, signal, sys
sys.path[:0] = sys.argv[2:4]
import torch
torch.set_num_threads(1)
from pathlib import Path
from helpers import epoch_trainer as trainer
run = trainer(Path(sys.argv[1]), checkpoint_seconds=0)
step = run._step
def step_and_die(batch):
    if (run.done.epoch, run.done.iteration) == (1, 3):
        os.kill(os.getpid(), signal.SIGKILL)
    return step(batch)
run._step = step_and_die
run.train()
"""


def test_killed_and_gone_on_is_the_same_run(tmp_path):
    whole = trainer(tmp_path / "whole")
    whole.train()
    done = python("-c", KILLED, tmp_path / "killed", ROOT, ROOT / "tests", fails=True)
    assert done.returncode == -9, done.stderr
    again = trainer(tmp_path / "killed")
    again.load(tmp_path / "killed" / "last.pth")
    assert (again.done.epoch, again.done.iteration) == (1, 3)
    again.train()
    assert equal(whole.model.state_dict(), again.model.state_dict())
    keep = ("epoch", "iter", "learning_rate", "avg_loss")
    assert [[row[k] for k in keep] for row in log(tmp_path / "whole")] == [
        [row[k] for k in keep] for row in log(tmp_path / "killed")
    ]
    assert not (tmp_path / "killed" / "last.pth").exists()
    epochs = trainer(tmp_path / "epochs")
    epochs.load(tmp_path / "whole" / "epoch_1.pth")
    epochs.train()
    assert equal(whole.model.state_dict(), epochs.model.state_dict())


TWO = """
import sys
sys.path[:0] = sys.argv[2:4]
import torch
torch.set_num_threads(1)
from pathlib import Path
from helpers import epoch_trainer as trainer
run = trainer(Path(sys.argv[1]), batch=int(sys.argv[4]), optimizer="SGD")
values = run.train()
open(f"{sys.argv[1]}-{run.rank}.txt", "w").write(repr(values["avg_loss"]))
"""


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_doubled_batch(tmp_path):
    """Batch norm over both, metrics over both, and one writer."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    (tmp_path / "two.py").write_text(TWO)
    for name, command, batch in (("one", [sys.executable], "4"), ("two", launch, "2")):
        arguments = [tmp_path / "two.py", tmp_path / name, ROOT, ROOT / "tests", batch]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    one, two = (torch.load(tmp_path / n / "epoch_3.pth", weights_only=True)["state_dict"] for n in ("one", "two"))
    for name in one:
        assert torch.allclose(one[name].double(), two[name].double(), rtol=1e-3, atol=1e-5), name
    losses = [float((tmp_path / f"{name}.txt").read_text()) for name in ("one-0", "two-0", "two-1")]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-4)
    assert len(log(tmp_path / "two")) == 3


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows.noisy.__setitem__((3, 5), np.nan), "evaluation data: row 3: noisy has NaN or infinite"),
        (lambda rows: rows.noisy.__setitem__(2, 0), "evaluation data: row 2: noisy is silent"),
        (lambda rows: setattr(rows, "clean", rows.clean[:, 1:]), r"row 0: noisy is \(400,\) and clean \(399,\)"),
        (lambda rows: setattr(rows, "clean", rows.clean[:0]), "evaluation data: has no rows"),
    ],
)
def test_bad_rows_are_told_before_the_first_step(tmp_path, spoil, message):
    rows = Rows(5)
    spoil(rows)
    with pytest.raises(BadDataError, match=message):
        EpochTrainer(Tiny(), EpochConfig(), tmp_path, Rows(5), rows, device="cpu")


def test_many_rows_are_looked_at_here_and_there():
    rows = Rows(50)
    rows.noisy[49] = np.inf
    with pytest.raises(BadDataError, match="row 49"):
        check_rows(rows, "data", limit=10)
    rows = [{"noisy": np.ones(3)}] * 30
    with pytest.raises(BadDataError, match="row 9: has no clean; and perhaps more"):
        check_rows(rows, "data")


def test_a_loss_that_is_lost_stops_the_run(tmp_path):
    run = trainer(tmp_path)
    run.model.filter.weight.data.fill_(float("nan"))
    with pytest.raises(BadDataError, match=r"the loss is nan in epoch 1, iteration 1"):
        run.train()
    assert not (tmp_path / "epoch_1.pth").exists()


def test_only_the_last_checkpoints_are_kept_if_asked(tmp_path):
    trainer(tmp_path, keep=1).train()
    assert sorted(p.name for p in tmp_path.glob("*.pth")) == ["best.pth", "epoch_3.pth"]


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_what_is_no_checkpoint_is_told(tmp_path, content):
    if content is not None:
        (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"x.pth: (no such file|no checkpoint, or damaged)"):
        trainer(tmp_path).load(tmp_path / "x.pth")
    torch.save({"state_dict": Tiny().state_dict()}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"weights.pth: holds no state of a run"):
        trainer(tmp_path).load(tmp_path / "weights.pth")


def test_the_released_sections_are_understood(tmp_path):
    configuration = json.loads((ROOT / "configuration.json").read_text())
    configuration["train"]["lr_scheduler"]["verbose"] = True
    config = EpochConfig.from_configuration(configuration)
    assert config == EpochConfig(
        optimizer_options={"lr": 0.001, "weight_decay": 0.00001},
        scheduler_options={"mode": "min", "factor": 0.98, "patience": 2},
    )
    with pytest.raises(ValueError, match="epochs must be a whole number of at least 1, got 0"):
        EpochConfig.from_configuration({"train": {"max_epochs": 0}})
    with pytest.raises(ValueError, match=r"torch has no optim\.Adamm"):
        EpochTrainer(Tiny(), EpochConfig(optimizer="Adamm"), tmp_path, device="cpu")
