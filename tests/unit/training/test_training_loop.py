"""What both recipes have in common: resume, signals, steps without a finite loss, checkpoints of other runs."""

import json
import multiprocessing
import os
import signal

import pytest
import torch
from conftest import ROOT
from helpers import CRUSE_CONFIG, assert_equal_states, at_step, interrupt, log_rows, mixture_loop, segment_loop
from processes import python

from modelscope_ext.training.loop import DivergenceError

KINDS = ["mixtures", "segments"]
CHECKPOINT = {"mixtures": "last.pt", "segments": "last.pth"}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def start(kind, corpora, tmp_path):
    """Start a run in a folder below `tmp_path`, or continue it. Both kinds have 12 steps."""

    def start(name, **changes):
        if kind == "segments":
            return segment_loop(tmp_path / name, **{"checkpoint_seconds": 0, **changes})
        config = tmp_path / "train.json"
        data = {**CRUSE_CONFIG["data"], "rooms": 0}
        config.write_text(json.dumps({**CRUSE_CONFIG, "data": data, "steps": 12, **changes}))
        return mixture_loop(config, corpora, tmp_path / name)

    return start


KILLED = """
import os, signal, sys
sys.path[:0] = sys.argv[1:3]
import torch
torch.set_num_threads(1)
from pathlib import Path
from helpers import mixture_loop, segment_loop
kind, work, *config = sys.argv[3:]
run = segment_loop(Path(work), checkpoint_seconds=0) if kind == "segments" else mixture_loop(*config, work)
write = Path.write_bytes
def write_and_die(path, content):
    if run.done.step == 7:
        content = content[:1000]
    write(path, content)
    if run.done.step == 7:
        os.kill(os.getpid(), signal.SIGKILL)
Path.write_bytes = write_and_die
run.run()
"""


@pytest.mark.slow
def test_killed_while_it_saves_a_run_ends_with_the_same_weights(start, kind, corpora, tmp_path):
    whole = start("whole")
    whole.run()
    work = [tmp_path / "killed", tmp_path / "train.json", corpora]
    killed = python("-c", KILLED, ROOT, ROOT / "tests", kind, *work, fails=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    again = start("killed")
    assert again.done.step == 6
    again.run()
    assert_equal_states(whole.recipe.net.state_dict(), again.recipe.net.state_dict())
    for one, other in zip(log_rows(tmp_path / "whole"), log_rows(tmp_path / "killed"), strict=True):
        assert one.keys() == other.keys()
        varies = {"seconds", "loss", "sisnr", "grad_norm"}  # means over the steps since the start
        assert [one[name] for name in one if name not in varies] == [other[name] for name in one if name not in varies]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_its_step(start, kind, tmp_path, number):
    first = start("run", checkpoint_seconds=1000)
    at_step(first, 5, lambda: interrupt(number))
    first.run()
    assert not first.finished
    assert (tmp_path / "run" / CHECKPOINT[kind]).exists()
    again, whole = start("run"), start("whole")
    assert again.done.step == 6
    again.run()
    whole.run()
    assert again.finished
    assert_equal_states(whole.recipe.net.state_dict(), again.recipe.net.state_dict())


def test_a_signal_to_the_whole_group_saves_too(start):
    run = start("run", workers=1, checkpoint_seconds=1000)

    def terminate():
        for worker in multiprocessing.active_children():
            os.kill(worker.pid, signal.SIGTERM)
            worker.join(1)  # time to die, if it does
            assert worker.is_alive()
        interrupt(signal.SIGTERM)

    at_step(run, 2, terminate)
    run.run()
    assert start("run").done.step == 3


def test_a_step_without_a_finite_gradient_changes_nothing(start, kind, caplog):
    run = start("run")
    losses, seen = run.recipe.losses, []

    def spoil(batch, step):
        if step in (3, 4):
            batch = {k: v * torch.inf for k, v in batch.items()} if kind == "segments" else [batch[0] * torch.inf] * 2
        if step in (3, 5):
            seen.append({name: value.clone() for name, value in run.recipe.net.state_dict().items()})
        return losses(batch, step)

    run.recipe.losses = spoil
    run.run()
    assert_equal_states(*seen)
    assert run.finished
    assert all(torch.isfinite(value).all() for value in run.recipe.net.state_dict().values())
    assert sum("not finite; skipped" in message for message in caplog.messages) == 2


def test_ten_steps_without_a_finite_loss_end_the_run(start, kind, tmp_path):
    run = start("run")
    losses = run.recipe.losses
    run.recipe.losses = lambda batch, step: {"loss": losses(batch, step)["loss"] * (torch.nan if step > 0 else 1)}
    where = {"mixtures": "step 11", "segments": "epoch 3, iteration 3"}[kind]
    with pytest.raises(DivergenceError, match=rf"the last 10 steps up to {where} had no finite loss.*lower learning"):
        run.run()
    assert all(torch.isfinite(value).all() for value in run.recipe.net.state_dict().values())


def test_another_configuration_does_not_continue(start, tmp_path):
    start("run").run(1)
    with pytest.raises(ValueError, match=r"last\.pt|epoch_1\.pth.* another configuration \(batch, seed differ\)"):
        start("run", batch=4, seed=9)
    start("run", workers=1, checkpoint_seconds=5)  # these may change


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_a_damaged_checkpoint_is_an_error(start, kind, tmp_path, content):
    run = start("run")
    if content is not None:
        (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"x.pth: (no such file|no checkpoint, or damaged)"):
        run.load(tmp_path / "x.pth")
    torch.save({"state_dict": run.recipe.net.state_dict()}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"weights.pth: holds no training state"):
        run.load(tmp_path / "weights.pth")
    run.run(1)
    saved = run.recipe.newest_checkpoint()
    state = torch.load(saved, weights_only=True)
    state["net" if kind == "mixtures" else "state_dict"].popitem()
    torch.save(state, saved)
    with pytest.raises(ValueError, match=r"or of another network"):
        start("run")


def test_random_numbers_continue(start):
    """A network that draws random numbers in training resumes exactly."""

    def with_dropout(name):
        run = start(name)
        losses = run.recipe.losses

        def drop(batch, step):
            value = losses(batch, step)
            return {**value, "loss": value["loss"] * torch.rand(())}

        run.recipe.losses = drop
        return run

    whole, parts = with_dropout("whole"), with_dropout("parts")
    whole.run()
    parts.run(1)
    torch.rand(100)
    parts = with_dropout("parts")
    torch.rand(7)
    parts.run()
    assert_equal_states(whole.recipe.net.state_dict(), parts.recipe.net.state_dict())
