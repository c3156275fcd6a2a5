"""A light install in a clean environment, after `MODELSCOPE_EXT_LIGHT=1 pip install .`; this needs no pytest."""

import importlib.util
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from modelscope_ext import Denoiser

EXAMPLES = Path(__file__).parent.parent / "examples"
PCM = np.zeros(16000, np.int16).tobytes()
MOST_MB = 350


def run(*arguments, stdin=None, code=0):
    """Run a command; return its output and its messages."""
    command = [sys.executable, "-m", "modelscope_ext", *map(str, arguments)]
    with tempfile.TemporaryDirectory() as empty:  # the repository has build files of other installs
        done = subprocess.run(command, input=stdin, capture_output=True, cwd=empty)
    assert done.returncode == code, (arguments, done.returncode, done.stderr.decode())
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done.stdout, done.stderr.decode()


def main() -> None:
    for name in ("torch", "modelscope", "scipy", "pandas", "datasets"):
        assert not importlib.util.find_spec(name), name
    size = sum(path.stat().st_size for path in Path(sysconfig.get_path("purelib")).rglob("*") if path.is_file()) / 1e6
    assert size <= MOST_MB, size
    print(f"{size:.0f} MB")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "out.wav"
        run("denoise", "-q", EXAMPLES / "noisy.wav", "-o", target)
        noisy, rate = soundfile.read(EXAMPLES / "noisy.wav", dtype="float32")
        assert np.abs(soundfile.read(target)[0] - Denoiser()(noisy, rate)).max() < 1e-4
        for command in (["prepare-data", folder, folder], ["train", "--data", folder], ["export", "-o", "a.onnx"]):
            assert "pip install 'modelscope-ext[full]'" in run(*command, code=1)[1]
        assert (
            "pip install 'modelscope-ext[full]'"
            in run("denoise", "--model", folder, target, "-o", f"{folder}/new", code=1)[1]
        )
        # Scores need no torch, and a device needs no folder.
        assert "pip install 'modelscope-ext[metrics]'" in run("evaluate", "--pairs", folder, code=1)[1]
        for device in ("cuda", "cuda:1"):
            said = run("denoise", "--device", device, target, "-o", f"{folder}/new.wav", code=1)[1]
            assert f"device '{device}' needs torch: pip install" in said
        assert "pip install 'modelscope-ext[demo]'" in run("report", target, "-o", Path(folder) / "a.html", code=1)[1]
    assert len(run("stream", "-q", stdin=PCM)[0]) == len(PCM)
    assert b"CRUSE4-64-1xGRU4" in run("info")[0]
    assert "pip install 'modelscope-ext[demo]'" in run("demo", code=1)[1]
    assert b"No problems." in run("doctor")[0]
    assert not {"torch", "scipy"} & set(sys.modules)


main()
