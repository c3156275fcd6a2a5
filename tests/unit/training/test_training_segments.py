"""Training in epochs, with a small network."""

import json

import numpy as np
import pytest
import torch
from conftest import ROOT
from helpers import SEGMENTS, MeanLoss, Rows, Tiny, assert_equal_states, log_rows, segment_loop
from processes import python, run_ranks

from modelscope_ext.training.batches import BadDataError, Segments, check_rows
from modelscope_ext.training.config import SegmentConfig
from modelscope_ext.training.loop import TrainingLoop
from modelscope_ext.training.segments import SegmentRecipe


def test_all_epochs_run_on_few_rows(tmp_path):
    """7 rows for 24: they are repeated, and every epoch trains all its iterations."""
    run = segment_loop(tmp_path, optimizer_options={"lr": 0.01})
    values = run.run()
    rows = log_rows(tmp_path)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["iter"] for row in rows] == ["4", "8", "12"]
    assert float(rows[2]["avg_loss"]) == pytest.approx(values["avg_loss"], rel=1e-5)
    assert float(rows[2]["loss"]) < float(rows[0]["loss"])
    assert {p.name for p in tmp_path.iterdir()} >= {"epoch_1.pth", "epoch_2.pth", "epoch_3.pth", "best.pth"}
    assert any(p.name.startswith("events.out") for p in tmp_path.iterdir())
    best = min(range(3), key=lambda i: float(rows[i]["avg_loss"])) + 1
    weights = [torch.load(tmp_path / f"{n}.pth", weights_only=True)["state_dict"] for n in ("best", f"epoch_{best}")]
    assert_equal_states(*weights)


def test_every_row_comes_once_in_a_pass(tmp_path):
    run, seen = segment_loop(tmp_path, rows=8, evaluate=False), []
    run.recipe.net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]["noisy"].clone()))
    run.run()
    index = [
        int(np.flatnonzero((run.recipe.train_rows.rows.noisy == row).all(1))[0]) for row in torch.cat(seen).numpy()
    ]
    passes = [index[i : i + 8] for i in range(0, 24, 8)]
    assert all(sorted(p) == list(range(8)) for p in passes)
    assert passes[0] != passes[1] != passes[2]


def test_the_rate_falls_when_the_loss_does_not(tmp_path):
    run = segment_loop(tmp_path, optimizer_options={"lr": 0.5})
    run.recipe.metrics = lambda: [type("Bad", (MeanLoss,), {"evaluate": lambda self: {"avg_loss": 1.0}})()]
    run.run()
    assert run.recipe.optimizer.param_groups[0]["lr"] == 0.125
    assert [float(row["learning_rate"]) for row in log_rows(tmp_path)] == [0.5, 0.5, 0.25]


TWO = """
import sys
sys.path[:0] = sys.argv[2:4]
import torch
torch.set_num_threads(1)
from pathlib import Path
from helpers import segment_loop
from modelscope_ext.training.distributed import rank
values = segment_loop(Path(sys.argv[1]), batch=int(sys.argv[4]), optimizer="SGD").run()
open(f"{sys.argv[1]}-{rank()}.txt", "w").write(repr(values["avg_loss"]))
"""


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_doubled_batch(tmp_path):
    """Batch norm over both, metrics over both, and one writer."""
    folders = [ROOT, ROOT / "tests"]
    python("-c", TWO, tmp_path / "one", *folders, 4)
    run_ranks(["-c", TWO, tmp_path / "two", *folders, 2], tmp_path)
    one, two = (torch.load(tmp_path / n / "epoch_3.pth", weights_only=True)["state_dict"] for n in ("one", "two"))
    for name in one:
        assert torch.allclose(one[name].double(), two[name].double(), rtol=1e-3, atol=1e-5), name
    losses = [float((tmp_path / f"{name}.txt").read_text()) for name in ("one-0", "two-0", "two-1")]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-4)
    assert len(log_rows(tmp_path / "two")) == 3


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows.noisy.__setitem__((3, 5), np.nan), "evaluation data: row 3: noisy has NaN or infinite"),
        (lambda rows: rows.noisy.fill(0), "evaluation data: all rows are silent"),
        (lambda rows: setattr(rows, "clean", rows.clean[:, 1:]), r"row 0: noisy is \(400,\) and clean \(399,\)"),
        (lambda rows: setattr(rows, "clean", rows.clean[:0]), "evaluation data: has no rows"),
    ],
)
def test_bad_rows_are_an_error_before_the_first_step(tmp_path, spoil, message):
    rows = Rows(5)
    spoil(rows)
    with pytest.raises(BadDataError, match=message):
        SegmentRecipe(Tiny(), SegmentConfig(), tmp_path, Rows(5), rows, device="cpu")


def test_many_rows_are_checked_at_intervals():
    rows = Rows(50)
    rows.noisy[49] = np.inf
    with pytest.raises(BadDataError, match="row 49"):
        check_rows(Segments(rows), "data", limit=10)
    rows = [{"noisy": np.ones(3)}] * 30
    with pytest.raises(BadDataError, match="row 9: has no clean; and perhaps more"):
        check_rows(Segments(rows), "data")


def test_silent_rows_are_left_out_and_counted_or_refused(tmp_path, caplog):
    """A second of zeros in a recording is no reason to stop."""
    train, evaluate = Rows(5), Rows(5, 1)
    train.noisy[3] = evaluate.noisy[1] = 0

    def trained(name, config, *rows):
        recipe = SegmentRecipe(Tiny(), config, tmp_path / name, *rows, lambda: [MeanLoss()], "cpu", progress=False)
        TrainingLoop(recipe).run()
        return recipe

    config = SegmentConfig(**SEGMENTS)
    found = trained("silent", config, train, evaluate)
    assert "training data: 1 silent rows of 5 are left out" in caplog.text
    assert "evaluation data: 1 silent rows of 5 are left out" in caplog.text
    train.noisy[3], train.clean[3] = train.noisy[4], train.clean[4]  # the next row stands in
    kept = [0, 2, 3, 4]
    evaluate.noisy, evaluate.clean = evaluate.noisy[kept], evaluate.clean[kept]
    expected = trained("kept", config, train, evaluate)
    assert_equal_states(found.net.state_dict(), expected.net.state_dict())
    assert found.scores == pytest.approx(expected.scores)
    train.noisy[2] = 0
    with pytest.raises(BadDataError, match="training data: 1 rows are silent, the first is 2"):
        trained("refused", SegmentConfig(**SEGMENTS, silent_rows="refuse"), train, evaluate)


def test_a_lack_of_progress_ends_a_run_and_so_does_the_time(tmp_path, caplog):
    caplog.set_level("INFO", "modelscope_ext")
    run = segment_loop(tmp_path / "stale", epochs=50, patience=2, optimizer_options={"lr": 0.0})
    run.run()
    assert run.finished
    assert len(log_rows(tmp_path / "stale")) == 3  # the first one is the best
    assert "no evaluation was better in 2 epochs" in caplog.text
    short = segment_loop(tmp_path / "short", epochs=50, minutes=1e-9)
    short.run()
    assert short.done.step <= 2
    assert short.finished
    assert "the time is over" in caplog.text
    assert segment_loop(tmp_path / "stale", epochs=50, patience=2, optimizer_options={"lr": 0.0}).finished


def test_only_the_last_checkpoints_are_kept_if_asked(tmp_path):
    segment_loop(tmp_path, keep=1).run()
    assert sorted(p.name for p in tmp_path.glob("*.pth")) == ["best.pth", "epoch_3.pth"]


def test_the_released_sections_are_read(tmp_path):
    configuration = json.loads((ROOT / "configuration.json").read_text())
    configuration["train"]["lr_scheduler"]["verbose"] = True
    config = SegmentConfig.from_configuration(configuration)
    assert config == SegmentConfig(
        optimizer_options={"lr": 0.001, "weight_decay": 0.00001},
        scheduler_options={"mode": "min", "factor": 0.98, "patience": 2},
    )
    with pytest.raises(ValueError, match="epochs must be a whole number of at least 1, got 0"):
        SegmentConfig.from_configuration({"train": {"max_epochs": 0}})
    with pytest.raises(ValueError, match=r"torch has no optim\.Adamm"):
        SegmentRecipe(Tiny(), SegmentConfig(optimizer="Adamm"), tmp_path, device="cpu")


def test_an_epochs_checkpoint_continues_exactly(tmp_path):
    """Also one of an older version, which had no settings, and in a folder with a later one."""
    whole = segment_loop(tmp_path / "run")
    whole.run()
    old = torch.load(tmp_path / "run" / "epoch_1.pth", weights_only=True)
    del old["config"]
    torch.save(old, tmp_path / "old.pth")
    again = segment_loop(tmp_path / "run", resume=False)
    assert again.done.step == 0
    again.load(tmp_path / "old.pth")
    assert again.done.step == 4
    again.run()
    assert_equal_states(whole.recipe.net.state_dict(), again.recipe.net.state_dict())
    assert [row["epoch"] for row in log_rows(tmp_path / "run")] == ["1", "2", "3"]


def test_more_epochs_continue_a_finished_run(tmp_path):
    segment_loop(tmp_path, epochs=1).run()
    more = segment_loop(tmp_path)
    assert more.done.step == 4
    more.run()
    assert [row["epoch"] for row in log_rows(tmp_path)] == ["1", "2", "3"]
    assert not (tmp_path / "last.pth").exists()
