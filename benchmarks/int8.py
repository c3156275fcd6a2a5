"""FRCRN in 8 bits on a CPU, by the two runtimes that offer it: how fast, and what it loses. Prints Markdown.

    pip install openvino nncf
    python benchmarks/int8.py --model FOLDER --pairs PAIRS

FOLDER is an FRCRN's model folder, PAIRS has `noisy/` and `clean/`; the first half calibrates, the second is measured.
One thread. Processors without VNNI gain nothing from 8 bits: they add the products in 16 bits first.
"""

import argparse
import tempfile
import time

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

from modelscope_ext.audio import read_mono
from modelscope_ext.checkpoint import load_model
from modelscope_ext.data.matching import find_pairs
from modelscope_ext.export import export_onnx
from modelscope_ext.metrics import scores
from modelscope_ext.utterances import reference_gain

RATE = 16000
SAMPLES = 2 * RATE


class Reader(CalibrationDataReader):
    def __init__(self, clips: list[np.ndarray]) -> None:
        self.clips = iter(clips)

    def get_next(self) -> dict | None:
        clip = next(self.clips, None)
        return None if clip is None else {"audio": clip}


def by_onnxruntime(path: str, clips: list[np.ndarray], folder: str):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    small = f"{folder}/int8.onnx"
    # A reduced range: without VNNI, sums of two products of 8 bits overflow otherwise.
    quantize_static(path, small, Reader(clips), quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=True)
    sessions = [onnxruntime.InferenceSession(each, options) for each in (path, small)]
    return [lambda x, session=session: session.run(None, {"audio": x})[0] for session in sessions]


def by_openvino(path: str, clips: list[np.ndarray], folder: str):
    import nncf
    import openvino

    core = openvino.Core()
    core.set_property("CPU", {"INFERENCE_NUM_THREADS": 1})
    model = core.read_model(path)
    model.reshape({"audio": [1, SAMPLES]})
    small = nncf.quantize(model, nncf.Dataset(clips), subset_size=len(clips))
    compiled = [core.compile_model(each, "CPU") for each in (model, small)]
    return [lambda x, c=each: c([x])[0] for each in compiled]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--pairs", required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    net = load_model(args.model)
    pairs = [tuple(read_mono(path, RATE)[:SAMPLES] for path in (p.noisy, p.clean)) for p in find_pairs(args.pairs)]
    noisy = [(noisy * reference_gain(noisy[None])[0]).astype(np.float32)[None] for noisy, _ in pairs]
    half = len(pairs) // 2
    print("| runtime | 32 bits, s | 8 bits, s | SI-SDR between, dB | WB-PESQ 32 → 8 bits | SI-SDR 32 → 8 bits, dB |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        path = f"{folder}/frcrn.onnx"
        export_onnx(net, path)
        start = time.perf_counter()
        ours = [net.enhance(torch.from_numpy(clip)).numpy() for clip in noisy[half:]]
        took = (time.perf_counter() - start) / len(ours) / SAMPLES * RATE
        row("this package, no 8 bits", ours, ours, pairs[half:], (took, None))
        for name, quantized in (("ONNX Runtime", by_onnxruntime), ("OpenVINO", by_openvino)):
            outs, times = [], []
            for run in quantized(path, noisy[:half], folder):
                run(noisy[0])
                start = time.perf_counter()
                outs.append([run(clip) for clip in noisy[half:]])
                times.append((time.perf_counter() - start) / half / SAMPLES * RATE)
            row(name, *outs, pairs[half:], times)


def row(name: str, full: list, small: list, pairs: list, times) -> None:
    between = [10 * np.log10((a**2).sum() / max(((a - b) ** 2).sum(), 1e-12)) for a, b in zip(full, small, strict=True)]
    marks = []
    for outs in (full, small):
        both = [(out[0], clean) for out, (_, clean) in zip(outs, pairs, strict=True)]
        marks.append(np.mean([list(scores(*each, ("wb_pesq", "si_sdr")).values()) for each in both], 0))
    seconds = " | ".join("" if each is None else f"{each:.2f}" for each in times)
    told = " | ".join(f"{a:.2f} → {b:.2f}" for a, b in zip(*marks, strict=True))
    print(f"| {name} | {seconds} | {np.mean(between):.1f} | {told} |", flush=True)


if __name__ == "__main__":
    main()
