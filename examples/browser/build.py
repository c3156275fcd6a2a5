"""Build the page that denoises in the browser into a folder for any static host: python examples/browser/build.py OUT

It needs npm, which fetches onnxruntime-web, mediabunny (reads recordings and videos) and esbuild into build/browser.
"""

import hashlib
import json
import logging
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import soundfile
from onnx import helper, numpy_helper

import modelscope_ext
from modelscope_ext.export import export_onnx
from modelscope_ext.pretrained import HIGH_BAND

HERE = Path(__file__).parent
WORK = HERE.parent.parent / "build" / "browser"
SCRIPTS = ["page.js", "worker.js", "live.js"]
RUNTIME = ["ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"]
RECORDING = HERE.parent / "noisy.wav"
#: Size of a step of weights; those of sigmoid gates are larger, because less comes of their errors.
STEP, UPDATE, RESET, NEW = 0.0027, 3, 4, 1
#: Share of the mean power that is added to the power of each input: other recordings differ from `RECORDING`.
DAMPING = 0.1


def build(out: Path) -> None:
    """Write the page, its scripts, the runtime, the model and an example; `out` needs nothing else."""
    out.mkdir(parents=True, exist_ok=True)
    shutil.copytree(HERE, WORK, dirs_exist_ok=True)
    subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund"], cwd=WORK, check=True)
    options = ["--bundle", "--minify", "--format=esm", "--log-level=warning"]
    options += [
        f"--alias:onnxruntime-web/wasm=./{RUNTIME[0]}",
        f"--external:./{RUNTIME[0]}",
        f"--outdir={out.resolve()}",
    ]
    subprocess.run(["npx", "esbuild", *SCRIPTS, *options], cwd=WORK, check=True)
    for name in RUNTIME:
        shutil.copy(WORK / "node_modules" / "onnxruntime-web" / "dist" / name, out)
    shutil.copy(HERE / "index.html", out)
    shutil.copy(Path(modelscope_ext.__file__).parent / "templates" / "example.mp3", out)
    shutil.copy(HIGH_BAND, out / "high_band.onnx")
    write_model(out)
    names = ["index.html", *SCRIPTS, *RUNTIME, "example.mp3", "model.json", "model.deflate", "high_band.onnx"]
    version = hashlib.sha256(b"".join((out / name).read_bytes() for name in names)).hexdigest()
    text = (HERE / "offline.js").read_text().replace("__FILES__", json.dumps(["./", *names]))
    (out / "offline.js").write_text(text.replace("__VERSION__", json.dumps(version[:16])))


def on_post_build(config: dict) -> None:
    """Add the page to the site of the documents (a hook of mkdocs)."""
    if shutil.which("npm"):
        build(Path(config["site_dir"]) / "try")
    else:
        logging.getLogger("mkdocs.hooks").warning("there is no npm: the site has no page in try/")


def write_model(out: Path) -> None:
    """Write the model of streams, and what the page has to know of it."""
    export_onnx("stream", WORK / "model.onnx", blocks=True)
    model = onnx.load(WORK / "model.onnx")
    about = {entry.key: entry.value for entry in model.metadata_props}
    numbers = ["sample_rate", "hop", "delay", "latency", "attenuation_limit_db", "lead_in_s"]
    shapes = {each.name: [axis.dim_value for axis in each.type.tensor_type.shape.dim[1:]] for each in model.graph.input}
    del shapes["audio"]
    (out / "model.json").write_text(json.dumps({key: float(about[key]) for key in numbers} | {"states": shapes}))
    round_weights(model)
    (out / "model.deflate").write_bytes(zlib.compress(model.SerializeToString(), 9))


def round_weights(model: onnx.ModelProto) -> None:
    """Replace the matrices of each GRU by whole numbers and their steps; the runtime multiplies them when it loads.

    The error of each column is made good by the columns after it, as far as these are alike in `RECORDING` (GPTQ,
    https://arxiv.org/abs/2210.17323).
    """
    layers = [node for node in model.graph.node if node.op_type == "GRU"]
    signals = run(model, [name for node in layers for name in (*node.input[:3], node.output[0])])
    for node, given, *weights, hidden in zip(layers, *(signals[i::4] for i in range(4)), strict=True):
        width = hidden.shape[-1]
        hidden = hidden.reshape(-1, width)
        before = np.concatenate((np.zeros_like(hidden[:1]), hidden[:-1]))
        steps = STEP * np.repeat([UPDATE, RESET, NEW], width)[:, None].astype(np.float32)
        for place, inputs in ((1, given.reshape(len(hidden), -1)), (2, before)):
            node.input[place] = f"{node.output[0]}_{place}"
            store(model.graph, node.input[place], rounded(weights[place - 1][0] / steps, inputs), steps)
    remove_unused(model.graph)


def run(model: onnx.ModelProto, names: list[str]) -> list[np.ndarray]:
    """Return signals inside the graph for `RECORDING`."""
    inner = onnx.ModelProto.FromString(model.SerializeToString())
    inner.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(inner.SerializeToString())
    feed = {
        each.name: np.zeros([1, *each.shape[1:]], np.float32) for each in session.get_inputs() if each.name != "audio"
    }
    audio = soundfile.read(RECORDING, dtype="float32")[0][None]
    hop = int(next(entry.value for entry in model.metadata_props if entry.key == "hop"))
    return session.run(names, {**feed, "audio": audio[:, : audio.shape[1] // hop * hop]})


def remove_unused(graph: onnx.GraphProto) -> None:
    """Remove nodes and constants on which no output depends."""
    used = {each.name for each in graph.output}
    for node in reversed(graph.node):
        if used.intersection(node.output):
            used.update(node.input)
    for parts, names in ((graph.node, lambda node: node.output), (graph.initializer, lambda each: [each.name])):
        for each in [each for each in parts if not used.intersection(names(each))]:
            parts.remove(each)


def rounded(weight: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """Return whole numbers instead of (outputs, inputs) for inputs (frames, inputs)."""
    power = inputs.T.astype(float) @ inputs / len(inputs)
    power += DAMPING * np.trace(power) / len(power) * np.eye(len(power))
    order = np.argsort(-np.diag(power))
    share = np.linalg.cholesky(np.linalg.inv(power[np.ix_(order, order)])).T
    weight, whole = weight[:, order].astype(float), np.zeros(weight.shape, np.int16)
    for i, column in enumerate(order):
        whole[:, column] = np.round(weight[:, i])
        weight[:, i:] -= np.outer((weight[:, i] - whole[:, column]) / share[i, i], share[i, i:])
    return whole


def store(graph: onnx.GraphProto, name: str, whole: np.ndarray, steps: np.ndarray) -> None:
    """Add a constant by bytes, which pack better than 16-bit numbers: the low ones and the few that are not 0."""
    low = whole.astype(np.int8)
    parts = {"low": low, "high": ((whole - low) // 256).astype(np.int8), "steps": steps, "byte": np.float32(256)}
    graph.initializer.extend(numpy_helper.from_array(np.asarray(v)[None], f"{name}_{k}") for k, v in parts.items())
    nodes = [helper.make_node("Cast", [f"{name}_{k}"], [f"{name}_{k}_wide"], to=1) for k in ("low", "high")]
    nodes.append(helper.make_node("Mul", [f"{name}_high_wide", f"{name}_byte"], [f"{name}_high_value"]))
    nodes.append(helper.make_node("Add", [f"{name}_low_wide", f"{name}_high_value"], [f"{name}_whole"]))
    nodes.append(helper.make_node("Mul", [f"{name}_whole", f"{name}_steps"], [name]))
    for node in reversed(nodes):
        graph.node.insert(0, node)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
