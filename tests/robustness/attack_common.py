"""Commands in processes of their own and what they work on, for `attacks.py`."""

import json
import multiprocessing
import os
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from fuzz_common import Models

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path += [str(ROOT / "tests"), str(ROOT / "benchmarks")]
from helpers import CRUSE_CONFIG  # noqa: E402
from processes import Background  # noqa: E402

# What commands import takes seconds of a core, and some attacks need hundreds of processes.
NAMES = ("denoise", "prepare_data", "train", "evaluate", "report", "export", "info")
COMMANDS = [f"modelscope_ext.cli.{name}" for name in NAMES]
LATE = ["modelscope_ext.export.parity", "matplotlib.pyplot", "onnx", "onnxruntime", "pystoi", "scipy.signal", "pandas"]
multiprocessing.get_context("forkserver").set_forkserver_preload([*COMMANDS, *LATE, "torch.distributed", "datasets"])

# The processes would import all that the main script does, and a limit of memory would come too late.
vars(sys.modules["__main__"]).pop("__file__", None)

NOISY = ROOT / "examples" / "noisy.wav"
RATE = 16000
#: Seconds that a command may take.
PATIENCE_S = 900
PROGRAM = """
import resource, sys
limit = int(sys.argv[1])
if limit:
    used = int(open("/proc/self/statm").read().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (used + limit, used + limit))
from modelscope_ext.cli import main
sys.exit(main(sys.argv[2:]))
"""


class Command:
    """A command in the background with a temporary folder and a file for messages of its own.

    Args:
        folder: for what it writes: `out` is its place for results.
        arguments: of `modelscope-ext`.
        limit: bytes of memory beyond those at its start; 0 for no limit.
    """

    def __init__(self, folder: Path, *arguments: object, limit: int = 0, **environment: str) -> None:
        self.folder, self.name = folder, str(arguments[0])
        self.temp = Path(tempfile.mkdtemp(dir=folder, prefix="temp-"))
        given = ["-c", PROGRAM, limit, *arguments]
        self.process = Background(given, self.temp.with_suffix(".log"), {"TMPDIR": str(self.temp), **environment})

    def outcome(self, *codes: int) -> str:
        """Return the exit code and the first error, or what is broken."""
        code = self.process.wait(PATIENCE_S)
        text = self.process.messages.read_text(errors="replace") if self.process.messages.exists() else ""
        left = [
            path.name for path in self.temp.glob("*") if not path.match("torchinductor_*") and path.name != "ray"
        ] + [path.name for path in self.folder.rglob("*.half") if path.is_file()]
        for broken, why in (("Traceback" in text, text[-1500:]), (code not in codes, text[-1500:]), (left, left)):
            if broken:
                return f"BROKEN {self.name}: {code}, {why}"
        error = next((line for line in text.splitlines() if line.startswith("modelscope-ext: ")), "")
        return f"{self.name}: {code} {error.replace(str(self.folder), '…')[:110]}".strip()


def recordings(folder: Path, count: int, seconds: float, suffix: str = "wav") -> Path:
    """Write recordings that differ and return their folder."""
    folder.mkdir(parents=True)
    audio = np.resize(soundfile.read(NOISY)[0], round(seconds * RATE))
    for number in range(count):
        soundfile.write(folder / f"{number}.{suffix}", np.roll(audio, 999 * number), RATE)
    return folder


#: Files that hold times; weights are compared by `best/model.safetensors` or `output/`.
UNEQUAL = ("temp-*", "events.*", "log.csv", "*.pt", "*.pth", "page.html", "e.json", "manifest.jsonl")


def same(one: Path, other: Path) -> bool:
    """Return True if two folders hold the same visible files."""
    found = []
    for folder in (one, other):
        files = (path for path in folder.rglob("[!.]*") if path.is_file())
        kept = [path for path in files if not any(path.match(name) for name in UNEQUAL)]
        found.append({path.relative_to(folder): _content(path) for path in kept})
    return found[0] == found[1]


def _content(path: Path) -> object:
    """Return a file's bytes; of a checkpoint, which holds times, the weights."""
    if path.suffix != ".bin":
        return path.read_bytes()
    weights = torch.load(path, weights_only=True)["state_dict"]
    return {name: tensor.numpy().tobytes() for name, tensor in weights.items()}


def arrange(work: Path) -> dict[str, list]:
    """Write inputs in a folder; return the arguments of commands, with OUT for the place of results."""
    for kind in ("noisy", "clean"):
        recordings(work / "pairs" / kind, 4, 2.0)
    recordings(work / "noise", 2, 2.0)
    data = {"speech": {"pairs/clean": 1.0}, "noise": {"noise": 1.0}, "rooms": 0, "mix": {"seconds": 0.5}}
    valid = {"speech": "pairs/clean", "noise": "noise", "pairs": 1, "seconds": 1.0, "every": 4}
    (work / "train.json").write_text(json.dumps({**CRUSE_CONFIG, "data": data, "validation": valid}))
    net = ["--model", Models(work / "net").folder]
    scores = ["--metrics", "si_sdr,stoi", "--workers", 1]
    mixtures = ["prepare-data", "--speech", work / "pairs" / "clean", "--noise", work / "noise", "--seconds", 0.5]
    return {
        "denoise": ["denoise", work / "pairs" / "noisy", *net, "-o", "OUT/out"],
        "prepare-data": [*mixtures, "--count", 40, "-o", "OUT/data"],
        "train": ["train", "--config", work / "train.json", "--data-dir", work, "--work-dir", "OUT/run"],
        "evaluate": ["evaluate", "--pairs", work / "pairs", *net, *scores, "--json", "OUT/e.json"],
        "report": ["report", work / "pairs" / "noisy", *net, "-o", "OUT/page.html"],
        "export": ["export", *net, "-o", "OUT/net.onnx"],
        "info": ["info", *net[1:]],
    }


def placed(arguments: list, folder: Path) -> list[str]:
    """Return the arguments of a command whose results go to this folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    return [str(each).replace("OUT", str(folder)) for each in arguments]


def start(arguments: list, folder: Path, **options: object) -> Command:
    return Command(folder, *placed(arguments, folder), **options)


def in_rounds(arguments: list, work: Path, count: int, together: Any, messages: Path) -> None:
    """Run a command again and again, each round at the same moment as another process and onto the same place."""
    from modelscope_ext.cli import main

    with messages.open("w", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        for number in range(count):
            given = placed(arguments, work / str(number))
            together.wait(PATIENCE_S)
            print(f"round {number} ended with {main(given)}")


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}
