"""The front door: noisy audio in, clean audio out, of the same rate, shape, type, length and level."""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modelscope_ext.audio import (
    AudioError,
    StreamResampler,
    as_float,
    block_length,
    open_audio,
    output_format,
    read_blocks,
    validate_format,
    write_audio,
)
from modelscope_ext.inference.backend import Backend
from modelscope_ext.inference.chunking import ChunkedInference, reference_gain
from modelscope_ext.inference.recording import recording_means
from modelscope_ext.inference.stream import DenoiseStream

if TYPE_CHECKING:  # torch is imported when it is needed: not for ONNX files
    from torch import nn

__all__ = ["ASR_SAFE_WET", "Denoiser"]

#: Seconds of audio in memory at a time.
BLOCK_S = 10.0
#: Gives the blocks of an input from its beginning on.
Blocks = Callable[[], Iterable[np.ndarray]]
#: For a recogniser: `Denoiser(wet=ASR_SAFE_WET, attenuation_limit_db=math.inf)`; benchmarks/README.md says why.
ASR_SAFE_WET = 0.8


class Denoiser:
    """Removes noise from speech.

    Args:
        model: a model folder (`configuration.json` and weights), an id of ModelScope's hub such as
            `iic/speech_frcrn_ans_cirm_16k`, an ONNX file that `modelscope-ext export` wrote (onnxruntime runs it,
            and torch is not imported), or a network in eval mode; None takes the model inside this package.
        device: "cpu", "cuda" …; None is the CPU, where these networks run many times faster than real time, or
            where the network given is. "openvino" has OpenVINO run an ONNX file of whole utterances on the CPU.
        wet: 1 gives the denoised signal, 0 the input, in between a mixture of both.
        attenuation_limit_db: noise is lowered by at most about so many dB; `math.inf` sets no limit. None takes what
            the model's configuration recommends.

    Raises:
        CheckpointError: the model folder is incomplete, damaged, or of an unknown architecture.
        ValueError: the ONNX file, the device or an option cannot be used.

    A CRUSE hears the first 2 s of an array or a file before it, backwards, so that it knows the noise when it begins; a
    stream has no such lead-in.

    A Denoiser keeps nothing between calls and may be used from several threads. Rates are whole numbers of Hz; audio
    above 8 kHz is beyond the networks and comes out only by way of `wet` and `attenuation_limit_db`.

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
    ) -> None:
        if not 0 <= wet <= 1:
            raise ValueError(f"wet must be 0 … 1, got {wet}")
        self.engine = _engine(model, device)
        if attenuation_limit_db is None:
            attenuation_limit_db = self.engine.attenuation_limit_db
        if not attenuation_limit_db >= 0:
            raise ValueError(f"attenuation_limit_db must be at least 0, got {attenuation_limit_db}")
        self.noisy_share = 1 - wet * (1 - 10 ** (-attenuation_limit_db / 20))

    def __call__(self, audio: np.ndarray, sample_rate: int) -> np.ndarray:
        """Denoises an array.

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

        stream = self._stream(sample_rate, channels, blocks)
        parts = [stream.feed(block) for block in blocks()]
        parts.append(stream.flush().reshape(-1, *audio.shape[1:]))
        return np.concatenate(parts, dtype=audio.dtype)  # by itself it loses the order of bytes

    def file(self, source: str | Path, target: str | Path, progress: Callable[[float], object] | None = None) -> None:
        """Denoises a file of any length into another; memory does not grow with the length.

        Args:
            source: anything that soundfile reads.
            target: written beside and renamed when it is whole; format and subtype are the source's where the suffix
                is the same.
            progress: called with the seconds of audio done since its last call.

        Raises:
            AudioError: the source cannot be read or the target cannot be written; the message names the file.
        """
        source, target = Path(source), Path(target)
        if os.path.exists(target) and os.path.exists(source) and target.samefile(source):
            raise AudioError(f"{target}: would overwrite its own input")
        with open_audio(source) as file:
            format, subtype = output_format(file, target)
            rate, channels = file.samplerate, file.channels
            stream = self._stream(rate, channels, lambda: _blocks_of(source))
            with write_audio(target, rate, channels, format, subtype) as out:
                for block in read_blocks(file, BLOCK_S):
                    out.write(stream.feed(block))
                    if progress:
                        progress(len(block) / rate)
                out.write(stream.flush().reshape(-1, channels))

    def stream(self, sample_rate: int, channels: int = 1) -> DenoiseStream:
        """A stream with `feed(chunk) -> chunk`, `flush()` and `latency_ms`; see `DenoiseStream`.

        It begins without having heard anything, where arrays and files have a lead-in: so it needs about a second to
        know the noise, and what comes out then is less clean than of the same audio as an array.

        Raises:
            ValueError: the network is not causal; it denoises arrays and files.
        """
        if not self.engine.causal:
            raise ValueError(
                f"{self.engine.name} hears a whole utterance before it answers, so it cannot stream; "
                "call the Denoiser with the whole array or a file, or stream with a CRUSE, such as the default model"
            )
        return self._stream(sample_rate, channels)

    def _stream(self, sample_rate: int, channels: int, blocks: Blocks | None = None) -> DenoiseStream:
        """`blocks` gives the whole input, as often as it is asked, where all of it is there."""
        validate_format(sample_rate, channels)
        engine = self.engine
        lead_in_s = engine.lead_in_s if blocks else 0.0
        if not engine.causal:

            def heard() -> Iterator[np.ndarray]:
                return _resampled(blocks(), sample_rate, channels, self.engine.sample_rate)

            gain = reference_gain(heard) if engine.reference_level else np.ones((1, 1))
            engine = ChunkedInference(engine, gain, recording_means(engine, gain, heard), batch=engine.batch)
        return DenoiseStream(engine, int(sample_rate), channels, self.noisy_share, lead_in_s)


def _blocks_of(path: Path) -> Iterator[np.ndarray]:
    with open_audio(path) as file:
        yield from read_blocks(file, BLOCK_S)


def _resampled(blocks: Iterable[np.ndarray], rate: int, channels: int, to: int) -> Iterator[np.ndarray]:
    """What a network at another rate hears of (n,) or (n, channels) blocks: (channels, n) each."""
    resampler = StreamResampler(int(rate), to, channels) if rate != to else None
    for block in blocks:
        samples = as_float(block).reshape(len(block), channels)
        yield (resampler.feed(samples) if resampler else samples).T
    if resampler:
        yield resampler.flush().T


def _engine(model: "str | Path | nn.Module | None", device: str | None) -> Backend:
    if isinstance(model, (str, Path)) and Path(model).suffix.lower() == ".onnx":
        from modelscope_ext.inference.onnx_backend import OnnxBackend

        return OnnxBackend(model, device)
    if device == "openvino":
        raise ValueError(
            "OpenVINO runs ONNX files of whole utterances: write one by `modelscope-ext export --utterance`, "
            "and give it as the model"
        )
    from modelscope_ext.checkpoint import load_model
    from modelscope_ext.hub import model_folder
    from modelscope_ext.inference.torch_backend import TorchBackend
    from modelscope_ext.models import to_device
    from modelscope_ext.pretrained import DEFAULT

    if model is None or isinstance(model, (str, Path)):
        model = load_model(model_folder(model if model is not None else DEFAULT))
    return TorchBackend(to_device(model, device) if device else model)
