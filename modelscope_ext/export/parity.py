"""Comparison of an ONNX file with PyTorch on noise, silence and a voice at several levels and lengths."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import nn

from modelscope_ext.inference.backend import Backend
from modelscope_ext.inference.onnx_backend import OnnxBackend
from modelscope_ext.inference.torch_backend import TorchBackend

#: Largest difference of samples where full scale is 1.
TOLERANCE = 1e-4
#: Largest difference of a file in 8 bits, relative to the output.
INT8_TOLERANCE_DB = -20.0


def find_difference(net: nn.Module, path: Path, int8: bool = False) -> str:
    """Return how the output of a file differs from its network's by more than the tolerance; "" if it does not."""
    expected_backend, onnx_backend = TorchBackend(net), OnnxBackend(path)
    for name, audio in _signals(net.sample_rate):
        expected, actual = (_output(each, onnx_backend.causal, audio) for each in (expected_backend, onnx_backend))
        if actual.shape != expected.shape:
            return f"on {name} onnxruntime gives {actual.shape} samples, PyTorch {expected.shape}"
        if int8:
            error, level = (np.square(x, dtype=np.float64).sum() for x in (actual - expected, expected))
            if not error <= level * 10 ** (INT8_TOLERANCE_DB / 10) + 1e-12 * expected.size:
                db = 10 * np.log10(error / level) if level else np.inf
                return f"8 bits change {name} by {db:.0f} dB of its level; at most {INT8_TOLERANCE_DB:g} are accepted"
            continue
        largest = np.abs(actual - expected).max(initial=0) / max(1, np.abs(expected).max(initial=0))
        if not largest <= TOLERANCE:
            return f"onnxruntime and PyTorch differ by {largest:.2g} on {name}; at most {TOLERANCE:g} is accepted"
    return ""


def _output(backend: Backend, stepwise: bool, audio: np.ndarray) -> np.ndarray:
    if not stepwise:
        whole, _ = backend.enhance(audio)
        if not backend.limits.needs_statistics:
            return whole
        (stats,) = backend.statistics(audio[:, : len(audio[0]) // 2 + 1])
        return np.concatenate((whole, backend.enhance(audio, stats)[0]), 1)
    parts, state = [], None
    for chunk in np.array_split(audio, 7, axis=1):
        out, state = backend.feed(chunk, state)
        parts.append(out)
    return np.concatenate((*parts, backend.flush(state)), 1)


def _signals(rate: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield names and audio (B, N) of several lengths and levels."""
    rng = np.random.default_rng(0)
    yield "one sample", np.full((1, 1), 0.5, np.float32)
    yield "silence", np.zeros((1, rate // 10), np.float32)
    for level_db in (0, -20, -60):
        noise = rng.standard_normal((2, rate // 8 + level_db)) * 10 ** (level_db / 20) / 4
        yield f"noise at {level_db - 12} dBFS", noise.astype(np.float32)
    yield "a voice in noise", _voice(rng, rate, rate + 77)


def _voice(rng: np.random.Generator, rate: int, length: int) -> np.ndarray:
    """Return (1, N) harmonics of a gliding pitch in three syllables a second and a little noise."""
    time = np.arange(length) / rate
    phase = 2 * np.pi * np.cumsum(140 + 40 * np.sin(2 * np.pi * 0.7 * time)) / rate
    voice = sum(np.sin(k * phase) / k for k in range(1, 25)) * np.sin(3 * np.pi * time).clip(0)
    return (0.2 * voice + 0.02 * rng.standard_normal(length)).astype(np.float32)[None]
