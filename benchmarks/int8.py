"""Compare FRCRN in fewer bits on a CPU by OpenVINO with the stock pipeline: speed and quality. Prints Markdown.

    pip install 'modelscope-ext[openvino]' nncf
    python benchmarks/int8.py --model FOLDER --pairs PAIRS [--threads 2] [--rounds 3]

FOLDER is a trained FRCRN's model folder, PAIRS has `noisy/` and `clean/`. The first half calibrates 8 bits, the second
is measured. Speed is that of a 5-s file from wav to wav, all in turn in one process. Nothing else should run.
"""

import modelscope_ext  # noqa: F401, I001 (before torch: it shortens how long threads spin, for all)

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import soundfile
import torch
from frcrn import ROOT, silent
from modelscope.models.audio.ans.frcrn import FRCRNDecorator
from modelscope.pipelines.audio.ans_pipeline import ANSPipeline as StockPipeline

from modelscope_ext import Denoiser
from modelscope_ext.audio import read_mono
from modelscope_ext.checkpoint import load_model, save_released
from modelscope_ext.data.pairs import find_pairs
from modelscope_ext.export import export_onnx
from modelscope_ext.metrics import scores
from modelscope_ext.plugin.pipeline import NoiseSuppressionPipeline
from modelscope_ext.inference.onnx_backend import OnnxBackend
from modelscope_ext.inference.recording import reference_gain

RATE, SECONDS, CALIBRATED = 16000, 5, 4


class InBits(OnnxBackend):
    """A file's back end that runs a compiled model of OpenVINO on utterances."""

    def __init__(self, path: Path, compiled: object) -> None:
        super().__init__(path)
        self.compiled = compiled

    def enhance(self, audio: np.ndarray, stats: np.ndarray | None = None, more: bool = False) -> tuple:
        """Denoise short files, which need no statistics."""
        return self.compiled.create_infer_request().infer({"audio": audio})["enhanced"], None


def in_8_bits(path: Path, noisy: list[np.ndarray], threads: int) -> Denoiser:
    """Convolutions and what they take in 8 bits, calibrated on recordings; all else as OpenVINO has it."""
    import nncf
    import openvino

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path.with_name("folded.onnx"))  # pairs of weights made one; quiet below
    options.log_severity_level = 3
    onnxruntime.InferenceSession(path, options)
    core = openvino.Core()
    model = core.read_model(options.optimized_model_filepath)
    clips = [np.resize(audio * reference_gain(audio[None])[0], (1, CALIBRATED * RATE)) for audio in noisy]
    others = nncf.IgnoredScope(types=["Add", "MatMul", "Multiply", "Subtract"])
    small = nncf.quantize(
        model,
        nncf.Dataset([clip.astype(np.float32) for clip in clips]),
        subset_size=len(clips),
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=others,
    )
    compiled = core.compile_model(small, "CPU", {"INFERENCE_NUM_THREADS": threads})
    denoiser = Denoiser(path)
    denoiser.backend = InBits(path, compiled)
    return denoiser


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--pairs", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    os.environ["OMP_NUM_THREADS"] = str(args.threads)  # of onnxruntime and OpenVINO, in OnnxBackend
    configuration = json.loads((ROOT / "configuration.json").read_text())
    options = {key: value for key, value in configuration["model"].items() if key != "type"}
    net = load_model(args.model)
    pairs = [tuple(read_mono(path, RATE) for path in (pair.noisy, pair.clean)) for pair in find_pairs(args.pairs)]
    half = len(pairs) // 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "configuration.json").write_text(json.dumps(configuration))
        save_released(net, folder / "pytorch_model.bin")
        export_onnx(net, folder / "frcrn.onnx")
        noisy = [noisy for noisy, _ in pairs]
        soundfile.write(folder / "noisy.wav", np.resize(noisy[0], SECONDS * RATE), RATE)
        stock = silent(lambda: FRCRNDecorator(name, **options).eval())
        systems = {
            "this package, 32 bits": Denoiser(net),
            "onnxruntime, 32 bits": Denoiser(folder / "frcrn.onnx"),
            "OpenVINO, as it is": Denoiser(folder / "frcrn.onnx", device="openvino"),
            "OpenVINO, convolutions in 8 bits": in_8_bits(folder / "frcrn.onnx", noisy[:half], args.threads),
        }
        wav, out = str(folder / "noisy.wav"), str(folder / "out.wav")
        pipelines = {
            "stock pipeline": StockPipeline(model=stock, preprocessor=lambda x: x),
            "our pipeline": NoiseSuppressionPipeline(model=name),
        }
        works = {key: lambda pipeline=pipeline: pipeline(wav) for key, pipeline in pipelines.items()}
        works |= {key: lambda denoiser=denoiser: denoiser.file(wav, out) for key, denoiser in systems.items()}
        took: dict[str, list[float]] = {key: [] for key in works}
        for turn in range(args.rounds + 1):
            for key, work in works.items():
                start = time.perf_counter()
                silent(work)
                if turn:
                    took[key].append(time.perf_counter() - start)
        title = f"{SECONDS}-s file, {args.threads} threads"
        print(f"\n| {title} | s | of the stock pipeline | SI-SDR to ours, dB | WB-PESQ | SI-SDR, dB |")
        print("|---|---|---|---|---|---|")
        outs = {key: [denoiser(audio, RATE) for audio in noisy[half:]] for key, denoiser in systems.items()}
        ours = outs["this package, 32 bits"]
        for key, seconds in took.items():
            ratios = sorted(s / o for s, o in zip(took["stock pipeline"], seconds, strict=True))
            cells = f"{min(seconds):.2f} | {ratios[0]:.2f} … {ratios[-1]:.2f} x"
            print(f"| {key} | {cells} | {marks(outs[key], ours, pairs[half:]) if key in outs else '| |'} |")


def marks(outs: list, ours: list, pairs: list) -> str:
    between = [10 * np.log10((a**2).sum() / max(((a - b) ** 2).sum(), 1e-12)) for a, b in zip(ours, outs, strict=True)]
    rows = [scores(out, clean, ("wb_pesq", "si_sdr")) for out, (_, clean) in zip(outs, pairs, strict=True)]
    pesq, si_sdr = (np.mean([row[key] for row in rows]) for key in ("wb_pesq", "si_sdr"))
    return f"{np.mean(between):.1f} | {pesq:.3f} | {si_sdr:.2f}"


if __name__ == "__main__":
    main()
