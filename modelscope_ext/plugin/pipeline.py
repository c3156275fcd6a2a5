"""Noise suppression as a ModelScope pipeline."""

import logging
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from modelscope.outputs import OutputKeys
from modelscope.pipelines.base import Pipeline
from modelscope.pipelines.builder import PIPELINES

from modelscope_ext.atomic import require_apart
from modelscope_ext.audio import SAMPLE_RATE, SUFFIXES, from_float, write_audio
from modelscope_ext.checkpoint import has_weights, load_model
from modelscope_ext.inference.denoiser import Denoiser
from modelscope_ext.inference.meter import full_scale_gain
from modelscope_ext.inference.recording import reference_gain
from modelscope_ext.models import CRUSE_TYPE, DUAL_PATH_TYPE, FRCRN_TYPE
from modelscope_ext.plugin.names import TASK
from modelscope_ext.plugin.preprocessor import AudioPreprocessor

logger = logging.getLogger(__name__)

LEVELS = ("input", "reference")
#: Length that ModelScope's own pipeline, and `output_level="reference"`, denoise in one piece.
WHOLE_S = 120


@PIPELINES.register_module(TASK, module_name=CRUSE_TYPE)
@PIPELINES.register_module(TASK, module_name=DUAL_PATH_TYPE)
@PIPELINES.register_module(TASK, module_name=FRCRN_TYPE, force=True)
class NoiseSuppressionPipeline(Pipeline):
    """`pipeline(Tasks.acoustic_noise_suppression, model=FOLDER_OR_ID)`.

    The input is a path, a URL, bytes, an array (with `sample_rate=`), a row of a data set, a list of these or an
    `MsDataset`. The result of each is `{OutputKeys.OUTPUT_PCM: bytes}`: 16-bit mono at 16 kHz with the length of the
    input, clipped at full scale. Samples far above it, as floats in ±32768, are scaled, with a warning.

    Options, of the pipeline and of each call:
        output_path: also write a WAV file. A list of inputs needs a list of paths or a folder for files with the
            names of the inputs.
        output_level: "input" keeps the level of the input. "reference" gives the samples of ModelScope's own FRCRN
            pipeline: first channel, level near -25 dBFS. Above 120 s its chunks are longer than there.
    """

    def __init__(self, model: Any, output_level: str = "input", **kwargs) -> None:
        # The released configuration has no preprocessor, and ModelScope would warn about it.
        preprocessor = kwargs.pop("preprocessor", None) or AudioPreprocessor()
        super().__init__(model=model, preprocessor=preprocessor, auto_collate=False, **kwargs)
        if not has_weights(self.model.model_dir):
            load_model(self.model.model_dir)  # raises, and says where to get the weights
        self.model.eval()
        self.output_level = output_level

    def __call__(self, input: Any, *args, output_path: Any = None, **kwargs) -> Any:
        """Denoise one input or each of a list."""
        if output_path is None:
            return super().__call__(input, *args, **kwargs)
        if not isinstance(input, list):
            _require_apart([output_path], [input])
            return super().__call__(input, *args, output_path=output_path, **kwargs)
        kwargs.pop("batch_size", None)
        paths = _paths(input, output_path)
        _require_apart([path for _, path in paths], input)
        return [super(NoiseSuppressionPipeline, self).__call__(i, output_path=p, **kwargs) for i, p in paths]

    def _sanitize_parameters(self, **parameters) -> tuple[dict, dict, dict]:
        level = parameters.pop("output_level", self.output_level)
        if level not in LEVELS:
            raise ValueError(f"output_level must be one of {', '.join(LEVELS)}, got {level!r}")
        reading = {"reference": level == "reference"}
        if "sample_rate" in parameters:
            reading["sample_rate"] = parameters.pop("sample_rate")
        return reading, {"output_level": level}, parameters

    def _check_input(self, input: Any) -> None:
        """Leave the check to the preprocessor, whose message lists the accepted types."""

    def preprocess(self, inputs: Any, **parameters) -> dict[str, Any]:
        """Read the input; see `AudioPreprocessor`."""
        return self.preprocessor(inputs, **parameters)

    def forward(self, inputs: dict[str, Any], output_level: str = "input", **parameters) -> dict[str, Any]:
        """Denoise (N,) samples or a list of them."""
        if isinstance(inputs["noisy"], list):
            outputs = [self.forward({"noisy": noisy}, output_level)[OutputKeys.OUTPUT_PCM] for noisy in inputs["noisy"]]
            return {OutputKeys.OUTPUT_PCM: outputs}
        if output_level == "reference":
            pcm = _reference(self.model.model, inputs["noisy"])
        else:
            noisy = inputs["noisy"]
            gain = full_scale_gain(float(np.abs(noisy).max(initial=0)))
            if gain != 1:
                logger.warning("the samples exceed ±1, which 16 bits hold: the result is 1/%.5g of them", 1 / gain)
            clean = Denoiser(self.model.model)(noisy * np.float32(gain), SAMPLE_RATE)
            pcm = from_float(clean, np.dtype(np.int16))
        return {OutputKeys.OUTPUT_PCM: pcm.tobytes()}

    def postprocess(self, inputs: dict[str, Any], output_path: str | None = None, **parameters) -> dict[str, Any]:
        """Write `output_path` if it is given."""
        if output_path is not None:
            with write_audio(output_path, SAMPLE_RATE, 1, "WAV", "PCM_16") as file:
                file.write(np.frombuffer(inputs[OutputKeys.OUTPUT_PCM], np.int16))
        return inputs


def _require_apart(outputs: list, inputs: list) -> None:
    """Raise OSError if an output is the file of an input."""
    require_apart(outputs, [each for each in inputs if isinstance(each, (str, os.PathLike))])


def _paths(inputs: list, output: Any) -> list[tuple[Any, Any]]:
    """Return (input, output path) of each input or raise ValueError if two have one path."""
    if not isinstance(output, (list, tuple)):
        if Path(output).suffix.lower() in SUFFIXES:
            raise ValueError(f"output_path {output} is one file for {len(inputs)} inputs; give a list, or a folder")
        names = [Path(i.split("?")[0]).stem if isinstance(i, str) else f"{n:06d}" for n, i in enumerate(inputs)]
        output = [Path(output) / f"{name}.wav" for name in names]
    if len(output) != len(inputs):
        raise ValueError(f"{len(inputs)} inputs and {len(output)} output paths")
    if twice := {str(path) for path in output if list(map(str, output)).count(str(path)) > 1}:
        raise ValueError(f"several results would go to {', '.join(sorted(twice))}; give a list of output paths")
    return list(zip(inputs, output, strict=True))


@torch.inference_mode()
def _reference(net: torch.nn.Module, noisy: np.ndarray) -> np.ndarray:
    """Return (N,) int16 as ModelScope's own pipeline does: its level, padding and rounding."""
    if not hasattr(net, "outputs"):
        raise ValueError("output_level='reference' is the level of FRCRN's own pipeline; this model is not an FRCRN")
    length, second = len(noisy), SAMPLE_RATE
    audio = noisy[None].astype(np.float64)
    audio = torch.from_numpy((audio * reference_gain(audio)).astype(np.float32))
    if length > WHOLE_S * second:
        return _truncated(Denoiser(net, attenuation_limit_db=math.inf)(audio[0].numpy(), SAMPLE_RATE))
    if length < second * 7 // 4:
        padded = second if length < second else second * 7 // 4
    else:
        stride = second * 3 // 4
        rest = (length - second) % stride
        padded = length + (second + rest if rest else 0)
    audio = torch.nn.functional.pad(audio, (0, padded - length)).to(next(net.parameters()).device)
    return _truncated(net.outputs(audio)["wav_l2"][0, :length].cpu().numpy())


def _truncated(audio: np.ndarray) -> np.ndarray:
    """Return floats as int16, rounded towards zero and clipped."""
    return np.trunc(audio * np.float32(32768)).clip(-32768, 32767).astype(np.int16)
