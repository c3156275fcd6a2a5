"""Facts about a model: its architecture, cost, latency, weights, licence, and the tables of its card."""

import copy
import hashlib
import importlib.util
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelscope_ext.hub import RELEASED_WEIGHTS, WEIGHTS, model_folder
from modelscope_ext.inference.onnx_backend import OnnxBackend
from modelscope_ext.pretrained import graph_of
from modelscope_ext.text import printable

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ModelInfo", "describe"]

#: Bytes of a card that are read, and letters of a licence that are shown.
LONGEST_CARD, LONGEST_LICENCE = 1_000_000, 200

PAPERS = {
    "CRUSE": "Braun et al., Towards efficient models for real-time deep noise suppression, ICASSP 2021",
    "DualPath": "Luo et al., Dual-path RNN, ICASSP 2020; Le et al., DPCRN, Interspeech 2021; Ahn et al., FastEnhancer, "
    "2025",
    "Dfsmn": "Zhang et al., Deep-FSMN for large vocabulary continuous speech recognition, ICASSP 2018",
    "ZipEnhancer": "Wang and Tian, ZipEnhancer: Dual-path down-up sampling-based Zipformer for monaural speech "
    "enhancement, ICASSP 2025",
    "FRCRN": "Zhao et al., FRCRN: Boosting feature representation using frequency recurrence for monaural speech "
    "enhancement, ICASSP 2022",
}


@dataclass(frozen=True)
class Weights:
    """A file of weights."""

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Table:
    """A table of a model card: its heading, and rows of cells, the header first."""

    heading: str
    rows: list[list[str]]


@dataclass(frozen=True)
class ModelInfo:
    """Facts about a model.

    Attributes:
        parameters: their number; None for an ONNX file.
        macs_per_second: multiply-accumulates for a second of long audio; None for an ONNX file.
        sample_rate: Hz.
        latency_ms: None for networks that need the whole recording.
        attenuation_limit_db: None for no limit.
        weights: None for an untrained model.
        licence: None if the card names none.
    """

    name: str
    folder: str
    architecture: str
    paper: str
    parameters: int | None
    macs_per_second: int | None
    sample_rate: int
    causal: bool
    latency_ms: float | None
    attenuation_limit_db: float | None
    weights: Weights | None
    licence: str | None
    tables: list[Table]


def describe(model: str | Path | None = None) -> ModelInfo:
    """Return facts about a model.

    Args:
        model: a folder with or without weights, a name as in `hub.model_folder` or an `.onnx` file; None is "file".

    Raises:
        CheckpointError: the folder is no model folder or its weights are damaged.
        ValueError: `modelscope-ext export` did not write this file.
    """
    if model is not None and Path(model).suffix == ".onnx":
        return _describe_onnx(Path(model))
    folder = model_folder(model or "file")
    card = folder / "README.md"
    text = ""
    if card.is_file():
        with card.open("rb") as file:
            text = file.read(LONGEST_CARD).decode("utf-8", "replace")
    if (graph := graph_of(folder)) and not importlib.util.find_spec("torch"):
        of_card = {"licence": card_licence(text), "tables": card_tables(text)}
        return replace(_describe_onnx(graph), name=folder.name, weights=_weights(folder / WEIGHTS), **of_card)
    from modelscope_ext.inference.stock import load_network  # imports torch

    net = load_network(folder, need_weights=False)
    weights = next((folder / name for name in (WEIGHTS, RELEASED_WEIGHTS) if (folder / name).exists()), None)
    return ModelInfo(
        name=folder.resolve().name,
        folder=str(folder),
        architecture=_architecture(net),
        paper=PAPERS[_kind(_name(net))],
        parameters=sum(parameter.numel() for parameter in net.parameters()),
        macs_per_second=macs_per_second(net),
        **_behaviour(net),
        weights=_weights(weights) if weights else None,
        licence=card_licence(text),
        tables=card_tables(text),
    )


def macs_per_second(net: "nn.Module") -> int:
    """Return the multiply-accumulates for one more second of audio.

    Convolutions, matrix products and recurrent layers count. Some networks have a formula. Others process tensors
    without data. The result is the difference of three and two seconds because the ends of a recording come only once.
    """
    if hasattr(net, "macs_per_frame"):
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
    """Return the licence from a model card's front matter, or from a line such as `Licence: …`; None without one."""
    lines = card.splitlines()
    for line, after in zip(lines, [*lines[1:], ""], strict=False):
        head, colon, found = line.partition(":")
        title = " ".join(head[-100:].lower().split())
        if colon and title.removesuffix(" of the weights").endswith(("licence", "license")):
            item = after.strip()
            found = found.strip() or (item[1:].strip() if item.startswith("-") else "")
            if found := found.strip("\"'").removesuffix("."):
                return printable(found[:LONGEST_LICENCE])
    return None


def card_tables(card: str) -> list[Table]:
    """Return the tables of a card in Markdown.

    A heading is that of the section and any single line before the table.
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
            tables.append(Table(": ".join(filter(None, (section, line_before))), rows))
            rows, line_before = [], ""
        if line.startswith("#"):
            section, line_before = line.lstrip("# "), ""
        elif line:
            line_before = line if blank else ""
        blank = not line
    return tables


def _describe_onnx(path: Path) -> ModelInfo:
    backend = OnnxBackend(path)
    return ModelInfo(
        name=path.stem,
        folder=str(path.parent),
        architecture=f"{backend.name}, ONNX: {'steps and their state' if backend.causal else 'whole utterances'}",
        paper=PAPERS[_kind(backend.name)],
        parameters=None,
        macs_per_second=None,
        **_behaviour(backend),
        weights=_weights(path),
        licence=None,
        tables=[],
    )


def _behaviour(net: Any) -> dict[str, Any]:
    limits = getattr(net, "limits", net)  # of a back end
    limit = limits.attenuation_limit_db
    return {
        "sample_rate": net.sample_rate,
        "causal": net.causal,
        "latency_ms": 1000 * limits.latency / net.sample_rate if net.causal else None,
        "attenuation_limit_db": limit if math.isfinite(limit) else None,
    }


def _architecture(net: "nn.Module") -> str:
    kind, causality = _kind(_name(net)), "causal" if net.causal else "needs the whole utterance"
    if kind not in ("CRUSE", "DualPath"):
        return f"{kind} ({causality})"
    config = net.config
    if kind == "DualPath":
        return f"{config.name} (mixer {config.mixer}, {causality})"
    norm = "batch norm" if config.batch_norm else "no batch norm"
    return f"{config.name} (skip {config.skip}, mask {config.mask}, {norm}, window {config.window})"


def _name(net: "nn.Module") -> str:
    return getattr(getattr(net, "config", None), "name", type(net).__name__)


def _kind(name: str) -> str:
    """Return the kind of a network by its name; FRCRN has no other name."""
    return next((kind for kind in PAPERS if name.startswith(kind)), "FRCRN")


def _weights(path: Path) -> Weights:
    return Weights(path.name, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
