"""Export to ONNX by `modelscope.exporters.Exporter`."""

from pathlib import Path

from modelscope.exporters.base import Exporter
from modelscope.exporters.builder import EXPORTERS
from modelscope.utils.constant import ModelFile

from modelscope_ext.checkpoint import has_weights, load_model
from modelscope_ext.export import OPSET, export_onnx
from modelscope_ext.models import CRUSE_TYPE, DUAL_PATH_TYPE, FRCRN_TYPE
from modelscope_ext.plugin.names import TASK


@EXPORTERS.register_module(TASK, module_name=CRUSE_TYPE)
@EXPORTERS.register_module(TASK, module_name=DUAL_PATH_TYPE)
@EXPORTERS.register_module(TASK, module_name=FRCRN_TYPE)
class NoiseSuppressionExporter(Exporter):
    """`Exporter.from_model(MODEL_OR_FOLDER_OR_ID).export_onnx(output_dir=…)`."""

    def export_onnx(
        self, output_dir: str, opset: int = OPSET, utterance: bool | None = None, int8: bool = False
    ) -> dict[str, str]:
        """Write `model.onnx` and compare it with PyTorch; see `modelscope_ext.export.export_onnx`.

        Args:
            output_dir: made if missing.
            opset: only the default is supported.
            utterance: export whole utterances instead of a step with its state. None exports a step if possible.
            int8: export the matrices of a CRUSE's step in 8 bits.

        Returns:
            `{"model": path of the file}`.

        Raises:
            CheckpointError: the model folder has no weights.
            ExportError: the results of the file and the network differ.
        """
        if opset != OPSET:
            raise ValueError(f"opset {opset} is not supported; only {OPSET} is")
        if not has_weights(self.model.model_dir):
            load_model(self.model.model_dir)  # raises, and says where to get the weights
        path = Path(output_dir) / ModelFile.ONNX_MODEL_FILE
        export_onnx(self.model.model.eval(), path, utterance, int8)
        return {"model": str(path)}
