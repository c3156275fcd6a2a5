"""Training on two machines, here two torchruns: one dies and returns, hangs, or has its own disk."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from helpers import CRUSE_CONFIG, assert_equal_states, log_rows
from processes import Background, free_port, rank_environments

pytestmark = pytest.mark.slow

STEPS = 30
TESTS = str(ROOT / "tests")
TRAIN = """
import sys, torch
from datetime import timedelta
sys.path.insert(0, sys.argv[6])
from helpers import mixture_loop
from modelscope_ext.training import distributed
torch.set_num_threads(1)
distributed.PEER_TIMEOUT = timedelta(seconds=float(sys.argv[4]))
run = mixture_loop(*sys.argv[1:4])
run.recipe.row_every = 1
assert run.run(int(sys.argv[5])) or distributed.rank()
"""


@pytest.fixture
def training(corpora, tmp_path):
    """Return the arguments of a program that trains."""
    script, config = tmp_path / "train.py", tmp_path / "train.json"
    script.write_text(TRAIN)
    described = {**CRUSE_CONFIG, "steps": STEPS, "model": {**CRUSE_CONFIG["model"], "batch_norm": False}}
    described["validation"] = {**CRUSE_CONFIG["validation"], "every": STEPS}
    config.write_text(json.dumps(described))
    return [str(script), str(config), str(corpora)]


@pytest.fixture
def started(tmp_path):
    """Start a process in the background with its messages in a file; none outlives the test."""
    processes = []

    def start(command, name, **variables):
        if command[0] == "-c":
            process = Background(command, tmp_path / name, variables)
        else:
            environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
            with (tmp_path / name).open("w") as messages:
                process = subprocess.Popen(
                    [sys.executable, *command], env=environment, stdout=messages, stderr=messages
                )
            process.messages = tmp_path / name
        processes.append(process)
        return process

    yield start
    for process in processes:
        kill(process)


def kill(process):
    """Kill a process and its children without notice."""
    below = children(process.pid)
    for pid in (process.pid, *below):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def children(pid):
    """Return all processes below one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found += [int(path.parent.name), *children(int(path.parent.name))]
    return found


def ranks(started, training, folders, steps, timeout=60, names=("0", "1")):
    """Start two processes without torchrun, in its environment."""
    return [
        started(["-c", TRAIN, *training[1:], str(folder), str(timeout), str(steps), TESTS], name, **environment)
        for folder, name, environment in zip(folders, names, rank_environments(), strict=True)
    ]


def logged(folder):
    return [int(row["step"]) for row in log_rows(folder)]


def until(condition, *processes, seconds=300):
    """Wait for the effect of running processes."""
    end = time.monotonic() + seconds
    while not condition():
        for process in processes:
            assert process.poll() is None, process.messages.read_text()[-3000:]
        assert time.monotonic() < end, [process.messages.read_text()[-3000:] for process in processes]
        time.sleep(0.05)


def finished(*processes, seconds=300):
    for process in processes:
        assert process.wait(seconds) == 0, process.messages.read_text()[-3000:]


def weights(folder):
    state = torch.load(folder / "last.pt", weights_only=True)
    assert state["progress"]["step"] == STEPS
    return state["net"]


UNDISTURBED = {}


@pytest.fixture
def undisturbed(started, training, tmp_path):
    """Return the weights of an undisturbed run of two processes."""
    if not UNDISTURBED:
        finished(*ranks(started, training, [tmp_path / "undisturbed"] * 2, STEPS, names=("u0", "u1")))
        UNDISTURBED.update(weights(tmp_path / "undisturbed"))
    return UNDISTURBED


def test_a_machine_dies_and_comes_back(started, training, tmp_path, undisturbed):
    """The other reports it and waits; the result is that of an undisturbed run."""
    port = free_port()

    def node(name):
        options = f"--nnodes 2 --nproc-per-node 1 --rdzv-backend c10d --rdzv-endpoint 127.0.0.1:{port} --max-restarts 3"
        conf = "--local-addr 127.0.0.1 --rdzv-conf keep_alive_interval=1,keep_alive_max_attempt=3,join_timeout=100"
        arguments = [*training, str(tmp_path / "run"), "60", str(STEPS), TESTS]
        command = ["-m", "torch.distributed.run", *options.split(), *conf.split(), *arguments]
        # Without this the living torchrun does not give a new one the address of its store (torch 2.13).
        return started(command, name, TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")

    first = node("first")
    until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, first)
    second = node("second")
    until(lambda: len(logged(tmp_path / "run")) >= 5, first, second)
    kill(second)
    until(lambda: "lost another process of this training" in first.messages.read_text(), first)
    assert len(logged(tmp_path / "run")) < STEPS
    back = node("back")
    finished(first, back)
    assert logged(tmp_path / "run") == list(range(1, STEPS + 1))
    assert_equal_states(weights(tmp_path / "run"), undisturbed)


def test_disks_of_their_own(started, training, tmp_path, undisturbed):
    """The machines swap their ranks in between; the one with a checkpoint sends it to the other."""
    here, there = tmp_path / "here", tmp_path / "there"
    finished(*ranks(started, training, [here, there], STEPS // 2))
    assert not (there / "last.pt").exists()
    assert sorted(p.name.partition("-")[0] for p in (there / "cache").glob("*.json")) == sorted(
        p.name.partition("-")[0] for p in (here / "cache").glob("*.json")
    )
    finished(*ranks(started, training, [there, here], STEPS))
    assert logged(here) == list(range(1, STEPS // 2 + 1))
    assert logged(there) == list(range(STEPS // 2 + 1, STEPS + 1))
    assert_equal_states(weights(there), undisturbed)


def test_a_process_that_hangs_is_an_error(started, training, tmp_path):
    run = tmp_path / "run"
    living, hanging = ranks(started, training, [run, run], STEPS, timeout=3)
    until(lambda: len(logged(run)) >= 3, living, hanging)
    for pid in (hanging.pid, *children(hanging.pid)):
        os.kill(pid, signal.SIGSTOP)
    assert living.wait(60) == 1
    messages = living.messages.read_text()
    assert "ConnectionError: lost another process of this training" in messages
    assert "continues from the last checkpoint" in messages


LAUNCHED = """
import sys, torch
torch.set_num_threads(1)
import modelscope_ext
import numpy as np
from datasets import Dataset
from modelscope.metainfo import Trainers
from modelscope.msdatasets import MsDataset
from modelscope.trainers import build_trainer
from modelscope.utils.torch_utils import get_dist_info

rng = np.random.default_rng(0)
rows = [{name: rng.standard_normal(1600).astype(np.float32) for name in ("noisy", "clean")} for _ in range(6)]
data = MsDataset.from_hf_dataset(Dataset.from_list(rows))
options = {"train.dataloader.batch_size_per_gpu": 1, "evaluation.dataloader.batch_size_per_gpu": 1}
kwargs = dict(model=sys.argv[1], train_dataset=data, eval_dataset=data, work_dir=sys.argv[2], max_epochs=2,
              train_iters_per_epoch=3, cfg_options=options, launcher="pytorch", device="cpu")
run = build_trainer(Trainers.speech_cruse_ans_16k, default_args=kwargs)
rank, size = get_dist_info()
from modelscope_ext.training import distributed
assert (distributed.rank(), distributed.world_size()) == (rank, size)
run.train()
torch.save([run.model.state_dict(), run.metric_values, size], f"{sys.argv[2]}/rank{rank}")
"""


def test_by_modelscopes_launcher(started, tmp_path):
    """`build_trainer(…, launcher="pytorch")`, from random weights that differ before the first step."""
    model, work, script = (tmp_path / name for name in ("model", "work", "launched.py"))
    model.mkdir()
    described = {
        "framework": "pytorch",
        "task": "acoustic-noise-suppression",
        "model": {"type": "speech_cruse_ans_16k", "name": "CRUSE2-8-1xGRU2", "batch_norm": False},
    }
    (model / "configuration.json").write_text(json.dumps(described))
    script.write_text(LAUNCHED)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--local-addr", "127.0.0.1"]
    finished(started([*torchrun, str(script), str(model), str(work)], "messages"))
    (one, values, size), (other, other_values, _) = (
        torch.load(work / name, weights_only=True) for name in ("rank0", "rank1")
    )
    assert size == 2
    assert_equal_states(one, other)
    assert values == other_values
    assert sorted(p.name for p in work.glob("*.pth")) == ["best.pth", "epoch_1.pth", "epoch_2.pth"]
    kept = torch.load(work / "epoch_2.pth", weights_only=True)["state_dict"]
    assert_equal_states({name: value for name, value in one.items() if name in kept}, kept)


def test_launchers_that_are_none_of_ours_are_refused(tmp_path):
    from modelscope_ext.plugin.trainer import NoiseSuppressionTrainer

    for launcher in ("slurm", "pytorch"):
        with pytest.raises(ValueError, match=f"launcher='{launcher}': several processes are started by torchrun"):
            NoiseSuppressionTrainer(str(tmp_path), launcher=launcher)
