"""Checks of ONNX files, which need no torch."""

import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from modelscope_ext.inference.denoiser import Denoiser
from modelscope_ext.pretrained import MODELS, graph_of

#: (level, what, fix), as in `CheckResult`.
Found = Iterator[tuple[str, ...]]
REINSTALL = "pip install --force-reinstall --no-deps modelscope-ext"


def check_packaged_graphs() -> Found:
    """Check the ONNX files of the models in this package."""
    for name, folder in MODELS.items():
        yield from named(name, _check(graph_of(folder), REINSTALL))


def named(name: str, results: Found) -> Found:
    """Yield the results of one of several models with its name before each."""
    for level, what, *fix in results:
        yield level, f"{name}: {what}", *fix


def check_graph(path: str | Path) -> Found:
    """Check an `.onnx` file."""
    yield from _check(path, f"modelscope-ext export --model MODEL -o {shlex.quote(str(path))}")


def denoise_with(model: Any) -> Found:
    """Denoise noise with any model of `Denoiser`."""
    noise = np.random.default_rng(0).standard_normal(16000).astype(np.float32) / 10
    denoiser = Denoiser(model)
    denoiser(noise, 16000)
    start = time.perf_counter()
    out = denoiser(noise, 16000)
    by = "onnxruntime" if isinstance(model, (str, Path)) else "torch"
    if np.isfinite(out).all():
        yield "ok", f"denoises a second of audio in {time.perf_counter() - start:.2g} s on this CPU by {by}"
    else:
        yield "problem", "its output has NaN or infinite samples: the weights cannot be used"


def _check(path: Any, fix: str) -> Found:
    try:
        yield from denoise_with(path)
    except ModuleNotFoundError as error:
        yield "problem", str(error), "pip install onnxruntime"
    except ValueError as error:
        yield "problem", str(error), fix
