"""Networks as ONNX files that `Denoiser` runs without PyTorch; each file is compared with PyTorch before it is written.

Inputs and outputs, all float32 at the network's rate:

- a step of a causal network: `audio` (B, hop) and the state → `enhanced` (B, hop), delayed by `delay` samples, and the
  new state. All other inputs are the state, zeros before the first step; the output `new_X` is the next `X`.
- blocks of a causal network: the same for `audio` (B, n hops), any n; long audio takes half the time.
- whole utterances: `audio` (B, N) → `enhanced` (B, N), aligned, any B and N. FRCRN also has the output `own_means`
  (B, 22, 256), and the optional input `means` for those of the recording that `audio` is a part of.

The metadata are name, kind (step, blocks or utterance), sample_rate, hop, delay, latency, reference_level,
attenuation_limit_db and lead_in_s, the seconds of warm-up.
"""

import copy
from pathlib import Path

from torch import nn

from modelscope_ext.atomic import atomic_write
from modelscope_ext.checkpoint import load_model
from modelscope_ext.export.cruse import cruse_graph
from modelscope_ext.export.dual_path import dual_path_graph
from modelscope_ext.export.frcrn import frcrn_graph
from modelscope_ext.export.graph import Graph
from modelscope_ext.export.parity import find_difference
from modelscope_ext.hub import model_folder
from modelscope_ext.inference.onnx_backend import FORMAT
from modelscope_ext.models.cruse.network import Cruse
from modelscope_ext.models.dual_path.network import DualPath
from modelscope_ext.pretrained import weights_of

__all__ = ["OPSET", "ExportError", "export_onnx"]

#: Of the operators in our files: new enough for all that we use, old enough for onnxruntime 1.17.
OPSET = 18


class ExportError(ValueError):
    """The file and the network give different results; the message gives the difference."""


def export_onnx(
    model: "nn.Module | str | Path | None",
    path: str | Path,
    utterance: bool | None = None,
    int8: bool = False,
    blocks: bool = False,
) -> None:
    """Write a network to an ONNX file after a comparison of both on noise, a voice and silence.

    Args:
        model: a network, a model folder or a name as in `hub.model_folder`; None is "file" for whole utterances and
            "stream" for others.
        path: the file. It appears if it is complete and gives what PyTorch gives. Beside the weights of a model in this
            package it is written without the matrices that these have.
        utterance: export whole utterances instead of a step with its state. None exports a step of causal networks.
        int8: store the recurrent matrices of a CRUSE's step in 8 bits: a smaller file and a faster step.
        blocks: export steps of any number of hops of a CRUSE or a dual-path network.

    Raises:
        ExportError: the outputs are not finite or differ by more than `parity.TOLERANCE` (`INT8_TOLERANCE_DB` with
            `int8`).
        ValueError: the model cannot be used, it is not causal and has no step, or `int8` or `blocks` is not for it.
        OSError: the file cannot be written.
        ModuleNotFoundError: onnx or onnxruntime is missing. The message gives the command that installs it.
    """
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("export needs onnx; get it with: pip install 'modelscope-ext[onnx]'") from error
    net = _network(("file" if utterance else "stream") if model is None else model)
    kind = _kind(net, utterance, blocks)
    path = Path(path)
    proto = _graph(net, kind, int8).model(OPSET, whole=weights_of(path) is None)
    onnx.helper.set_model_props(proto, {key: str(value) for key, value in _metadata(net, kind).items()})
    with atomic_write(path) as temp:
        temp.write_bytes(proto.SerializeToString())
        if difference := find_difference(net, temp, int8):
            raise ExportError(f"{path}: not written; {difference}")


def _network(model: "nn.Module | str | Path") -> nn.Module:
    if isinstance(model, (str, Path)):
        return load_model(model_folder(model))
    if model.training:
        raise ValueError("the network is in training mode; call eval() first")
    return model if model.window.device.type == "cpu" else copy.deepcopy(model).cpu()


def _kind(net: nn.Module, utterance: bool | None, blocks: bool) -> str:
    if utterance or (utterance is None and not net.causal and not blocks):
        if blocks:
            raise ValueError("choose either blocks or whole utterances")
        return "utterance"
    if not net.causal:
        raise ValueError("this network needs a whole utterance before its first output: there is no step to export")
    return "blocks" if blocks else "step"


def _graph(net: nn.Module, kind: str, int8: bool) -> Graph:
    cruse = isinstance(net, Cruse)
    if int8 and (kind != "step" or not cruse):
        raise ValueError("8 bits are for the step of a CRUSE only")
    if cruse:
        return cruse_graph(net, kind, int8)
    if isinstance(net, DualPath):
        return dual_path_graph(net, kind)
    if kind == "blocks":
        raise ValueError("blocks are for CRUSE and dual-path networks only")
    return frcrn_graph(net, kind == "utterance")


def _metadata(net: nn.Module, kind: str) -> dict[str, object]:
    return {
        "format": FORMAT,
        "name": getattr(net.config, "name", type(net).__name__),
        "kind": kind,
        "sample_rate": net.sample_rate,
        "hop": len(net.window) // 2,
        "delay": 0 if kind == "utterance" else net.algorithmic_delay,
        "latency": 0 if kind == "utterance" else net.latency,
        "reference_level": net.reference_level,
        "attenuation_limit_db": net.attenuation_limit_db,
        "lead_in_s": net.warmup_s,
    }
