"""Models of all forms for the doors of `fuzzing.py`, and the reasons of refusals without their numbers."""

import contextlib
import faulthandler
import functools
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from modelscope_ext import Denoiser
from modelscope_ext.checkpoint import save_model
from modelscope_ext.export import export_onnx
from modelscope_ext.models import CRUSE_TYPE, build

NAME = "CRUSE2-8-1xGRU2"
WINDOW = 512
#: Seconds that one input may take on a busy machine.
PATIENCE_S = 300


class Models:
    """A small network in every form that the doors take."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        net = build(NAME).eval()
        self.folder, self.onnx = folder / "model", folder / "model.onnx"
        configuration = {"task": "acoustic-noise-suppression", "pipeline": {"type": CRUSE_TYPE}}
        configuration["model"] = {"type": CRUSE_TYPE, "name": NAME}
        save_model(net, self.folder, {"framework": "pytorch", **configuration})
        export_onnx(net, self.onnx)
        self.denoiser, self.by_onnx = Denoiser(net), Denoiser(self.onnx)

    @functools.cached_property
    def frcrn(self) -> Denoiser:
        return Denoiser(build("FRCRN").eval())

    @functools.cached_property
    def pipeline(self) -> Callable:
        from modelscope.pipelines import pipeline

        import modelscope_ext.plugin  # noqa: F401

        return pipeline("acoustic-noise-suppression", model=str(self.folder), device="cpu")


def outcome(reason: str, *names: object) -> str:
    """Return a reason without the parts that differ from input to input."""
    for name in names:
        reason = reason.replace(str(name), "…")
    reason = re.sub(r"(?s)^\S*/.*?: ", "…: ", reason)
    return re.sub(r"-?\b\d[\d.,]*(e[+-]?\d+)?|-?\binf\b|\bnan\b", "#", reason)[:100]


@contextlib.contextmanager
def patience() -> Iterator[None]:
    """Kill the process with a traceback if the block hangs, in C too."""
    faulthandler.dump_traceback_later(PATIENCE_S, exit=True, file=sys.__stderr__)
    yield
    faulthandler.cancel_dump_traceback_later()
