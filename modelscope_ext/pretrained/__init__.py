"""The models in the package: model folders like others, and ONNX files of them for inference without torch."""

from pathlib import Path

__all__ = ["DEFAULT", "HIGH_BAND", "MODELS", "graph_of", "weights_of"]

#: Causal, with weights that this project trained; the `README.md` beside them is the card.
DEFAULT = Path(__file__).parent / "speech_cruse_ans_16k"
#: By their names: for arrays and files, in both directions of time, and for streams.
MODELS = {"file": DEFAULT.parent / "speech_cruse_bidirectional_ans_16k", "stream": DEFAULT}
#: ONNX file of `inference.band_gains`; the card is beside it.
HIGH_BAND = Path(__file__).parent / "high_band" / "model.onnx"


def graph_of(model: str | Path) -> Path | None:
    """Return the ONNX file of a model folder in this package, None for another folder.

    A file beside other weights may be older than these.
    """
    folder = Path(model).absolute()
    return folder / "model.onnx" if folder.parent == DEFAULT.parent else None


def weights_of(graph: Path) -> Path | None:
    """Return the weights that an ONNX file in this package lacks, None for another file: the wheel has them once."""
    folder = graph.absolute().parent
    weights = folder / "model.safetensors"
    return weights if folder.parent == DEFAULT.parent and weights.exists() else None
