"""The command `info`: what a model is, costs and scores."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict

from modelscope_ext.cli.common import print_result
from modelscope_ext.info import ModelInfo, describe
from modelscope_ext.text import printable

UNKNOWN = "unknown for an ONNX file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `info`."""
    parser.description = (
        "Prints architecture, parameters, operations, latency, licence and sources of a model, and the tables of its "
        "card."
    )
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="file or stream, the models in this package; a folder, id or .onnx file [file]",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    """Print facts about a model."""
    info = describe(args.model)
    if args.json:
        print_result(json.dumps(asdict(info), indent=2))
    else:
        print_result(*map(printable, _lines(info)))


def _lines(info: ModelInfo) -> Iterator[str]:
    """Yield a line for each fact and each row of a table."""
    limit, weights = info.attenuation_limit_db, info.weights
    facts = {
        "model": info.name,
        "architecture": info.architecture,
        "paper": info.paper,
        "parameters": f"{info.parameters / 1e6:.2f} million" if info.parameters else UNKNOWN,
        "operations": _operations(info.macs_per_second),
        "sample rate": f"{info.sample_rate} Hz inside; files of any rate",
        "causal": f"yes, latency {info.latency_ms:g} ms" if info.causal else "no: files and arrays, no live streams",
        "attenuation": "no limit" if limit is None else f"noise is lowered by at most about {limit:g} dB",
        "weights": f"{weights.file}, {weights.bytes / 1e6:.1f} MB" if weights else "none: not yet trained",
        "sha256": weights.sha256 if weights else "–",
        "licence": info.licence or "unknown: the folder has no card that names it",
        "folder": info.folder,
    }
    yield from (f"{name:14}{value}" for name, value in facts.items())
    for table in info.tables:
        yield from ("", table.heading, *(" | ".join(row) for row in table.rows))


def _operations(macs: int | None) -> str:
    if macs is None:
        return UNKNOWN
    number = f"{macs / 1e9:.3g} billion" if macs >= 1e9 else f"{macs / 1e6:.3g} million"
    return f"{number} multiply-accumulates for a second of audio"
