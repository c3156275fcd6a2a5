"""Networks as ONNX files that `Denoiser` runs without PyTorch; each file is compared with PyTorch before it is there.

What a file takes and gives, all float32 at the network's rate:

- a step of a causal network: `audio` (B, hop) and the state → `enhanced` (B, hop), delayed by `delay` samples, and the
  new state. All other inputs are the state, zeros before the first step; the output `new_X` is the next `X`.
- whole utterances: `audio` (B, N) → `enhanced` (B, N), aligned, any B and N. FRCRN's has `own_means` (B, 22, 256), too,
  and takes them, of a recording that `audio` is a part of, as `means`, which may be left out.

The metadata hold name, kind (step or utterance), sample_rate, hop, delay, latency, attenuation_limit_db and
lead_in_s.
"""

import copy
from pathlib import Path
from typing import Any

__all__ = ["INT8_TOLERANCE_DB", "OPSET", "TOLERANCE", "ExportError", "export_onnx"]

#: Of the operators in our files: new enough for all that we use, old enough for onnxruntime 1.17.
OPSET = 18

#: How far samples of the file's output, of full scale 1, may lie from PyTorch's.
TOLERANCE = 1e-4

#: How far beneath the output the difference of a file in 8 bits has to lie.
INT8_TOLERANCE_DB = -20.0


class ExportError(ValueError):
    """What was written does not compute what the network computes; the message says by how much."""


def export_onnx(model: Any, path: str | Path, utterance: bool | None = None, int8: bool = False) -> None:
    """Writes a network to an ONNX file, and compares the two on noise, a voice and silence.

    Args:
        model: a network, or what names one: a model folder, an id of ModelScope's hub, None for that in this package.
        path: the file; it appears when it is whole and gives what PyTorch gives, or not at all.
        utterance: whole utterances instead of a step with its state; None decides for a step where the network can.
        int8: of the step of a CRUSE, the recurrent layers' matrices in 8 bits: a smaller file and a faster step.

    Raises:
        ExportError: the outputs differ by more than `TOLERANCE`, with `int8` by more than `INT8_TOLERANCE_DB`, or are
            not finite.
        ValueError: the model cannot be used, or a step is asked of a network that hears the whole utterance, or
            `int8` of anything but the step of a CRUSE.
        OSError: the file cannot be written.
        ModuleNotFoundError: onnx or onnxruntime is missing; the message says how to get it.
    """
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("export needs onnx; get it with: pip install 'modelscope-ext[onnx]'") from error
    from modelscope_ext.atomic import atomic_write
    from modelscope_ext.export.parity import difference

    net = _network(model)
    if utterance is None:
        utterance = not net.causal
    if not (utterance or net.causal):
        raise ValueError("this network hears a whole utterance before it answers: there is no step to export")
    proto = _graph(net, utterance, int8).model(OPSET)
    onnx.helper.set_model_props(proto, {key: str(value) for key, value in _metadata(net, utterance).items()})
    path = Path(path)
    with atomic_write(path) as half:
        half.write_bytes(proto.SerializeToString())
        if found := difference(net, half, int8):
            raise ExportError(f"{path}: not written; {found}")


def _network(model: Any) -> Any:
    from modelscope_ext.checkpoint import load_model
    from modelscope_ext.hub import model_folder
    from modelscope_ext.pretrained import DEFAULT

    if model is None or isinstance(model, (str, Path)):
        return load_model(model_folder(DEFAULT if model is None else model))
    if model.training:
        raise ValueError("the network is in training mode; call eval() first")
    return model if model.window.device.type == "cpu" else copy.deepcopy(model).cpu()


def _graph(net: Any, utterance: bool, int8: bool) -> Any:
    from modelscope_ext.models.cruse.network import Cruse
    from modelscope_ext.models.dual_path import DualPath

    cruse = isinstance(net, Cruse)
    if int8 and (utterance or not cruse):
        raise ValueError("8 bits are for the step of a CRUSE only")
    if cruse:
        from modelscope_ext.export.cruse import cruse_step, cruse_utterance

        return cruse_utterance(net) if utterance else cruse_step(net, int8)
    if isinstance(net, DualPath):
        from modelscope_ext.export.dual_path import dual_path_step, dual_path_utterance

        return (dual_path_utterance if utterance else dual_path_step)(net)
    from modelscope_ext.export.frcrn import frcrn_step, frcrn_utterance

    return (frcrn_utterance if utterance else frcrn_step)(net)


def _metadata(net: Any, utterance: bool) -> dict[str, object]:
    from modelscope_ext.inference.onnx_backend import FORMAT

    return {
        "format": FORMAT,
        "name": getattr(net.config, "name", type(net).__name__),
        "kind": "utterance" if utterance else "step",
        "sample_rate": net.sample_rate,
        "hop": len(net.window) // 2,
        "delay": 0 if utterance else net.delay,
        "latency": 0 if utterance else net.latency,
        "reference_level": getattr(net, "reference_level", not net.causal),
        "attenuation_limit_db": net.attenuation_limit_db,
        "lead_in_s": net.lead_in_s,
    }
