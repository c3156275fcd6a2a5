"""The command `doctor`: what of an installation and of a model works, what will fail, and what mends it.

Nothing of a model is executed, and nothing is downloaded. Packages are imported in a process of their own, so that one
that crashes is a finding too.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Finding", "examine"]

NAME = "modelscope-ext"
TESTED_PYTHON = (3, 12)
#: What is imported: name → (code, what it is needed for).
PROBES = {
    "torch": ("import torch", "everything"),
    "numpy, scipy": ("import numpy, scipy.signal", "everything"),
    "soundfile": ("import soundfile", "audio files"),
    "soxr": ("import soxr", "other rates than 16 kHz"),
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
        "train --model and build_trainer()",
    ),
}
#: extra → what it is for.
EXTRAS = {
    "metrics": "evaluate, --gate and the metrics of report",
    "train": "training a CRUSE",
    "onnx": "ONNX",
    "demo": "pictures, report and demo",
    "live": "stream --input and --output",
}
PROBE_TIMEOUT_S = 300
#: Free space below which a cache is too small for FRCRN (58 MB) and a prepared data set.
LITTLE_SPACE = 10**9


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        group: what it belongs to.
        level: ok, warning (works, or only a part fails), or problem.
        what: what was found, in a sentence.
        fix: the command that mends it or, where it is ok, that adds what is missing; may be empty.
    """

    group: str
    level: str
    what: str
    fix: str = ""


def _run(args: argparse.Namespace) -> int:
    findings, group = [], ""
    for finding in examine(args.model):
        findings.append(finding)
        if not args.json:
            if finding.group != group:
                print(f"{'' if not group else chr(10)}{finding.group}")
            print(_as_text(finding), flush=True)
        group = finding.group
    count = {level: sum(finding.level == level for finding in findings) for level in ("problem", "warning")}
    if args.json:
        print(json.dumps({"problems": count["problem"], "findings": [asdict(each) for each in findings]}, indent=2))
    else:
        told = [f"{number} {level}{'s' if number > 1 else ''}" for level, number in count.items() if number]
        print(f"\n{', '.join(told) or 'All is well.'}")
    return 1 if count["problem"] else 0


def _as_text(finding: Finding) -> str:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10**6  # in a pipe, a line a finding
    first = f"  {finding.level.upper() if finding.level == 'problem' else finding.level:9}"
    lines = textwrap.fill(finding.what, max(40, width - 1), initial_indent=first, subsequent_indent=" " * 11)
    return f"{lines}\n{' ' * 11}→ {finding.fix}" if finding.fix else lines  # a command stays in one piece


def examine(model: str | Path | None = None) -> Iterator[Finding]:
    """Looks at everything, one thing after the other.

    Args:
        model: a folder or an id that is looked at besides the model in this package.
    """
    from modelscope_ext.hub import is_id
    from modelscope_ext.pretrained import DEFAULT

    yield from _safely("Python", _python)
    yield from _safely("Packages", _requirements)
    broken: set[str] = set()
    yield from _safely("Imports", lambda: _imports(broken))
    yield from _safely("Audio", _audio)
    if broken & {"torch", "numpy, scipy", "safetensors"}:
        yield Finding("Models", "problem", "not looked at, since the packages that they need cannot be imported")
    else:
        reinstall = f"pip install --force-reinstall --no-deps {NAME}"
        yield from _safely("The model in this package", lambda: _model(Path(DEFAULT), reinstall))
        if model is not None:
            look = _cached_model if is_id(model) else _given_model
            yield from _safely(f"Model {model}", lambda: look(model))
        yield from _safely("GPU", _gpu)
    yield from _safely("Cache and hub", _cache)


def _safely(group: str, look: Callable[[], Iterator[tuple[str, ...]]]) -> Iterator[Finding]:
    try:
        for found in look():
            yield Finding(group, *found)
    except Exception as error:  # whatever is broken here is what was looked for
        yield Finding(group, "problem", f"{type(error).__name__}: {error}")


def _python() -> Iterator[tuple[str, ...]]:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] > TESTED_PYTHON:
        yield "warning", f"{version} is newer than what was tested (3.10 to 3.12)", "python3.12 -m venv .venv"
    else:
        yield "ok", f"{version}, {sys.executable}"


def _requirements() -> Iterator[tuple[str, ...]]:
    from importlib.metadata import PackageNotFoundError, requires, version

    try:
        from packaging.requirements import Requirement
    except ModuleNotFoundError:
        yield "warning", "versions were not looked at, for want of the package packaging", "pip install packaging"
        return
    try:
        wanted = [Requirement(text) for text in requires(NAME) or ()]
    except PackageNotFoundError:
        yield "problem", f"{NAME} itself is not installed, only found", "pip install ."
        return
    missing: dict[str, list[str]] = {extra: [] for extra in EXTRAS}
    core = fine = 0
    for requirement in wanted:
        extras = [e for e in EXTRAS if requirement.marker and requirement.marker.evaluate({"extra": e})]
        if requirement.marker and not extras:
            continue
        core += not extras
        command = f"pip install '{requirement.name}{requirement.specifier}'"
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            for extra in extras:
                missing[extra].append(requirement.name)
            if not extras:
                yield "problem", f"{requirement.name} is not installed", command
            continue
        if requirement.specifier.contains(found, prereleases=True):
            fine += not extras
        elif _too_new(requirement, found):
            yield "warning", f"{requirement.name} {found} is newer than what was tested", command
        else:
            yield "problem", f"{requirement.name} {found} is too old", command
    yield "ok", f"{fine} of {core} packages that are needed are there, in versions that were tested"
    for extra, names in missing.items():
        if names:
            text = f"without {', '.join(names)}; only for {EXTRAS[extra]}"
            yield "ok", text, f"pip install '{NAME}[{extra}]'"


def _too_new(requirement: Any, version: str) -> bool:
    """Whether a version fails only what a range says of newest ones."""
    from packaging.specifiers import SpecifierSet

    lower = [spec for spec in requirement.specifier if spec.operator in (">=", ">", "~=")]
    return SpecifierSet(",".join(map(str, lower))).contains(version, prereleases=True)


def _imports(broken: set[str]) -> Iterator[tuple[str, ...]]:
    """Adds to `broken` what cannot be imported."""
    import importlib.util

    probes = dict(PROBES)
    if importlib.util.find_spec("torchcodec"):
        probes["torchcodec"] = (
            "import torchcodec",
            "Audio columns of datasets; our data sets and to_segment do without",
        )
    told = _probe({name: code for name, (code, _) in probes.items()})
    for name, (_, purpose) in probes.items():
        reason = told.get(name, "the process ended here")
        if reason == "":
            yield "ok", name
            continue
        broken.add(name)
        package = name.partition(",")[0].partition(" ")[0]
        fix = f"pip install --force-reinstall {package if package.islower() else NAME}"
        if reason.startswith("ModuleNotFoundError: No module named"):
            fix = f"pip install {reason.split(chr(39))[1].partition('.')[0]}"
        if name == "torchcodec":
            fix = "pip uninstall torchcodec"
        level = "warning" if name in ("torchcodec", "soxr") else "problem"
        yield level, f"{name} does not work, needed for {purpose}: {reason}", fix


def _probe(codes: dict[str, str]) -> dict[str, str]:
    """Runs pieces of code in another process: name → "" or why it failed; what comes after a crash is tried anew."""
    told: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        while left := {name: code for name, code in codes.items() if name not in told}:
            command = [sys.executable, "-W", "ignore", "-c", _PROBE, str(log), json.dumps(left)]
            try:
                done = subprocess.run(command, capture_output=True, timeout=PROBE_TIMEOUT_S)
                end = f"the process ended with code {done.returncode}"
            except subprocess.TimeoutExpired:
                end = f"it takes more than {PROBE_TIMEOUT_S} s"
            lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
            told |= {name: reason for name, reason in map(json.loads, lines) if reason is not None}
            if len(told) < len(codes):
                told[next(name for name in codes if name not in told)] = end
    return told


_PROBE = """
import json, sys
for name, code in json.loads(sys.argv[2]).items():
    try:
        exec(code, {})
        reason = ""
    except BaseException as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    with open(sys.argv[1], "a", encoding="utf-8") as log:
        print(json.dumps([name, reason]), file=log)
"""


def _audio() -> Iterator[tuple[str, ...]]:
    import soundfile

    formats = soundfile.available_formats()
    version = soundfile.__libsndfile_version__
    opus = "OGG" in formats and "OPUS" in soundfile.available_subtypes("OGG")
    if lacking := [name for name, there in (("mp3", "MP3" in formats), ("opus", opus)) if not there]:
        fix = "pip install --force-reinstall soundfile"
        yield "warning", f"libsndfile {version} does not know {' and '.join(lacking)}", fix
    else:
        yield "ok", f"libsndfile {version}: wav, flac, ogg, opus, mp3 and more"
    try:
        import sounddevice
    except ModuleNotFoundError:
        return
    except OSError as error:
        yield "warning", f"stream --input and --output fail: {error}", "apt install libportaudio2"
        return
    count = {end: sum(each[f"max_{end}_channels"] > 0 for each in sounddevice.query_devices()) for end in _ENDS}
    yield "ok", f"sound devices: {count['input']} for input, {count['output']} for output"


_ENDS = ("input", "output")


def _given_model(folder: str | Path) -> Iterator[tuple[str, ...]]:
    if Path(folder).suffix == ".onnx":
        try:
            yield from _try(folder)
        except (ValueError, ModuleNotFoundError) as error:
            export = f"modelscope-ext export --model MODEL -o {_quoted(folder)}"
            missing = isinstance(error, ModuleNotFoundError)
            yield "problem", str(error), f"pip install '{NAME}[onnx]'" if missing else export
        return
    if not Path(folder).is_dir():
        yield "problem", f"{folder}: no such folder, and no id"
        return
    yield from _model(Path(folder))


def _cached_model(model: str) -> Iterator[tuple[str, ...]]:
    from modelscope_ext.hub import cached

    folder = cached(model)
    if folder is None:
        yield "warning", "not in the cache, or not all of it; the first use downloads it", _download(model)
    else:
        yield "ok", f"in the cache: {folder}"
        yield from _model(folder)


def _download(model: str, folder: Path | None = None) -> str:
    return f"modelscope download --model {model}" + (f" --local_dir {_quoted(folder)}" if folder else "")


def _model(folder: Path, fix: str = "") -> Iterator[tuple[str, ...]]:
    """What is wrong with a model folder; `fix` brings it anew."""
    from modelscope_ext.checkpoint import (
        CONFIGURATION,
        FRCRN_TYPE,
        RELEASED_WEIGHTS,
        WEIGHTS,
        CheckpointError,
        load_model,
        read_configuration,
    )

    try:
        configuration = read_configuration(folder)
    except CheckpointError as error:
        yield "problem", str(error), fix
        return
    kind = configuration["model"].get("type")
    if kind == FRCRN_TYPE and not fix:
        fix = _download(f"iic/{FRCRN_TYPE}", folder)
    yield from _settings(configuration, folder / CONFIGURATION)
    try:
        net = load_model(folder)
    except CheckpointError as error:
        what = str(error).partition(" Get the released")[0]
        yield "problem", what, f"git -C {_quoted(folder)} lfs pull" if "LFS pointer" in what else fix
        return
    used = next(name for name in (WEIGHTS, RELEASED_WEIGHTS) if (folder / name).exists())
    size = (folder / used).stat().st_size / 1e6
    yield "ok", f"{kind}: configuration and all weights ({used}, {size:.1f} MB) fit together"
    if used == WEIGHTS and (folder / RELEASED_WEIGHTS).exists():
        yield "warning", f"{RELEASED_WEIGHTS} is there too, and ignored", f"rm {_quoted(folder / RELEASED_WEIGHTS)}"
    yield from _try(net)


def _try(model: Any) -> Iterator[tuple[str, ...]]:
    import time

    import numpy as np

    from modelscope_ext.inference.denoiser import Denoiser

    noise = np.random.default_rng(0).standard_normal(16000).astype(np.float32) / 10
    denoiser = Denoiser(model)
    denoiser(noise, 16000)
    start = time.perf_counter()
    out = denoiser(noise, 16000)
    if np.isfinite(out).all():
        yield "ok", f"denoises a second of audio in {time.perf_counter() - start:.2g} s on this CPU"
    else:
        yield "problem", "its output has NaN or infinite samples: the weights are of no use"


def _settings(configuration: dict, path: Path) -> Iterator[tuple[str, ...]]:
    """Settings with which today's ModelScope and torch fail."""
    import inspect

    import torch

    from modelscope_ext.checkpoint import CRUSE_TYPE, FRCRN_TYPE
    from modelscope_ext.training.epochs import EpochConfig

    if "plugins" in configuration:
        text = 'ModelScope refuses a configuration with "plugins", or runs pip; `import modelscope_ext` is all it takes'
        yield "warning", text, _delete(path, "plugins")
    if (kind := configuration.get("pipeline", {}).get("type")) not in (CRUSE_TYPE, FRCRN_TYPE):
        yield "warning", f"pipeline() of ModelScope does not work: the pipeline's type is {kind!r}, not one of ours"
    try:
        EpochConfig.from_configuration(configuration)
    except (ValueError, TypeError, AttributeError) as error:
        yield "warning", f"training fails: {error}"
        return
    train = configuration.get("train", {})
    if "verbose" in train.get("lr_scheduler", {}):
        text = '"verbose" in lr_scheduler: torch no longer takes it. Our trainer leaves it out, ModelScope\'s fails'
        yield "warning", text, _delete(path, "train", "lr_scheduler", "verbose")
    for section, home in (("optimizer", torch.optim), ("lr_scheduler", torch.optim.lr_scheduler)):
        options = {name: None for name in train.get(section, {}) if name not in ("options", "verbose")}
        if "type" not in options:
            continue
        del options["type"]
        name = train[section]["type"]
        if not hasattr(home, name):
            yield "warning", f"training fails: torch {torch.__version__} has no {section} {name!r}"
        elif unknown := options.keys() - inspect.signature(getattr(home, name)).parameters.keys():
            for option in sorted(unknown):
                text = f"training fails: {name} of torch {torch.__version__} does not take {option!r}"
                yield "warning", text, _delete(path, "train", section, option)


def _delete(path: Path, *keys: str) -> str:
    """A command that takes a setting out of a configuration."""
    place = "".join(f"[{key!r}]" for key in keys)
    code = f"import json, pathlib; p = pathlib.Path({str(path)!r}); c = json.loads(p.read_text()); del c{place}; "
    return f"python3 -c {_quoted(code + 'p.write_text(json.dumps(c, indent=2, ensure_ascii=False))')}"


def _quoted(text: object) -> str:
    return shlex.quote(str(text))


def _gpu() -> Iterator[tuple[str, ...]]:
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(index)
            try:
                torch.nn.functional.conv1d(*(torch.ones(1, 1, 8, device=f"cuda:{index}") for _ in range(2)))
            except RuntimeError as error:
                reason = str(error).partition("\n")[0]
                yield "problem", f"cuda:{index}, {facts.name}, does not work: {reason}", "pip install --upgrade torch"
            else:
                yield "ok", f"cuda:{index}: {facts.name}, {facts.total_memory / 2**30:.0f} GiB; --device cuda"
    elif shutil.which("nvidia-smi") and torch.version.cuda is None:
        text = f"there seems to be an NVIDIA GPU, but torch {torch.__version__} is built for CPUs only"
        yield "warning", text, "pip install --force-reinstall 'torch>=2.4,<2.14'"
    elif shutil.which("nvidia-smi"):
        text = f"torch cannot use the GPU; its driver must be made for CUDA {torch.version.cuda} or later"
        yield "warning", text, "nvidia-smi"
    else:
        yield "ok", "none; denoising does without, training FRCRN is slow"


def _cache() -> Iterator[tuple[str, ...]]:
    folders = {
        "models (MODELSCOPE_CACHE)": os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope",
        "data sets (HF_HOME)": os.environ.get("HF_HOME") or "~/.cache/huggingface",
    }
    for name, given in folders.items():
        folder = Path(given).expanduser()
        there = next(path for path in (folder, *folder.resolve().parents) if path.exists())
        free = shutil.disk_usage(there).free
        if not there.is_dir() or not os.access(there, os.W_OK):
            variable = name.partition("(")[2].rstrip(")")
            yield "problem", f"{name}: {folder} cannot be written to", f"export {variable}=/a/folder/of/yours"
        elif free < LITTLE_SPACE:
            yield "warning", f"{name}: {folder} has {free / 1e6:.0f} MB left", f"du -sh {_quoted(folder)}"
        else:
            yield "ok", f"{name}: {folder}, {free / 1e9:.0f} GB free"
        for part in sorted(folder.rglob("*.incomplete")) if "MODELSCOPE" in name else ():
            yield "warning", f"a download was broken off: {part}", f"rm {_quoted(part)}"
    from modelscope_ext.hub import hub_answers

    if hub_answers():
        yield "ok", "ModelScope's hub answers"
    else:
        yield "warning", "ModelScope's hub cannot be reached: models named by id come from the cache, or not at all"
