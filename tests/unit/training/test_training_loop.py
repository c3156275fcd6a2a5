"""What both recipes have in common: resume, signals, steps without a finite loss, checkpoints of other runs."""

import contextlib
import json
import multiprocessing
import os
import signal
import sys

import pytest
import torch
from conftest import ROOT
from helpers import CRUSE_CONFIG, assert_equal_states, at_step, interrupt, log_rows, mixture_loop, segment_loop
from processes import python
from safetensors.torch import load_file

from modelscope_ext.training.loop import DivergenceError

KINDS = ["mixtures", "segments"]
VALIDATION = {"validation": {**CRUSE_CONFIG["validation"], "every": 2}}
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
        assert {**one, "seconds": ""} == {**other, "seconds": ""}


class Killed(BaseException):
    """Not an error that anything handles."""


class Faults:
    """A file layer that dies: all operations in a folder from number `last` on fail, also those that would clean up.

    Only operations that change what lies there count: to die at another one leaves what the one before has left.
    """

    def __init__(self):
        self.folder, self.count, self.last = None, 0, 0
        sys.addaudithook(self)  # stays for ever

    def __call__(self, event, arguments):
        if self.folder is None or event not in ("open", "os.rename", "os.remove", "os.mkdir"):
            return
        path = arguments[0]
        if not isinstance(path, (str, os.PathLike)) or not os.fspath(path).startswith(self.folder):
            return
        if (event == "open" and not arguments[2] & os.O_CREAT) or (event == "os.remove" and not os.path.lexists(path)):
            return
        self.count += 1
        if self.count > self.last:
            raise Killed

    def until(self, folder, last, work):
        """Return the number of operations of `work()` in a folder, which dies after the first `last`."""
        self.folder, self.count, self.last = str(folder), 0, last
        try:
            with contextlib.suppress(Killed):
                work()
            return self.count
        finally:
            self.folder = None


@pytest.fixture(scope="module")
def faults():
    return Faults()


def result(run, folder):
    """Return all that a run leaves: scores, its last checkpoint, the log, the names of its files, the best weights."""
    state = torch.load(run.recipe.newest_checkpoint(), weights_only=True)
    log = [{**row, "seconds": ""} for row in log_rows(folder)]
    files = sorted(p.name for p in folder.rglob("*") if not p.name.startswith(("events.", ".")))
    best = next(path for path in (folder / "best.pth", folder / "best" / "model.safetensors") if path.exists())
    weights = load_file(best) if best.suffix == ".safetensors" else torch.load(best, weights_only=True)
    return run.recipe.scores, plain(state), log, files, plain(weights)


def plain(value):
    """Return nested containers without tensors and times."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items() if key != "seconds"}
    return [plain(each) for each in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.slow
def test_killed_at_any_file_operation_a_run_ends_the_same(start, kind, tmp_path, faults):
    """The rate falls with the last evaluation, which is not at every epoch."""
    brief = {**VALIDATION["validation"], "pairs": 1, "seconds": 1.0}
    changes = {"epochs": 4, "iterations": 2, "eval_every": 2}
    if kind == "mixtures":  # two corpora, which are validated on too: each is written to the cache of the run
        validation = {**brief, "speech": "speech", "noise": "noise"}
        data = {"speech": {"speech": 1.0}, "noise": {"noise": 1.0}, "rooms": 0, "mix": {"seconds": 0.5}}
        changes = {"steps": 3, "validation": validation, "data": data}

    def run(name):
        current = start(name, **changes)
        current.run()
        return current

    expected = result(run("whole"), tmp_path / "whole")
    total = faults.until(tmp_path / "counted", 10**6, lambda: run("counted"))
    assert total > 15
    for last in range(total):
        name = f"killed{last}"
        faults.until(tmp_path / name, last, lambda: run(name))  # noqa: B023 (called at once)
        found = result(run(name), tmp_path / name)
        for one, other in zip(expected, found, strict=True):
            assert one == other, f"killed after {last} of {total} operations"


FOREIGN = {
    "a list": lambda state: [],
    "nothing": lambda state: state.clear(),
    "text as a position": lambda state: position(state).update(seconds="soon"),
    "a step of nothing": lambda state: position(state).update(step=None, epoch=None),
    "no random state": lambda state: changed(state, "random", torch.zeros(3, dtype=torch.uint8)),
    "random text": lambda state: changed(state, "random", "text"),
    "no optimizer": lambda state: (changed(state, "optimizer", {}), changed(state, "optimizers", [])),
    "a rate of text": lambda state: optimizer(state)["param_groups"][0].update(lr="fast"),
    "averages of other weights": lambda state: misshape(optimizer(state)["state"]),
    "another log": lambda state: state["loop"].update(window={"loss": ["a"]}),
    "scores of text": lambda state: state["loop"].update(scores="good"),
    "settings of text": lambda state: state.update(config="{"),
    "settings of nothing": lambda state: state.update(config=None),
    "a weight of text": lambda state: weights(state).update({next(iter(weights(state))): "text"}),
    "a scheduler of nothing": lambda state: changed(state, "scheduler", {}),
}


def position(state):
    return state.get("trainer", state)["progress"]


def optimizer(state):
    trainer = state.get("trainer", state)
    return trainer["optimizer"] if "optimizer" in trainer else trainer["optimizers"][-1]


def misshape(states):
    """Give the averages of each weight another shape."""
    for each in states.values():
        for name, value in each.items():
            each[name] = torch.zeros([9] * value.ndim)


def weights(state):
    return state["net" if "net" in state else "state_dict"]


def changed(state, name, value):
    for each in (state, state.get("trainer", {})):
        if name in each:
            each[name] = value


@pytest.mark.parametrize("name", FOREIGN)
def test_a_checkpoint_with_foreign_parts_is_an_error_in_one_line(start, kind, tmp_path, name):
    if kind == "mixtures" and "scheduler" in name:
        pytest.skip("has no scheduler")
    run = start("run")
    run.run(2 if kind == "mixtures" else 1)
    path = run.recipe.newest_checkpoint()
    state = torch.load(path, weights_only=True)
    replaced = FOREIGN[name](state)
    torch.save(replaced if isinstance(replaced, list) else state, path)
    with pytest.raises(ValueError, match=path.name) as caught:
        start("run").run()
    assert "\n" not in str(caught.value)


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
