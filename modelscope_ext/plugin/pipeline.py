"""Noise suppression as a ModelScope pipeline."""

from typing import Any

import numpy as np
from modelscope.outputs import OutputKeys
from modelscope.pipelines.base import Pipeline
from modelscope.pipelines.builder import PIPELINES

from modelscope_ext.audio import write_audio
from modelscope_ext.enhance import Denoiser
from modelscope_ext.plugin.names import CRUSE_TYPE, TASK
from modelscope_ext.plugin.preprocessor import SAMPLE_RATE
from modelscope_ext.streaming import from_float

__all__ = ["NoiseSuppressionPipeline"]


@PIPELINES.register_module(TASK, module_name=CRUSE_TYPE)
class NoiseSuppressionPipeline(Pipeline):
    """`pipeline(Tasks.acoustic_noise_suppression, model=FOLDER)`.

    Called with a path, a URL, bytes or an array (and `sample_rate=`), it returns `{OutputKeys.OUTPUT_PCM: bytes}`:
    16-bit mono at 16 kHz, at the level of the input, peaks clipped at full scale. `output_path` also writes a file.
    """

    def __init__(self, model: Any, **kwargs) -> None:
        super().__init__(model=model, auto_collate=False, **kwargs)

    def _sanitize_parameters(self, **parameters) -> tuple[dict, dict, dict]:
        rate = {"sample_rate": parameters.pop("sample_rate")} if "sample_rate" in parameters else {}
        return rate, {}, parameters

    def preprocess(self, inputs: Any, **parameters) -> dict[str, Any]:
        """Reads the input; see `AudioPreprocessor`."""
        return self.preprocessor(inputs, **parameters)

    def forward(self, inputs: dict[str, Any], **parameters) -> dict[str, Any]:
        """Denoises (N,) samples."""
        denoised = Denoiser(self.model.model)(inputs["noisy"], SAMPLE_RATE)
        pcm = from_float(denoised, np.dtype(np.int16))
        return {OutputKeys.OUTPUT_PCM: pcm.tobytes()}

    def postprocess(self, inputs: dict[str, Any], output_path: str | None = None, **parameters) -> dict[str, Any]:
        """Writes `output_path` if there is one."""
        if output_path is not None:
            with write_audio(output_path, SAMPLE_RATE, 1, "WAV", "PCM_16") as file:
                file.write(np.frombuffer(inputs[OutputKeys.OUTPUT_PCM], np.int16))
        return inputs
