"""`Denoiser`: noisy audio in, clean audio of the same rate, shape, type, length and level out."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modelscope_ext.audio import (
    AudioError,
    StreamResampler,
    as_float,
    block_length,
    from_float,
    validate_format,
)
from modelscope_ext.inference.backend import Backend
from modelscope_ext.inference.chunking import EachAlone
from modelscope_ext.inference.file import FileReport, denoise_file
from modelscope_ext.inference.meter import BLOCK_S, level_gain
from modelscope_ext.inference.onnx_backend import OnnxBackend
from modelscope_ext.inference.recording import RecordingStats, scan_each
from modelscope_ext.inference.stream import DenoiseStream
from modelscope_ext.pretrained import MODELS, graph_of

if TYPE_CHECKING:  # ONNX files run without torch
    from torch import nn

#: Values of `band`.
BANDS = ("full", "speech")
#: Blocks of silence that are denoised before a stream of blocks begins.
REHEARSED_BLOCKS = 8
#: Samples of all channels that the warm-up may have; it is shorter than the model's where there are hundreds.
MOST_WARMUP = 2**25
#: For a recogniser: `Denoiser(wet=ASR_SAFE_WET, attenuation_limit_db=math.inf)`; benchmarks/README.md gives the reason.
ASR_SAFE_WET = 0.8


class Denoiser:
    """Removes noise from speech.

    Args:
        model: one of

            - None, the models in this package: "file" for arrays and files, "stream" for streams;
            - one of these names. A folder of that name is `./file`;
            - a model folder (`configuration.json` and weights);
            - an id of ModelScope's hub such as `iic/speech_frcrn_ans_cirm_16k`;
            - an ONNX file of `modelscope-ext export`, which onnxruntime runs without torch;
            - a network in eval mode.
        device: "cpu", "cuda" …; None is the CPU, where these networks run many times faster than real time, or the
            device of the given network. "openvino" runs an ONNX file of whole utterances by OpenVINO on the CPU.
        wet: 1 gives the denoised signal, 0 the input, values between a mixture.
        attenuation_limit_db: largest attenuation of noise, approximately; `math.inf` sets no limit. None takes what
            the model's configuration recommends.
        band: "full" keeps the speech above 8 kHz, where the recording has it, and lowers the noise there
            (`inference/full_band.py`). "speech" lowers all of it like noise.

    Raises:
        CheckpointError: the model folder is incomplete, damaged, or of an unknown architecture.
        ValueError: the ONNX file, the device or an option cannot be used.

    CRUSE networks adapt to the noise first: the first 2 s of an array or a file are fed to them time-reversed before
    it. A stream has no such warm-up.

    A Denoiser keeps no state between calls and several threads may use it. Rates are whole numbers of Hz.

    >>> import numpy as np
    >>> denoised = Denoiser()(np.zeros(48000, np.int16), 48000)
    >>> denoised.shape, denoised.dtype
    ((48000,), dtype('int16'))
    """

    def __init__(
        self,
        model: "str | Path | nn.Module | None" = None,
        device: str | None = None,
        *,
        wet: float = 1.0,
        attenuation_limit_db: float | None = None,
        band: str = "full",
    ) -> None:
        if band not in BANDS:
            raise ValueError(f"band must be one of {', '.join(BANDS)}, got {band!r}")
        if not 0 <= wet <= 1:
            raise ValueError(f"wet must be 0 … 1, got {wet}")
        if attenuation_limit_db is not None and not attenuation_limit_db >= 0:
            raise ValueError(f"attenuation_limit_db must be at least 0, got {attenuation_limit_db}")
        self.backend, self.band = _backend("file" if model is None else model, device), band
        self._device, self._other = device, model is None and MODELS["stream"] != MODELS["file"]
        self._wet, self._limit_db = wet, attenuation_limit_db
        self.dry_gain = self._dry_gain(self.backend)

    def __call__(self, audio: np.ndarray, sample_rate: int) -> np.ndarray:
        """Denoise an array.

        Args:
            audio: (N,) or (N, channels), floating point in -1 … 1 or integers over their range; N may be 0.
            sample_rate: Hz.

        Returns:
            The same shape and type.

        Raises:
            AudioError: another shape or type, or samples that are NaN, infinite or louder than any integer.
        """
        audio = np.asarray(audio)
        if audio.ndim not in (1, 2):
            raise AudioError(f"need (N,) or (N, channels) audio, got shape {audio.shape}")
        channels = 1 if audio.ndim == 1 else audio.shape[1]
        validate_format(sample_rate, channels)

        def blocks() -> Iterator[np.ndarray]:
            block = block_length(sample_rate, channels, BLOCK_S)
            return (audio[start : start + block] for start in range(0, max(1, len(audio)), block))

        parts = self._denoise(blocks(), sample_rate, channels, blocks)
        # Without a dtype, `concatenate` loses the byte order.
        return np.concatenate([part.reshape(-1, *audio.shape[1:]) for part in parts], dtype=audio.dtype)

    def file(
        self,
        source: str | Path,
        target: str | Path,
        progress: Callable[[float], object] | None = None,
        track: int | None = None,
        loudness: float | None = None,
    ) -> FileReport:
        """Denoise a file of any length into another one; memory does not grow with the length.

        Args:
            source: audio or video that libsndfile or FFmpeg reads.
            target: appears when it is complete. With the suffix of the source it is a file of the same kind: codec,
                bit depth or bit rate, tags and permissions. A video keeps its picture and other streams as they are.
            progress: called with the seconds of audio since its last call.
            track: number of the audio track to denoise, from 0 on. None takes all that `target` can hold.
            loudness: of each track of the result in LUFS by ITU-R BS.1770, such as -16, with a true peak of at most
                -1 dB. None keeps the level of the source.

        Raises:
            ValueError: nobody wants this loudness.
            AudioError: the source cannot be read or the target cannot be written; the message names the file.
        """
        return denoise_file(self._denoise, Path(source), Path(target), progress, track, loudness)

    def stream(self, sample_rate: int, channels: int = 1, block: int | None = None) -> DenoiseStream:
        """Return a stream with `feed(chunk) -> chunk`, `flush()` and `latency_ms`; see `DenoiseStream`.

        It has no warm-up as arrays and files may have: the output of the first second is less clean.

        Args:
            sample_rate: Hz.
            channels: of each chunk.
            block: samples of every chunk, in and out, for the callback of an audio program. The output is then
                `latency_ms` late. None takes chunks of any size and returns what is finished.

        Raises:
            ValueError: the network is not causal; it denoises arrays and files.
        """
        backend = self._live
        if not backend.causal:
            raise ValueError(
                f"{backend.name} needs a whole utterance before its first output, so it cannot stream; "
                'call the Denoiser with the whole array or a file, or stream with the model "stream"'
            )
        validate_format(sample_rate, channels)

        def make() -> DenoiseStream:
            return DenoiseStream(backend, int(sample_rate), channels, self._dry_gain(backend), self.band, block)

        if block is not None:  # the first calls of a network take much longer than later ones
            rehearsal = make()
            for _ in range(REHEARSED_BLOCKS + rehearsal.delay // block):
                rehearsal.feed(np.zeros((block, channels), np.float32))
        return make()

    @functools.cached_property
    def _live(self) -> Backend:
        """Return the back end of streams."""
        return _backend("stream", self._device) if self._other else self.backend

    def _dry_gain(self, backend: Backend) -> float:
        """Return the share of the input in the output of a back end."""
        limit_db = backend.limits.attenuation_limit_db if self._limit_db is None else self._limit_db
        return 1 - self._wet * (1 - 10 ** (-limit_db / 20))

    def _stream(
        self, sample_rate: int, channels: int, blocks: Callable[[], Iterable[np.ndarray]] | None = None
    ) -> DenoiseStream:
        """Return a stream of the network for files; `blocks` gives the whole input to those that need it first."""
        validate_format(sample_rate, channels)
        backend = self.backend
        if not backend.causal:
            stats = [RecordingStats()] * channels
            limits = backend.limits
            if limits.reference_level or limits.unit_level or limits.needs_statistics:
                stats = scan_each(backend, _resampled(blocks(), sample_rate, channels, backend.sample_rate))
            backend = EachAlone(backend, stats)
        return DenoiseStream(backend, int(sample_rate), channels, self.dry_gain, self.band)

    def _denoise(
        self, blocks: Iterable[np.ndarray], rate: int, channels: int, again: Callable[[], Iterable[np.ndarray]]
    ) -> Iterator[np.ndarray]:
        """Yield the output of each block and the rest. The warm-up goes before the first block.

        `again` gives the same blocks, for a recording far from the levels of speech: it is scaled, and back.
        """
        stream = self._stream(rate, channels, again)
        blocks, warmup = iter(blocks), round(self.backend.limits.warmup_s * rate)
        first = list(itertools.islice(blocks, 1))
        warmup = min(warmup, MOST_WARMUP // max(1, first[0][:1].size)) if first else 0
        while sum(map(len, first)) <= warmup and (block := next(blocks, None)) is not None:
            first.append(block)
        gain, dtype = None, np.dtype(np.float32)
        if first and not (self.backend.limits.reference_level or self.backend.limits.unit_level):
            gain, dtype = level_gain(first[0], again), first[0].dtype
        before = np.concatenate(first, dtype=first[0].dtype)[warmup:0:-1] if warmup else ()
        discard, size = len(before), max(1, *map(len, first)) if first else 1
        pieces = (before[start : start + size] for start in range(0, discard, size))
        for block in itertools.chain(pieces, first, blocks):
            out = stream.feed(block if gain is None else as_float(block) * gain)
            yield (out if gain is None else from_float(out / gain, dtype))[discard:]
            discard -= min(discard, len(out))
        out = stream.flush()
        yield (out if gain is None else from_float(out / gain, dtype))[discard:]


def _resampled(blocks: Iterable[np.ndarray], rate: int, channels: int, to: int) -> Iterator[np.ndarray]:
    """Yield (n,) or (n, channels) blocks as (channels, n) at the network's rate."""
    resampler = StreamResampler(int(rate), to, channels) if rate != to else None
    for block in blocks:
        samples = as_float(block).reshape(len(block), channels)
        yield (resampler.feed(samples) if resampler else samples).T
    if resampler:
        yield resampler.flush().T


def _backend(model: "str | Path | nn.Module", device: str | None) -> Backend:
    if isinstance(model, (str, Path)):
        model = MODELS.get(model, model)
        if Path(model).suffix.lower() == ".onnx":
            return OnnxBackend(model, device)
        if device in (None, "cpu") and (graph := graph_of(model)):
            return OnnxBackend(graph)
    if device == "openvino":
        raise ValueError(
            "OpenVINO runs ONNX files of whole utterances: write one by `modelscope-ext export --utterance`, "
            "and give it as the model"
        )
    try:
        from modelscope_ext.inference.torch_backend import load_backend  # imports torch
    except ModuleNotFoundError as error:
        what = f"device {device!r}" if model in MODELS.values() else "a model folder or id"
        raise ModuleNotFoundError(f"{what} needs {error.name}: pip install 'modelscope-ext[full]'") from error
    return load_backend(model, device)
