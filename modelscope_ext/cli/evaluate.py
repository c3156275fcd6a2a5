"""The command `evaluate`: scores of a model on pairs, as a table, JSON and CSV."""

import argparse
import csv
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from modelscope_ext.atomic import atomic_write, require_apart
from modelscope_ext.cli.common import add_device, add_model, add_quiet, print_result
from modelscope_ext.data.pairs import find_pairs
from modelscope_ext.evaluation import COLUMNS, MARGINS, Evaluation, evaluate_systems, regression_gate, to_markdown
from modelscope_ext.hub import local_folder
from modelscope_ext.inference.denoiser import Denoiser
from modelscope_ext.metrics import require
from modelscope_ext.text import printable, table_cell

METHOD = "mean over files ± half of the 95 % confidence interval (Student's t over files)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `evaluate`."""
    parser.description = (
        "Computes PESQ, STOI, SI-SDR and DNSMOS of noisy recordings and of a model's output or enhanced files."
    )
    add = parser.add_argument
    add(
        "--pairs",
        required=True,
        type=Path,
        metavar="DIR",
        help="folder with noisy/ and clean/ of the same names, or with noisy_fileid_7.wav and clean_fileid_7.wav (DNS)",
    )
    system = parser.add_mutually_exclusive_group()
    add_model(system)
    system.add_argument("--enhanced", type=Path, metavar="DIR", help="score these files, named as the noisy ones")
    add(
        "--metrics",
        type=lambda text: text.split(","),
        default=list(COLUMNS),
        metavar="A,B",
        help=f"only these of {','.join(COLUMNS)}; DNSMOS (the last four) takes longest",
    )
    add("--json", type=Path, metavar="F", help="write everything to this file")
    add("--csv", type=Path, metavar="F", help="write a row per file and system to this file")
    add("--workers", type=int, default=_cores(), metavar="N", help="processes [%(default)s]")
    add(
        "--baseline",
        nargs="?",
        const="",
        metavar="M",
        help="also score this model (without M: file), and fail if ours lost more than the margins",
    )
    add(
        "--margin",
        action="append",
        metavar="X",
        help="permitted loss of a mean: a number for PESQ and DNSMOS, ten times as much for STOI and SI-SDR, or "
        "METRIC=NUMBER, repeatable [0.05]",
    )
    add_device(parser)
    add_quiet(parser)


def run(args: argparse.Namespace) -> None:
    """Score, print and write. Raise ValueError if the gate refuses or a file has no scores."""
    if args.margin and args.baseline is None:
        raise ValueError("--margin needs a --baseline to compare with")
    margins = _parse_margins(args.margin or [], args.metrics)
    require(args.metrics)
    problems: dict[str, str] = {}
    noisy = find_pairs(args.pairs, args.enhanced, problems)
    enhanced = {pair.name: pair for pair in noisy}
    if args.enhanced is not None:
        noisy = [pair for pair in find_pairs(args.pairs, None, {}) if pair.name in enhanced]
    systems, sources = {"noisy": (noisy, None)}, {"noisy": str(args.pairs)}
    models = {"baseline": args.baseline} if args.baseline is not None else {}
    if args.enhanced is None:
        models["model"] = args.model
    for name, model in models.items():
        systems[name] = noisy, Denoiser(model or None, args.device)
        sources[name] = model or "the model in this package"
    if args.enhanced is not None:
        systems["enhanced"] = [enhanced[pair.name] for pair in noisy], None
        sources["enhanced"] = str(args.enhanced)
    scored = [path for pairs, _ in systems.values() for pair in pairs for path in (pair.noisy, pair.clean)]
    folders = (local_folder(model) for model in models.values())
    require_apart([args.json, args.csv], [*folders, *scored])
    for path in filter(None, (args.json, args.csv)):
        path.parent.mkdir(parents=True, exist_ok=True)
    results = evaluate_systems(systems, args.metrics, args.workers, not args.quiet, True, problems)
    gate = regression_gate(results[1], results[2], margins) if args.baseline is not None else None
    if args.json:
        _write_json(args.json, results, sources, gate)
    if args.csv:
        _write_csv(args.csv, results)
    scored_systems = printable("; ".join(f"{name}: {source}" for name, source in sources.items()))
    print_result(f"{len(noisy)} files; {METHOD}\n{scored_systems}\n", to_markdown(results))
    refused = [f"refused: {reason}" for reason in gate or []]
    refused += [f"{each.name}: {len(each.failed)} file(s) could not be scored" for each in results if each.failed]
    if refused:
        raise ValueError("; ".join(refused))


def _cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _parse_margins(texts: Iterable[str], metrics: Sequence[str]) -> dict[str, float]:
    margins = {name: MARGINS[name] for name in metrics if name in MARGINS}
    for text in texts:
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


def _write_json(
    path: Path, results: Iterable[Evaluation], sources: Mapping[str, str], gate: Sequence[str] | None
) -> None:
    systems = [
        {
            "name": each.name,
            "source": sources[each.name],
            "summary": {
                name: _without_nan({"mean": found.mean, "half": found.half_width, "count": found.count})
                for name, found in each.summary().items()
            },
            "files": {file: _without_nan(row) for file, row in each.rows.items()},
            "failed": each.failed,
        }
        for each in results
    ]
    content = {"method": METHOD, "packages": _versions(), "systems": systems, "gate": gate}
    with atomic_write(path) as temp:
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        temp.write_text(text, encoding="utf-8", errors="backslashreplace")  # as JSON writes names outside UTF-8


def _without_nan(values: Mapping[str, float]) -> dict[str, float | None]:
    """Replace NaN by null because JSON lacks it."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _versions() -> dict[str, str]:
    found = {}
    for name in ("modelscope-ext", "pesq", "pystoi", "speechmos", "onnxruntime", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _write_csv(path: Path, results: Sequence[Evaluation]) -> None:
    metrics = list(dict.fromkeys(name for each in results for name in each.metrics))
    with atomic_write(path) as temp, temp.open("w", encoding="utf-8", errors="backslashreplace", newline="") as out:
        table = csv.writer(out, lineterminator="\n")
        table.writerow(["file", "system", *metrics])
        for each in results:
            for file, row in ({file: {} for file in each.failed} | each.rows).items():
                values = [row.get(name, math.nan) for name in metrics]
                cells = ["" if math.isnan(value) else f"{value:.6g}" for value in values]
                table.writerow([table_cell(file), each.name, *cells])
