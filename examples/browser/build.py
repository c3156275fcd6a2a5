"""Build the page that denoises in the browser into a folder for any static host: python examples/browser/build.py OUT

It needs npm, which fetches onnxruntime-web, mediabunny (reads recordings and videos) and esbuild into build/browser.
"""

import hashlib
import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx

import modelscope_ext
from modelscope_ext.export import export_onnx
from modelscope_ext.pretrained import HIGH_BAND

HERE = Path(__file__).parent
WORK = HERE.parent.parent / "build" / "browser"
SCRIPTS = ["page.js", "worker.js", "live.js"]
ENGINE = "ort-wasm-simd-threaded.wasm"
#: Bytes of a model that needs no 8 bits; elements of a matrix that then gets them.
SMALL, LARGE = 1_500_000, 10_000


def build(out: Path) -> None:
    """Write the page, its scripts, the runtime, the model and an example; `out` needs nothing else."""
    out.mkdir(parents=True, exist_ok=True)
    shutil.copytree(HERE, WORK, dirs_exist_ok=True)
    subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund"], cwd=WORK, check=True)
    with np.load(HIGH_BAND) as weights:
        (WORK / "high_band.bin").write_bytes(b"".join(weights[name].astype("<f2").tobytes() for name in weights))
    options = ["--bundle", "--minify", "--format=esm", "--loader:.bin=binary", "--log-level=warning"]
    options.append(f"--outdir={out.resolve()}")
    subprocess.run(["npx", "esbuild", *SCRIPTS, *options], cwd=WORK, check=True)
    shutil.copy(WORK / "node_modules" / "onnxruntime-web" / "dist" / ENGINE, out)
    shutil.copy(HERE / "index.html", out)
    shutil.copy(Path(modelscope_ext.__file__).parent / "templates" / "example.mp3", out)
    write_model(out)
    names = ["index.html", *SCRIPTS, ENGINE, "example.mp3", "model.json", "model.onnx"]
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
    """Write the model in the package, and what the page has to know of it."""
    export_onnx(None, out / "model.onnx", blocks=True)
    model = onnx.load(out / "model.onnx")
    if model.ByteSize() > SMALL:
        store_in_8_bits(model.graph)
        onnx.save(model, out / "model.onnx")
    about = {entry.key: entry.value for entry in model.metadata_props}
    numbers = ["sample_rate", "hop", "delay", "latency", "attenuation_limit_db", "lead_in_s"]
    shapes = {each.name: [axis.dim_value for axis in each.type.tensor_type.shape.dim[1:]] for each in model.graph.input}
    del shapes["audio"]
    about = {key: float(about[key]) for key in numbers} | {"states": shapes}
    (out / "model.json").write_text(json.dumps(about))


def store_in_8_bits(graph: onnx.GraphProto) -> None:
    """Replace large matrices by bytes and their scales; the runtime multiplies them once, when it loads."""
    for tensor in [each for each in graph.initializer if np.prod(each.dims) > LARGE]:
        weight = onnx.numpy_helper.to_array(tensor).astype(np.float32)
        scale = np.abs(weight).max(int(np.argmax(weight.shape)), keepdims=True) / 127
        parts = {"bytes": np.round(weight / scale).astype(np.int8), "scale": scale}
        graph.initializer.remove(tensor)
        graph.initializer.extend(onnx.numpy_helper.from_array(v, f"{tensor.name}_{k}") for k, v in parts.items())
        wide = onnx.helper.make_node("Cast", [f"{tensor.name}_bytes"], [f"{tensor.name}_wide"], to=1)
        names = [f"{tensor.name}_wide", f"{tensor.name}_scale"]
        graph.node.insert(0, onnx.helper.make_node("Mul", names, [tensor.name]))
        graph.node.insert(0, wide)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
