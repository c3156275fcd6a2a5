"""How good enhanced speech is, on pairs of noisy and clean recordings: `modelscope-ext evaluate`.

Whole utterances at 16 kHz, channels averaged, other rates resampled. Intervals are Student's t over files, 95 %.
"""

import argparse
import csv
import json
import logging
import math
import os
import pickle
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelscope_ext.atomic import atomic_write
from modelscope_ext.data.matching import Pair, find_pairs

if TYPE_CHECKING:  # the command line starts without it
    import numpy as np

__all__ = ["COLUMNS", "MARGINS", "Evaluation", "Mean", "add_command", "evaluate", "gate", "table"]

logger = logging.getLogger(__name__)

RATE = 16000
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
#: What `gate` lets a mean lose: a fraction of what separates the systems of published tables.
MARGINS = dict.fromkeys(COLUMNS, 0.05) | {"stoi": 0.5, "si_sdr": 0.5}
METHOD = "mean over files ± half of the 95 % confidence interval (Student's t over files)"

Denoise = Callable[["np.ndarray", int], "np.ndarray"]


@dataclass(frozen=True)
class Mean:
    """A metric over files: `half` is half of its 95 % confidence interval, NaN below two files."""

    mean: float
    half: float
    count: int


@dataclass(frozen=True)
class Evaluation:
    """The scores of one system.

    Attributes:
        name: of the system.
        rows: file → metric → value; NaN where the metric has none for this file.
        failed: file → why it could not be scored at all; its row is NaN throughout.
    """

    name: str
    rows: dict[str, dict[str, float]]
    failed: dict[str, str]

    @property
    def metrics(self) -> list[str]:
        """The names of the metrics, in the order of the columns."""
        return [name for name in COLUMNS if any(name in row for row in self.rows.values())]

    def summary(self) -> dict[str, Mean]:
        """Each metric over the files that have a value of it."""
        return {name: _mean([row[name] for row in self.rows.values()]) for name in self.metrics}


def evaluate(
    pairs: str | Path | Sequence[Pair],
    denoise: Denoise | None = None,
    metrics: Sequence[str] = tuple(COLUMNS),
    workers: int = 1,
    *,
    name: str = "model",
    progress: bool = False,
) -> Evaluation:
    """Scores a system, or the noisy recordings themselves.

    Args:
        pairs: a folder as `find_pairs` takes it, or pairs.
        denoise: called with (N,) float32 and 16000, returns (N,) floating point; a `Denoiser`, for instance. None
            scores what `Pair.noisy` names as it is.
        metrics: of `COLUMNS`.
        workers: processes. With more than one, `denoise` goes to each of them once, by pickle, and torch runs on one
            thread in each; a script then needs `if __name__ == "__main__":`.
        name: goes into the result.
        progress: a bar on stderr, if that is a terminal.

    Raises:
        AudioError: see `find_pairs`.
        ModuleNotFoundError: a metric's package is missing; the message says how to install it.

    A file on which `denoise` fails, or returns another shape or NaN, is logged and listed in `failed`.

    >>> from modelscope_ext import Denoiser
    >>> evaluate("pairs", Denoiser(), workers=4).summary()["wb_pesq"].mean  # doctest: +SKIP
    """
    if isinstance(pairs, (str, Path)):
        pairs = find_pairs(pairs)
    return _evaluate_all({name: (pairs, denoise)}, metrics, workers, progress)[0]


def gate(before: Evaluation, after: Evaluation, margins: Mapping[str, float] | None = None) -> list[str]:
    """Why `after` should not take the place of `before`; nothing if it may.

    Args:
        before: what is in use.
        after: what is to take its place, on the same files.
        margins: metric → what its mean may lose, over the files that have a value in both. None takes `MARGINS`.

    Returns:
        Complaints such as "WB-PESQ fell by 0.12 (limit 0.05): 2.81 to 2.69 over 12 files". Files that lost their value
        (the new model fails on them, or is silent) are complaints too.

    Raises:
        ValueError: the files differ, or a margin is for a metric that was not computed.
    """
    if before.rows.keys() != after.rows.keys():
        raise ValueError(f"{before.name} and {after.name} were evaluated on different files")
    known = [name for name in before.metrics if name in after.metrics]
    margins = {name: MARGINS[name] for name in known} if margins is None else margins
    complaints = []
    for name, margin in margins.items():
        if name not in known or math.isnan(margin):
            raise ValueError(f"no margin {margin} for {name!r}: the metrics of both are {', '.join(known)}")
        heading, unit, digits = COLUMNS[name]
        values = [(before.rows[file][name], row[name]) for file, row in after.rows.items()]
        both = [(old, new) for old, new in values if not math.isnan(old + new)]
        if lost := sum(math.isnan(new) and not math.isnan(old) for old, new in values):
            complaints.append(f"{heading} is no longer defined for {lost} of {len(values)} files")
        if not both:
            continue
        old, new = (math.fsum(column) / len(both) for column in zip(*both, strict=True))
        if old - new > margin:
            complaints.append(
                f"{heading} fell by {old - new:.3g}{unit} (limit {margin:g}): "
                f"{old:.{digits}f} to {new:.{digits}f} over {len(both)} files"
            )
    return complaints


def table(evaluations: Iterable[Evaluation]) -> str:
    """Means and intervals in Markdown, and below how many files are missing from which mean."""
    evaluations = list(evaluations)
    headings = ["".join(COLUMNS[name][:2]) for name in evaluations[0].metrics]
    lines = [f"| | {' | '.join(headings)} |", "|---|" + "---:|" * len(headings)]
    notes = []
    for one in evaluations:
        cells = []
        for name, found in one.summary().items():
            heading, _, digits = COLUMNS[name]
            spread = "" if math.isnan(found.half) else f" ± {found.half:.{digits}f}"
            cells.append(f"{found.mean:.{digits}f}{spread}" if found.count else "–")
            if missing := len(one.rows) - found.count:
                notes.append(f"{heading} of {missing} file(s) ({one.name})")
        lines.append(f"| {one.name} | {' | '.join(cells)} |")
    if notes:
        lines += ["", f"Without a value, and left out of the means: {', '.join(notes)}."]
    return "\n".join(lines)


def add_command(commands: Any, parents: Sequence[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Adds `evaluate` to the sub-commands of a parser; `parents` bring `--quiet` and `--device`."""
    parser = commands.add_parser(
        "evaluate",
        parents=parents,
        help="score a model on pairs of noisy and clean recordings",
        description="PESQ, STOI, SI-SDR and DNSMOS of noisy recordings and of a model, or of files it has enhanced.",
    )
    parser.add_argument(
        "--pairs",
        required=True,
        type=Path,
        metavar="DIR",
        help="holds noisy/ and clean/ with the same names, or noisy_fileid_7.wav and clean_fileid_7.wav (DNS)",
    )
    system = parser.add_mutually_exclusive_group()
    system.add_argument("--model", metavar="M", help="a model folder, or an id of ModelScope's hub [in this package]")
    system.add_argument("--enhanced", type=Path, metavar="DIR", help="score these files, named as the noisy ones")
    parser.add_argument(
        "--metrics",
        type=lambda text: text.split(","),
        default=list(COLUMNS),
        metavar="A,B",
        help=f"only these of {','.join(COLUMNS)}; DNSMOS (the last four) takes longest",
    )
    parser.add_argument("--json", type=Path, metavar="F", help="write everything here")
    parser.add_argument("--csv", type=Path, metavar="F", help="write a row a file here")
    parser.add_argument("--workers", type=int, default=_cores(), metavar="N", help="processes [%(default)s]")
    parser.add_argument(
        "--baseline",
        nargs="?",
        const="",
        metavar="M",
        help="score this model too (without M: the one in this package), and fail if ours lost more than the margins",
    )
    parser.add_argument(
        "--margin",
        action="append",
        metavar="X",
        help="what a mean may lose: a number for PESQ and DNSMOS, ten times as much for STOI and SI-SDR, or "
        "METRIC=NUMBER, repeatable [0.05]",
    )
    parser.set_defaults(run=_run)
    return parser


def _run(args: argparse.Namespace) -> int:
    if args.margin and args.baseline is None:
        raise ValueError("--margin compares with a --baseline, and there is none")
    margins = _margins(args.margin or [], args.metrics)
    _require(args.metrics)
    noisy = find_pairs(args.pairs)
    systems: dict[str, tuple[Sequence[Pair], Denoise | None]] = {"noisy": (noisy, None)}
    named = {"noisy": str(args.pairs)}

    def add(name: str, model: str | None) -> None:
        from modelscope_ext.inference.denoiser import Denoiser

        systems[name] = noisy, Denoiser(model or None, args.device)
        named[name] = model or "the model in this package"

    if args.baseline is not None:
        add("baseline", args.baseline)
    ours = "model" if args.enhanced is None else "enhanced"
    if args.enhanced is None:
        add(ours, args.model)
    else:
        systems[ours] = find_pairs(args.pairs, args.enhanced), None
        named[ours] = str(args.enhanced)
    for path in filter(None, (args.json, args.csv)):
        path.parent.mkdir(parents=True, exist_ok=True)
    found = _evaluate_all(systems, args.metrics, args.workers, not args.quiet)
    print(f"{len(noisy)} files; {METHOD}\n{'; '.join(f'{name}: {what}' for name, what in named.items())}\n")
    print(table(found))
    complaints = gate(found[1], found[2], margins) if args.baseline is not None else []
    if args.json:
        _write(args.json, _as_json(found, named, complaints if args.baseline is not None else None))
    if args.csv:
        _write_csv(args.csv, found)
    failed = [f"{one.name}: {len(one.failed)} file(s) could not be scored" for one in found if one.failed]
    if complaints or failed:
        raise ValueError("; ".join([*(f"refused: {text}" for text in complaints), *failed]))
    return 0


def _margins(given: Iterable[str], metrics: Sequence[str]) -> dict[str, float]:
    margins = {name: MARGINS[name] for name in metrics if name in MARGINS}
    for text in given:
        name, _, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            raise ValueError(f"--margin takes a number or METRIC=NUMBER, got {text!r}") from None
        if not name:
            margins = {each: value * MARGINS[each] / 0.05 for each in margins}
        elif name in margins:
            margins[name] = value
        else:
            raise ValueError(f"--margin {text}: the metrics are {', '.join(margins)}")
    return margins


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# Scoring


def _evaluate_all(
    systems: Mapping[str, tuple[Sequence[Pair], Denoise | None]],
    metrics: Sequence[str],
    workers: int,
    progress: bool,
) -> list[Evaluation]:
    """Evaluates several systems (name → pairs, denoise) with one set of processes."""
    from tqdm import tqdm

    _require(metrics)
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    metrics = [name for name in COLUMNS if name in metrics]
    for name, (pairs, _) in systems.items():
        if twice := [file for file, count in Counter(pair.name for pair in pairs).items() if count > 1]:
            raise ValueError(f"{name}: several pairs of one name: {', '.join(twice)}")
    if not all(pairs for pairs, _ in systems.values()):
        raise ValueError("there are no pairs to evaluate on")
    jobs = [(name, pair) for name, (pairs, _) in systems.items() for pair in pairs]
    denoisers = {name: denoise for name, (_, denoise) in systems.items()}
    rows: dict[tuple[str, str], dict[str, float]] = {}
    failed: dict[str, dict[str, str]] = {name: {} for name in systems}
    with tqdm(total=len(jobs), desc="evaluating", unit="file", disable=None if progress else True) as bar:
        for name, pair, row, reason in _scored(jobs, denoisers, metrics, min(workers, len(jobs))):
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


def _require(metrics: Sequence[str]) -> None:
    from modelscope_ext.metrics import require

    if not metrics:
        raise ValueError(f"no metric chosen; there are {', '.join(COLUMNS)}")
    require(metrics)


def _scored(
    jobs: Sequence[tuple[str, Pair]], denoisers: Mapping[str, Denoise | None], metrics: Sequence[str], workers: int
) -> Iterable[tuple[str, Pair, dict[str, float], str]]:
    if workers <= 1:
        for name, pair in jobs:
            yield name, pair, *_score(pair, denoisers[name], metrics)
        return
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    try:
        pickled = pickle.dumps(denoisers)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(f"this denoise cannot be sent to other processes, take workers=1: {error}") from error
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _begin, (pickled,))
    try:
        futures = {pool.submit(_work, name, pair, metrics): (name, pair) for name, pair in jobs}
        for future in as_completed(futures):
            yield *futures[future], *future.result()
    except BrokenProcessPool as error:
        raise OSError("a worker process died; if for want of memory, fewer --workers need less") from error
    finally:
        pool.shutdown(cancel_futures=True)


#: Of a worker process: the systems, pickled until they are first needed.
_sent: list = []


def _begin(pickled: bytes) -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits for this one
    _sent[:] = [pickled]


def _work(name: str, pair: Pair, metrics: Sequence[str]) -> tuple[dict[str, float], str]:
    if isinstance(_sent[0], bytes):
        _sent[0] = pickle.loads(_sent[0])
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(1)
    return _score(pair, _sent[0][name], metrics)


def _score(pair: Pair, denoise: Denoise | None, metrics: Sequence[str]) -> tuple[dict[str, float], str]:
    """A row, and why it is NaN throughout, if it is."""
    import numpy as np

    from modelscope_ext.audio import read_mono
    from modelscope_ext.metrics import scores

    try:
        noisy, clean = (read_mono(path, RATE) for path in (pair.noisy, pair.clean))
        heard = np.asarray(denoise(noisy, RATE)) if denoise else noisy
        if heard.shape != clean.shape or heard.dtype.kind != "f":
            raise ValueError(f"need {clean.shape} floating point, got {heard.shape} {heard.dtype}")
        if not np.isfinite(heard).all():
            raise ValueError("the denoised signal has NaN or infinite samples")
        return scores(heard, clean, metrics), ""
    except (ValueError, OSError, RuntimeError) as error:
        return dict.fromkeys(metrics, math.nan), str(error) or type(error).__name__


def _mean(values: Iterable[float]) -> Mean:
    from scipy.special import stdtrit

    values = [value for value in values if not math.isnan(value)]
    if not values:
        return Mean(math.nan, math.nan, 0)
    count, mean = len(values), math.fsum(values) / len(values)
    if count == 1:
        return Mean(mean, math.nan, 1)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    return Mean(mean, float(stdtrit(count - 1, 0.975)) * deviation / math.sqrt(count), count)


# Writing


def _as_json(found: Iterable[Evaluation], named: Mapping[str, str], complaints: list[str] | None) -> str:
    systems = [
        {
            "name": one.name,
            "source": named[one.name],
            "summary": {name: asdict(mean) for name, mean in one.summary().items()},
            "files": one.rows,
            "failed": one.failed,
        }
        for one in found
    ]
    described = {"method": METHOD, "packages": _versions(), "systems": systems, "gate": complaints}
    return json.dumps(_without_nan(described), indent=2, ensure_ascii=False) + "\n"


def _without_nan(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("modelscope-ext", "pesq", "pystoi", "speechmos", "onnxruntime", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _write_csv(path: Path, found: Iterable[Evaluation]) -> None:
    from io import StringIO

    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for i, one in enumerate(found):
        if not i:
            writer.writerow(["file", "system", *one.metrics])
        for file, row in one.rows.items():
            writer.writerow([file, one.name, *("" if math.isnan(value) else f"{value:.6g}" for value in row.values())])
    _write(path, text.getvalue())


def _write(path: Path, text: str) -> None:
    """A file appears whole, or not at all."""
    with atomic_write(path) as half:
        half.write_text(text, encoding="utf-8")
