"""Scores of enhanced speech on pairs of noisy and clean recordings, and the gate between two models.

Signals are whole utterances at 16 kHz with averaged channels. Intervals are 95 % by Student's t over files.
"""

import logging
import math
import pickle
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from modelscope_ext.audio import read_mono
from modelscope_ext.data.pairs import Pair, find_pairs
from modelscope_ext.metrics import SAMPLE_RATE, require, scores
from modelscope_ext.progress import Bar

__all__ = ["COLUMNS", "MARGINS", "Evaluation", "evaluate", "evaluate_systems", "regression_gate", "to_markdown"]

logger = logging.getLogger(__name__)

#: metric → (heading, unit, digits).
COLUMNS = {
    "wb_pesq": ("WB-PESQ", "", 2),
    "nb_pesq": ("NB-PESQ", "", 2),
    "stoi": ("STOI", " %", 1),
    "si_sdr": ("SI-SDR", " dB", 2),
    "sig": ("SIG", "", 2),
    "bak": ("BAK", "", 2),
    "ovrl": ("OVRL", "", 2),
    "p808": ("P.808", "", 2),
}
DNSMOS = ("sig", "bak", "ovrl", "p808")
#: The loss of a mean that `regression_gate` permits: a fraction of the differences in published tables.
MARGINS = dict.fromkeys(COLUMNS, 0.05) | {"stoi": 0.5, "si_sdr": 0.5}

#: Why a job has no scores whose process ended.
CRASHED = "its process died: a metric crashed or memory ran out; try fewer workers"

Denoise = Callable[[np.ndarray, int], np.ndarray]
System = tuple[Sequence[Pair], Denoise | None]


class MetricSummary(NamedTuple):
    """A metric over `count` files; `half_width` is half of the 95 % interval and NaN below two files."""

    mean: float
    half_width: float
    count: int


@dataclass(frozen=True)
class Evaluation:
    """The scores of one system.

    Attributes:
        name: name of the system.
        rows: file → metric → value; NaN where a metric has no value.
        failed: file → why it lacks scores, all or some; they are NaN, or it has no row.
    """

    name: str
    rows: dict[str, dict[str, float]]
    failed: dict[str, str]

    @property
    def metrics(self) -> list[str]:
        """Return the names of the metrics in the order of `COLUMNS`."""
        return [name for name in COLUMNS if any(name in row for row in self.rows.values())]

    def to_frame(self) -> pd.DataFrame:
        """Return the scores with a row per file and a column per metric."""
        files = pd.Index(list(self.rows), dtype=object)  # a string type refuses names outside UTF-8
        return pd.DataFrame(list(self.rows.values()), files, self.metrics, float)

    def summary(self) -> dict[str, MetricSummary]:
        """Return the summary of each metric over the files that have a value."""
        found = self.to_frame().agg(["mean", "sem", "count"])
        return {
            name: MetricSummary(float(mean), float(stdtrit(count - 1, 0.975) * error), int(count))
            for name, (mean, error, count) in found.items()
        }


def evaluate(
    pairs: str | Path | Sequence[Pair],
    denoise: Denoise | None = None,
    metrics: Sequence[str] = tuple(COLUMNS),
    workers: int = 1,
    *,
    name: str = "model",
    progress: bool = False,
) -> Evaluation:
    """Score a system or the noisy recordings themselves.

    A file fails if `denoise` raises or returns another shape or NaN. It is logged and listed in `failed`.

    Args:
        pairs: pairs or a folder as in `find_pairs`.
        denoise: function of (N,) float32 and the rate 16000 that returns (N,) floating point, such as a `Denoiser`.
            None scores `Pair.noisy` itself.
        metrics: names from `COLUMNS`.
        workers: number of processes. With more than one, each gets a pickled copy of `denoise` and runs torch on one
            thread. Scripts then need `if __name__ == "__main__":`.
        name: name of the system in the result.
        progress: show a bar, or lines where standard error is no terminal.

    Raises:
        AudioError: no pair can be used; see `find_pairs`.
        ModuleNotFoundError: a metric needs a missing package.
        ValueError: a metric is unknown, there are no pairs, or `denoise` cannot be pickled.
    >>> from modelscope_ext import Denoiser
    >>> evaluate("pairs", Denoiser(), workers=4).summary()["wb_pesq"].mean  # doctest: +SKIP
    """
    problems: dict[str, str] = {}
    if isinstance(pairs, (str, Path)):
        pairs = find_pairs(pairs, problems=problems)
    return evaluate_systems({name: (pairs, denoise)}, metrics, workers, progress, problems=problems)[0]


def evaluate_systems(
    systems: Mapping[str, System],
    metrics: Sequence[str],
    workers: int = 1,
    progress: bool = False,
    apart: bool = False,
    problems: Mapping[str, str] = MappingProxyType({}),
) -> list[Evaluation]:
    """Score several systems (name → pairs, denoise) with one pool of processes; see `evaluate`.

    `apart` starts a process for one worker too, so that a crash of a metric costs its file alone. `problems` of
    `find_pairs` are logged and in `failed` of each system.
    """
    if not metrics:
        raise ValueError(f"no metrics given; choose from {', '.join(COLUMNS)}")
    require(metrics)
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    for name, (pairs, _) in systems.items():
        if not pairs:
            raise ValueError(f"{name}: there are no pairs to evaluate")
        if repeated := [file for file, count in Counter(pair.name for pair in pairs).items() if count > 1]:
            raise ValueError(f"{name}: several pairs share one name: {', '.join(repeated)}")
    metrics = [name for name in COLUMNS if name in metrics]
    for path, reason in problems.items():
        logger.warning("%s: not scored: %s", path, reason)
    jobs = [(name, pair) for name, (pairs, _) in systems.items() for pair in pairs]
    denoisers = {name: denoise for name, (_, denoise) in systems.items()}
    rows: dict[tuple[str, str], dict[str, float]] = {}
    failed = {name: dict(problems) for name in systems}
    with Bar(total=len(jobs), desc="evaluating", unit="file", quiet=not progress) as bar:
        for name, pair, row, reason in _run_jobs(
            jobs, denoisers, metrics, 0 if workers == 1 and not apart else min(workers, len(jobs))
        ):
            rows[name, pair.name] = row
            if reason:
                failed[name][pair.name] = reason
                bar.clear()
                logger.warning("%s, %s: not scored: %s", name, pair.noisy, reason)
            bar.update()
    return [
        Evaluation(name, {pair.name: rows[name, pair.name] for pair in pairs}, failed[name])
        for name, (pairs, _) in systems.items()
    ]


def regression_gate(before: Evaluation, after: Evaluation, margins: Mapping[str, float] | None = None) -> list[str]:
    """Return the reasons why `after` must not replace `before`; an empty list if it may.

    Args:
        before: scores of the system in use.
        after: scores of its successor on the same files.
        margins: metric → permitted loss of its mean over the files with a value in both. None takes `MARGINS`.

    Returns:
        Reasons such as "WB-PESQ fell by 0.12 (limit 0.05): 2.81 to 2.69 over 12 files". A file without a value in
            `after` only is a reason too: the new model fails on it or its output is silent.

    Raises:
        ValueError: the files differ or a margin belongs to a metric without scores.
    """
    if before.rows.keys() != after.rows.keys():
        raise ValueError(f"{before.name} and {after.name} were evaluated on different files")
    common = [name for name in before.metrics if name in after.metrics]
    margins = {name: MARGINS[name] for name in common} if margins is None else margins
    old_scores, new_scores = before.to_frame(), after.to_frame()
    reasons = []
    for name, margin in margins.items():
        if name not in common or math.isnan(margin):
            raise ValueError(f"no margin {margin} for {name!r}: the metrics of both are {', '.join(common)}")
        heading, unit, digits = COLUMNS[name]
        values = pd.DataFrame({"old": old_scores[name], "new": new_scores[name]})
        if lost := (values["old"].notna() & values["new"].isna()).sum():
            reasons.append(f"{heading} is no longer defined for {lost} of {len(values)} files")
        values = values.dropna()
        old, new = values["old"].mean(), values["new"].mean()
        if old - new > margin:  # false without values
            reasons.append(
                f"{heading} fell by {old - new:.3g}{unit} (limit {margin:g}): "
                f"{old:.{digits}f} to {new:.{digits}f} over {len(values)} files"
            )
    return reasons


def to_markdown(evaluations: Iterable[Evaluation]) -> str:
    """Return a Markdown table of means and intervals with a note on files without a value."""
    evaluations = list(evaluations)
    headings = ["".join(COLUMNS[name][:2]) for name in evaluations[0].metrics]
    lines = [f"| | {' | '.join(headings)} |", "|---|" + "---:|" * len(headings)]
    notes = []
    for evaluation in evaluations:
        cells = []
        for name, found in evaluation.summary().items():
            heading, _, digits = COLUMNS[name]
            interval = "" if math.isnan(found.half_width) else f" ± {found.half_width:.{digits}f}"
            cells.append(f"{found.mean:.{digits}f}{interval}" if found.count else "–")
            if missing := len(evaluation.rows) - found.count:
                notes.append(f"{heading} of {missing} file(s) ({evaluation.name})")
        lines.append(f"| {evaluation.name} | {' | '.join(cells)} |")
    if notes:
        lines += ["", f"Without a value, and left out of the means: {', '.join(notes)}."]
    return "\n".join(lines)


def _run_jobs(
    jobs: Sequence[tuple[str, Pair]], denoisers: Mapping[str, Denoise | None], metrics: Sequence[str], workers: int
) -> Iterator[tuple[str, Pair, dict[str, float], str]]:
    """Yield system, pair, scores and reason of failure of each job as it completes; no workers are this process."""
    if not workers:
        for name, pair in jobs:
            yield name, pair, *_score(pair, denoisers[name], metrics)
        return
    try:
        pickled = pickle.dumps(denoisers)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(f"denoise cannot be pickled for other processes, take workers=1: {error}") from error
    left, alone = list(jobs), 0
    while left:
        # After a crash, jobs that may have caused it run alone.
        batch, count = (left[:1], 1) if alone else (left, workers)
        done = set()
        pool = ProcessPoolExecutor(count, get_context("spawn"), _start_worker, (pickled,))
        try:
            futures = {pool.submit(_work, name, pair, metrics): (name, pair) for name, pair in batch}
            for future in as_completed(futures):
                row = future.result()
                done.add(futures[future])
                yield *futures[future], *row
            crashed = False
        except BrokenProcessPool:
            crashed = True
        finally:
            pool.shutdown(cancel_futures=True)
        if alone and crashed:
            done.add(left[0])
            yield *left[0], dict.fromkeys(metrics, math.nan), CRASHED
        left = [job for job in left if job not in done]
        alone = workers if crashed and not alone else max(0, alone - 1)


#: In a worker process: the denoisers by system, pickled until the first job.
_denoisers: list = []


def _start_worker(pickled: bytes) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles Ctrl-C
    _denoisers[:] = [pickled]


def _work(name: str, pair: Pair, metrics: Sequence[str]) -> tuple[dict[str, float], str]:
    if isinstance(_denoisers[0], bytes):  # not in the initializer, where an error would break the pool
        _denoisers[0] = pickle.loads(_denoisers[0])
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(1)
    return _score(pair, _denoisers[0][name], metrics)


def _score(pair: Pair, denoise: Denoise | None, metrics: Sequence[str]) -> tuple[dict[str, float], str]:
    """Return the scores of a pair or NaN and the reason."""
    try:
        noisy, clean = (read_mono(path, SAMPLE_RATE) for path in (pair.noisy, pair.clean))
        estimate = np.asarray(denoise(noisy, SAMPLE_RATE)) if denoise else noisy
        if estimate.shape != clean.shape or estimate.dtype.kind != "f":
            raise ValueError(f"need {clean.shape} floating point, got {estimate.shape} {estimate.dtype}")
        if not np.isfinite(estimate).all():
            raise ValueError("the denoised signal has NaN or infinite samples")
    except (ValueError, OSError, RuntimeError) as error:
        return dict.fromkeys(metrics, math.nan), str(error) or type(error).__name__
    row, reasons = dict.fromkeys(metrics, math.nan), []
    together = [name for name in metrics if name in DNSMOS]  # of one computation
    for names in [*([name] for name in metrics if name not in DNSMOS), *([together] if together else [])]:
        try:
            row |= scores(estimate, clean, names)
        except Exception as error:  # packages of others raise anything
            reasons.append(f"{', '.join(names)}: {str(error) or type(error).__name__}")
    return row, "; ".join(reasons)
