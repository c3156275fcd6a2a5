"""Networks as ONNX files that `Denoiser` runs without PyTorch; each file is compared with PyTorch before it is there.

What a file takes and gives, all float32 at the network's rate:

- a step of a causal network: `audio` (B, hop) and the state → `enhanced` (B, hop), delayed by `delay` samples, and the
  new state. All other inputs are the state, zeros before the first step; the output `new_X` is the next `X`.
- whole utterances: `audio` (B, N) → `enhanced` (B, N), aligned, any B and N.

The metadata hold name, kind (step or utterance), sample_rate, hop, delay, latency and attenuation_limit_db.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from modelscope_ext.engines.onnx import FORMAT, OnnxEngine

__all__ = ["OPSET", "TOLERANCE", "ExportError", "add_command", "export_onnx"]

#: Of the operators in our files: new enough for all that we use, old enough for onnxruntime 1.17.
OPSET = 18

#: How far samples of the file's output, of full scale 1, may lie from PyTorch's.
TOLERANCE = 1e-4


class ExportError(ValueError):
    """What was written does not compute what the network computes; the message says by how much."""


def export_onnx(model: Any, path: str | Path, utterance: bool | None = None) -> None:
    """Writes a network to an ONNX file, and compares the two on noise, a voice and silence.

    Args:
        model: a network, or what names one: a model folder, an id of ModelScope's hub, None for that in this package.
        path: the file; it appears when it is whole and gives what PyTorch gives, or not at all.
        utterance: whole utterances instead of a step with its state; None decides for a step where the network can.

    Raises:
        ExportError: the outputs differ by more than `TOLERANCE`, or are not finite.
        ValueError: the model cannot be used, or a step is asked of a network that hears the whole utterance.
        OSError: the file cannot be written.
        ModuleNotFoundError: onnx or onnxruntime is missing; the message says how to get it.
    """
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("export needs onnx; get it with: pip install 'modelscope-ext[onnx]'") from error
    from modelscope_ext.engines.pytorch import TorchEngine

    net = _network(model)
    if utterance is None:
        utterance = not net.causal
    if not (utterance or net.causal):
        raise ValueError("this network hears a whole utterance before it answers: there is no step to export")
    proto = _graph(net, utterance).model(OPSET)
    onnx.helper.set_model_props(proto, {key: str(value) for key, value in _metadata(net, utterance).items()})
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.{os.getpid()}.half")
    try:
        half.write_bytes(proto.SerializeToString())
        _compare(TorchEngine(net), OnnxEngine(half), path)
        half.replace(path)
    finally:
        with suppress(OSError):
            half.unlink()


def _network(model: Any) -> Any:
    from modelscope_ext.checkpoint import load_model
    from modelscope_ext.hub import model_folder
    from modelscope_ext.pretrained import DEFAULT

    if model is None or isinstance(model, (str, Path)):
        return load_model(model_folder(DEFAULT if model is None else model))
    if model.training:
        raise ValueError("the network is in training mode; call eval() first")
    return model


def _graph(net: Any, utterance: bool) -> Any:
    from modelscope_ext.models.cruse import Cruse

    if isinstance(net, Cruse):
        from modelscope_ext.export.cruse import cruse_step, cruse_utterance

        return (cruse_utterance if utterance else cruse_step)(net)
    from modelscope_ext.export.frcrn import frcrn_step, frcrn_utterance

    return (frcrn_utterance if utterance else frcrn_step)(net)


def _metadata(net: Any, utterance: bool) -> dict[str, object]:
    return {
        "format": FORMAT,
        "name": getattr(net.config, "name", type(net).__name__),
        "kind": "utterance" if utterance else "step",
        "sample_rate": net.sample_rate,
        "hop": len(net.window) // 2,
        "delay": 0 if utterance else net.delay,
        "latency": 0 if utterance else net.latency,
        "reference_level": not net.causal,
        "attenuation_limit_db": net.attenuation_limit_db,
    }


def _compare(ours: Any, theirs: OnnxEngine, path: Path) -> None:
    for what, audio in _signals(ours.sample_rate):
        expected, found = (_output(engine, theirs.causal, audio) for engine in (ours, theirs))
        if found.shape != expected.shape:
            raise ExportError(f"{path}: of {what}, onnxruntime gives {found.shape} samples, PyTorch {expected.shape}")
        difference = np.abs(found - expected).max(initial=0) / max(1, np.abs(expected).max(initial=0))
        if not difference <= TOLERANCE:
            raise ExportError(
                f"{path}: not written; onnxruntime and PyTorch differ by {difference:.2g} on {what}, "
                f"and at most {TOLERANCE:g} is accepted"
            )


def _output(engine: Any, stepwise: bool, audio: np.ndarray) -> np.ndarray:
    if not stepwise:
        return engine.enhance(audio)
    parts, state = [], None
    for chunk in np.array_split(audio, 7, axis=1):
        out, state = engine.feed(chunk, state)
        parts.append(out)
    return np.concatenate((*parts, engine.finish(state)), 1)


def _signals(rate: int) -> Iterator[tuple[str, np.ndarray]]:
    """Names, and audio (B, N) of several lengths and levels."""
    rng = np.random.default_rng(0)
    yield "one sample", np.full((1, 1), 0.5, np.float32)
    yield "silence", np.zeros((1, rate // 10), np.float32)
    for level_db in (0, -20, -60):
        noise = rng.standard_normal((2, rate // 8 + level_db)) * 10 ** (level_db / 20) / 4
        yield f"noise at {level_db - 12} dBFS", noise.astype(np.float32)
    yield "a voice in noise", _voice(rng, rate, rate + 77)


def _voice(rng: np.random.Generator, rate: int, length: int) -> np.ndarray:
    """(1, N): harmonics of a gliding pitch in three syllables a second, and a little noise."""
    time = np.arange(length) / rate
    phase = 2 * np.pi * np.cumsum(140 + 40 * np.sin(2 * np.pi * 0.7 * time)) / rate
    voice = sum(np.sin(k * phase) / k for k in range(1, 25)) * np.sin(3 * np.pi * time).clip(0)
    return (0.2 * voice + 0.02 * rng.standard_normal(length)).astype(np.float32)[None]


def add_command(commands: Any, parents: Sequence[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Adds `export` to the sub-commands of a parser; `parents` bring `--quiet`."""
    parser = commands.add_parser(
        "export",
        parents=parents,
        help="write a model as an ONNX file",
        description="Writes a model as an ONNX file, which `denoise --model` runs without PyTorch. It is compared with "
        "PyTorch first, and refused where samples differ by more than 0.0001.",
    )
    parser.add_argument("--model", metavar="M", help="a model folder, or an id of ModelScope's hub [in this package]")
    parser.add_argument("--format", choices=["onnx"], default="onnx", help="onnx is the only one")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="OUT.onnx", help="the file to write")
    parser.add_argument(
        "--utterance",
        action="store_const",
        const=True,
        help="whole utterances in, whole utterances out; otherwise, of a causal network, one step and its state",
    )
    parser.set_defaults(run=_run)
    return parser


def _run(args: argparse.Namespace) -> int:
    if args.output.suffix.lower() != ".onnx":
        raise ValueError(f"{args.output}: an ONNX file is called something.onnx")
    export_onnx(args.model, args.output, args.utterance)
    return 0
