"""The command `info`: what a model is, what it costs, how good it is and where it comes from."""

import copy
import hashlib
import math
import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the command line starts without it
    from torch import nn

__all__ = ["card_licence", "card_tables", "describe", "macs_per_second"]

WIDTH = 80
UNKNOWN = "not known of an ONNX file"
PAPERS = {
    "CRUSE": "Braun et al., Towards efficient models for real-time deep noise suppression, ICASSP 2021",
    "FRCRN": "Zhao et al., FRCRN: Boosting feature representation using frequency recurrence for monaural speech "
    "enhancement, ICASSP 2022",
}


def describe(model: str | Path | None = None) -> dict[str, Any]:
    """Facts about a model, ready for JSON.

    Args:
        model: folder, id or `.onnx` file; None is the model in this package. A folder without weights is described too.
            Of a file parameters, operations and what stands in a card are not known, and None.

    Returns:
        name, folder, architecture, paper, parameters, macs_per_second (of long audio), sample_rate (Hz), causal,
        latency_ms (None where a whole utterance is heard), attenuation_limit_db (None: no limit), weights (file, bytes
        and sha256, or None), licence (None where the card tells none), tables of the card (see `card_tables`).

    Raises:
        CheckpointError: the folder is no model folder, or its weights are damaged.
        ValueError: the file is none that `modelscope-ext export` wrote.
    """
    from modelscope_ext.checkpoint import RELEASED_WEIGHTS, WEIGHTS, load_model
    from modelscope_ext.hub import model_folder
    from modelscope_ext.pretrained import DEFAULT

    if model is not None and Path(model).suffix == ".onnx":
        return _describe_onnx(Path(model))
    folder = model_folder(model or DEFAULT)
    net = load_model(folder, need_weights=False)
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    weights = next((folder / name for name in (WEIGHTS, RELEASED_WEIGHTS) if (folder / name).exists()), None)
    return {
        "name": folder.resolve().name,
        "folder": str(folder),
        "architecture": _architecture(net),
        "paper": PAPERS["CRUSE" if _is_cruse(net) else "FRCRN"],
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "macs_per_second": macs_per_second(net),
        **_behaviour(net),
        "weights": _weights(weights) if weights else None,
        "licence": card_licence(text),
        "tables": card_tables(text),
    }


def _describe_onnx(path: Path) -> dict[str, Any]:
    from modelscope_ext.inference.onnx_backend import OnnxBackend

    engine = OnnxBackend(path)
    return {
        "name": path.stem,
        "folder": str(path.parent),
        "architecture": f"{engine.name}, ONNX: {'one step and its state' if engine.causal else 'whole utterances'}",
        "paper": PAPERS["CRUSE" if engine.name.startswith("CRUSE") else "FRCRN"],
        "parameters": None,
        "macs_per_second": None,
        **_behaviour(engine),
        "weights": _weights(path),
        "licence": None,
        "tables": [],
    }


def _behaviour(net: Any) -> dict[str, Any]:
    limit = net.attenuation_limit_db
    return {
        "sample_rate": net.sample_rate,
        "causal": net.causal,
        "latency_ms": 1000 * net.latency / net.sample_rate if net.causal else None,
        "attenuation_limit_db": limit if math.isfinite(limit) else None,
    }


def macs_per_second(net: "nn.Module") -> int:
    """Multiply-accumulates for one more second of audio, in convolutions, matrix products and recurrent layers.

    Of a CRUSE by its own formula. Of another network the operations themselves are counted, on tensors without data:
    what three seconds need beyond two, since the ends of a recording come only once.
    """
    if _is_cruse(net):
        return net.macs_per_frame() * net.sample_rate // net.hop
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    net = copy.deepcopy(net).to("meta")

    def macs(seconds: int) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net.enhance(torch.zeros(1, seconds * net.sample_rate, device="meta"))
        return counter.get_total_flops() // 2

    return macs(3) - macs(2)


def card_licence(card: str) -> str | None:
    """What a model card says its licence is: in its front matter, or in a line such as `Licence: …`."""
    found = re.search(r"(?im)\blicen[cs]e(?: of the weights)?:[ \t]*(?:\n\s*-\s*)?(\S.*?)\.?\s*$", card)
    return found[1].strip("\"'") if found else None


def card_tables(card: str) -> list[dict[str, Any]]:
    """The tables of a card in Markdown: {"heading": str, "rows": cells, header first}.

    A heading is that of the section and, where one line stands alone before the table, that line.
    """
    tables, rows, section, line_before, blank = [], [], "", "", True
    for line in [*card.splitlines(), ""]:
        line = line.strip()
        if line.startswith("|"):
            cells = [cell.strip().strip("*") for cell in line.strip("|").split("|")]
            if not all(re.fullmatch(r":?-+:?", cell) for cell in cells):
                rows.append(cells)
            continue
        if rows:
            tables.append({"heading": ": ".join(filter(None, (section, line_before))), "rows": rows})
            rows, line_before = [], ""
        if line.startswith("#"):
            section, line_before = line.lstrip("# "), ""
        elif line:
            line_before = line if blank else ""
        blank = not line
    return tables


def _architecture(net: "nn.Module") -> str:
    config = net.config
    if not _is_cruse(net):
        return f"FRCRN ({'causal' if net.causal else 'hears the whole utterance'})"
    norm = "batch norm" if config.batch_norm else "no batch norm"
    return f"{config.name} (skip {config.skip}, mask {config.mask}, {norm}, window {config.window})"


def _is_cruse(net: "nn.Module") -> bool:
    from modelscope_ext.models.cruse.network import Cruse

    return isinstance(net, Cruse)


def _weights(path: Path) -> dict[str, Any]:
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _as_text(found: dict[str, Any]) -> str:
    weights, limit = found["weights"], found["attenuation_limit_db"]
    latency = f"yes, latency {found['latency_ms']:g} ms" if found["causal"] else "no: files and arrays, no live streams"
    facts = {
        "model": found["name"],
        "architecture": found["architecture"],
        "paper": found["paper"],
        "parameters": f"{found['parameters'] / 1e6:.2f} million" if found["parameters"] else UNKNOWN,
        "operations": _operations(found["macs_per_second"]),
        "sample rate": f"{found['sample_rate']} Hz inside; files of any rate",
        "causal": latency,
        "attenuation": "no limit" if limit is None else f"noise is lowered by at most about {limit:g} dB",
        "weights": f"{weights['file']}, {weights['bytes'] / 1e6:.1f} MB" if weights else "none: not yet trained",
        "sha256": weights["sha256"] if weights else "",
        "licence": found["licence"] or "the folder has no card that tells it",
        "folder": found["folder"],
    }
    lines = []
    for name, value in facts.items():
        # What is copied is not broken.
        value = [value] if name in ("folder", "sha256") else textwrap.wrap(value, WIDTH - 14)
        lines += [f"{name if not i else '':14}{line}" for i, line in enumerate(value) if line]
    for table in found["tables"]:
        lines += ["", *textwrap.wrap(table["heading"], WIDTH), "", *_layout(table["rows"])]
    return "\n".join(lines)


def _operations(macs: int | None) -> str:
    if macs is None:
        return UNKNOWN
    number = f"{macs / 1e9:.3g} billion" if macs >= 1e9 else f"{macs / 1e6:.3g} million"
    return f"{number} multiply-accumulates for a second of audio"


def _layout(rows: list[list[str]]) -> list[str]:
    """A table in 80 columns: turned where it is too wide, and with its widest columns wrapped where it still is."""
    height = max(map(len, rows))
    rows = [row + [""] * (height - len(row)) for row in rows]
    widths = _widths(rows)
    if sum(widths) > WIDTH and len(rows) < height:
        rows = [list(row) for row in zip(*rows, strict=True)]
        widths = _widths(rows)
    while sum(widths) > WIDTH and max(widths) > 12:
        widths[widths.index(max(widths))] -= 1
    lines = []
    for row in rows:
        cells = [textwrap.wrap(cell, width - 2) or [""] for cell, width in zip(row, widths, strict=True)]
        for i in range(max(map(len, cells))):
            parts = (cell[i] if i < len(cell) else "" for cell in cells)
            lines.append("".join(f"{part:{width}}" for part, width in zip(parts, widths, strict=True)).rstrip())
    return lines


def _widths(rows: list[list[str]]) -> list[int]:
    return [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]
