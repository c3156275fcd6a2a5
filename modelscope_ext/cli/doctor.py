"""The command `doctor`: what of an installation and of a model works, what fails, and how to fix it."""

import argparse
import json
from collections.abc import Iterable
from dataclasses import asdict

from modelscope_ext.cli.common import print_result
from modelscope_ext.doctor import CheckResult, run_checks
from modelscope_ext.text import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `doctor`."""
    parser.description = (
        "Checks Python, packages, audio, the model, the cache and the GPU. It reports what works, what fails, and the "
        "command that fixes it. Nothing is downloaded. The exit code is 1 if there is a problem."
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help="check this folder, id or .onnx file too")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the results; return 1 if there is a problem."""
    results = list(run_checks(args.model) if args.json else _printed(run_checks(args.model)))
    counts = {level: sum(result.level == level for result in results) for level in ("problem", "warning")}
    if args.json:
        print_result(
            json.dumps({"problems": counts["problem"], "findings": [asdict(each) for each in results]}, indent=2)
        )
    else:
        summary = [f"{number} {level}{'s' * (number > 1)}" for level, number in counts.items() if number]
        print_result(f"\n{', '.join(summary) or 'No problems.'}")
    return int(counts["problem"] > 0)


def _printed(results: Iterable[CheckResult]) -> Iterable[CheckResult]:
    """Print each result on a line of its own before it is passed on."""
    group = ""
    for result in results:
        if result.group != group:
            print_result(f"{group and chr(10)}{printable(result.group)}")
            group = result.group
        level = result.level.upper() if result.level == "problem" else result.level
        print_result(f"  {level:9}{printable(result.what)}")
        if result.fix:
            print_result(f"{'':11}→ {printable(result.fix)}")
        yield result
