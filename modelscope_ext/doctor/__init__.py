"""Checks of an installation and of models: what works, what fails, and how to fix it.

Nothing of a model is executed, and nothing is downloaded. Packages are imported in other processes, so that a crash is
a result too. This module needs no package but ours; `graphs` needs onnxruntime, `models` torch.
"""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from modelscope_ext import hub
from modelscope_ext.threads import thread_pool

__all__ = ["CheckResult", "run_checks"]

NAME = "modelscope-ext"
INSTALL_ALL = f"pip install '{NAME}[full]'"
TESTED_PYTHON = (3, 13)
#: Name of an import → (code, what needs it).
PROBES = {
    "numpy": ("import numpy", "everything"),
    "onnxruntime": ("import onnxruntime", "everything but model folders"),
    "soundfile": ("import soundfile", "audio files"),
    "av": ("import av", "compressed audio and video"),
    "soxr": ("import soxr", "other rates than 16 kHz"),
}
#: The same for what a light install leaves out.
FULL_PROBES = {
    "torch": ("import torch", "model folders, training and export"),
    "scipy": ("import scipy.signal", "training and scores"),
    "safetensors": ("import safetensors.torch", "weights"),
    "datasets, pyarrow": ("import datasets, pyarrow.parquet", "prepare-data and training"),
    "pipeline of ModelScope": (
        "import modelscope_ext, numpy; from modelscope_ext.pretrained import DEFAULT\n"
        "from modelscope.pipelines import pipeline\n"
        "pipeline('acoustic-noise-suppression', model=str(DEFAULT))(numpy.zeros(1600, numpy.float32))",
        "pipeline() in Python; the command denoise works without",
    ),
    "trainer of ModelScope": (
        "import modelscope_ext.plugin.trainer; from modelscope.trainers import build_trainer",
        "build_trainer()",
    ),
}
#: The import of torchcodec is tried where it is installed: it often fails, and breaks `datasets`.
TORCHCODEC = {"torchcodec": ("import torchcodec", "Audio columns of datasets; our data sets and to_segment do without")}
#: Extra → what needs it.
EXTRAS = {
    "full": "model folders, prepare-data, train, export and ModelScope",
    "metrics": "evaluate, --gate and the metrics of report",
    "train": "training a CRUSE",
    "onnx": "ONNX",
    "demo": "pictures, report and demo",
    "live": "stream --input and --output",
}
PROBE_TIMEOUT_S = 300
#: Bytes of free space below which a cache is too small for FRCRN (58 MB) and a prepared data set.
LITTLE_SPACE = 10**9

#: (level, what, fix), as in `CheckResult`.
Found = Iterator[tuple[str, ...]]


@dataclass(frozen=True)
class CheckResult:
    """The result of one check.

    Attributes:
        group: what the check belongs to.
        level: ok, warning (it works, or only a part fails), or problem.
        what: the result in a sentence.
        fix: command that fixes it or adds what is missing; may be empty.
    """

    group: str
    level: str
    what: str
    fix: str = ""


def run_checks(model: str | Path | None = None) -> Iterator[CheckResult]:
    """Run all checks and yield each result when it is there.

    Args:
        model: a folder, id or `.onnx` file to check besides the model in this package.
    """
    yield from _run("Python", _check_python)
    yield from _run("Packages", _check_requirements)
    broken: set[str] = set()
    yield from _run("Imports", lambda: _check_imports(broken))
    yield from _run("Audio", _check_audio)
    if broken & {"numpy", "onnxruntime", "torch", "scipy", "safetensors"}:
        yield CheckResult("Models", "problem", "not checked, since the packages that they need cannot be imported")
    elif is_light():
        from modelscope_ext.doctor import graphs  # imports numpy

        yield from _run("The models in this package", graphs.check_packaged_graphs)
        if model is not None and Path(model).suffix == ".onnx":
            yield from _run(f"Model {model}", lambda: graphs.check_graph(model))
        elif model is not None:
            yield CheckResult(f"Model {model}", "problem", "a light install runs ONNX files only", INSTALL_ALL)
    else:
        from modelscope_ext.doctor import models  # imports torch

        yield from _run("The models in this package", models.check_packaged_models)
        if model is not None:
            yield from _run(f"Model {model}", lambda: models.check_model(model))
        yield from _run("GPU", models.check_gpu)
    if not is_light():  # which has no client of the hub
        yield from _run("Cache and hub", _check_cache)


def is_light() -> bool:
    """Return True for a light install without torch: see setup.py."""
    try:
        return metadata.version(NAME).endswith("+light") and not importlib.util.find_spec("torch")
    except metadata.PackageNotFoundError:
        return False


def _run(group: str, check: Callable[[], Found]) -> Iterator[CheckResult]:
    try:
        for found in check():
            yield CheckResult(group, *found)
    except Exception as error:  # anything may be broken here
        yield CheckResult(group, "problem", f"{type(error).__name__}: {error}")


def _check_python() -> Found:
    number = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] > TESTED_PYTHON:
        yield "warning", f"{number} is newer than the tested versions (3.10 to 3.13)", "python3.13 -m venv .venv"
    else:
        yield "ok", f"{number}, {sys.executable}"


def _check_requirements() -> Found:
    try:
        from packaging.requirements import Requirement
    except ModuleNotFoundError:
        yield "warning", "versions were not checked, since the package packaging is missing", "pip install packaging"
        return
    try:
        wanted = [Requirement(text) for text in metadata.requires(NAME) or ()]
    except metadata.PackageNotFoundError:
        yield "problem", f"{NAME} itself is not installed, only found", "pip install ."
        return
    missing: dict[str, list[str]] = {extra: [] for extra in EXTRAS}
    named = {each.name for each in wanted if "extra" not in str(each.marker)}
    core = fine = 0
    for requirement in wanted:
        extras = [e for e in EXTRAS if requirement.marker and requirement.marker.evaluate({"extra": e})]
        if (requirement.marker and not extras) or (extras and requirement.name in named):
            continue
        core += not extras
        level, what = _check_version(requirement)
        fine += level == "ok" and not extras
        if level == "missing" and extras:
            for extra in extras:
                missing[extra].append(requirement.name)
        elif level != "ok":
            level = "problem" if level == "missing" else level
            yield level, what, f"pip install '{requirement.name}{requirement.specifier}'"
    light = ", a light install" if is_light() else ""
    yield "ok", f"{fine} of {core} required packages are installed in tested versions{light}"
    for extra, names in missing.items():
        if names:
            text = f"without {', '.join(names)}; only for {EXTRAS[extra]}"
            yield "ok", text, f"pip install '{NAME}[{extra}]'"


def _check_version(requirement: Any) -> tuple[str, str]:
    from packaging.specifiers import SpecifierSet

    name = requirement.name
    try:
        installed = metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing", f"{name} is not installed"
    if requirement.specifier.contains(installed, prereleases=True):
        return "ok", ""
    lower = SpecifierSet(",".join(str(each) for each in requirement.specifier if each.operator in (">=", ">", "~=")))
    if lower.contains(installed, prereleases=True):
        return "warning", f"{name} {installed} is newer than the tested versions"
    return "problem", f"{name} {installed} is too old"


def _check_imports(broken: set[str]) -> Found:
    """Import packages in other processes and add those that fail to `broken`."""
    probes = PROBES | ({} if is_light() else FULL_PROBES)
    probes |= TORCHCODEC if importlib.util.find_spec("torchcodec") else {}
    with thread_pool(2) as pool:
        errors = pool.map(_run_in_process, [code for code, _ in probes.values()])
        for (name, (_, purpose)), error in zip(probes.items(), errors, strict=True):
            if not error:
                yield "ok", name
                continue
            broken.add(name)
            package = name.partition(",")[0].partition(" ")[0]
            fix = f"pip install --force-reinstall {package if package.islower() else NAME}"
            if missing := re.match(r"ModuleNotFoundError: No module named '(\w+)", error):
                fix = f"pip install {missing[1]}"
            elif name == "torchcodec":
                fix = "pip uninstall torchcodec"
            level = "warning" if name in ("torchcodec", "soxr", "av") else "problem"
            yield level, f"{name} does not work, needed for {purpose}: {error}", fix


def _run_in_process(code: str) -> str:
    """Run code in another process; return "" or its error."""
    command = [sys.executable, "-W", "ignore", "-c", _PROGRAM, code]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"it takes more than {PROBE_TIMEOUT_S} s"
    if done.returncode == 1 and done.stderr:
        return done.stderr.splitlines()[-1]
    return f"the process ended with code {done.returncode}" if done.returncode else ""


_PROGRAM = """
import sys
try:
    exec(sys.argv[1], {})
except BaseException as error:
    sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")
"""


def _check_audio() -> Found:
    import soundfile

    formats, number = soundfile.available_formats(), soundfile.__libsndfile_version__
    opus = "OGG" in formats and "OPUS" in soundfile.available_subtypes("OGG")
    if missing := [name for name, there in (("mp3", "MP3" in formats), ("opus", opus)) if not there]:
        what = f"libsndfile {number} cannot read {' and '.join(missing)}"
        yield "warning", what, "pip install --force-reinstall soundfile"
    else:
        yield "ok", f"libsndfile {number}: wav, flac, ogg, opus, mp3 and more"
    try:
        import sounddevice
    except ModuleNotFoundError:
        return
    except OSError as error:
        yield "warning", f"stream --input and --output fail: {error}", "apt install libportaudio2"
        return
    devices = sounddevice.query_devices()
    inputs, outputs = (sum(each[f"max_{end}_channels"] > 0 for each in devices) for end in ("input", "output"))
    yield "ok", f"sound devices: {inputs} for input, {outputs} for output"


def _check_cache() -> Found:
    for name, variable, default in (
        ("models", "MODELSCOPE_CACHE", "~/.cache/modelscope"),
        ("data sets", "HF_HOME", "~/.cache/huggingface"),
    ):
        folder = Path(os.environ.get(variable) or default).expanduser()
        place = f"{name} ({variable}): {folder}"
        existing = next(path for path in (folder, *folder.resolve().parents) if path.exists())
        free = shutil.disk_usage(existing).free
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            yield "problem", f"{place} cannot be written to", f"export {variable}=/a/folder/of/yours"
        elif free < LITTLE_SPACE:
            yield "warning", f"{place} has {free / 1e6:.0f} MB left", f"du -sh {shlex.quote(str(folder))}"
        else:
            yield "ok", f"{place}, {free / 1e9:.0f} GB free"
        for part in sorted(folder.rglob("*.incomplete")) if name == "models" else ():
            yield "warning", f"a download is incomplete: {part}", f"rm {shlex.quote(str(part))}"
    if hub.hub_answers():
        yield "ok", "ModelScope's hub answers"
    else:
        yield "warning", "ModelScope's hub cannot be reached: models named by id come from the cache, or not at all"
