"""Checks of models and of the GPU."""

import inspect
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from modelscope_ext import hub, pretrained
from modelscope_ext.checkpoint import FRCRN_TYPE, TYPES, CheckpointError, read_configuration
from modelscope_ext.doctor.graphs import REINSTALL, Found, check_graph, check_packaged_graphs, denoise_with, named
from modelscope_ext.hub import CONFIGURATION, RELEASED_WEIGHTS, WEIGHTS
from modelscope_ext.inference.stock import is_stock, load_network
from modelscope_ext.training.config import SegmentConfig


def check_packaged_models() -> Found:
    """Check the models in this package."""
    for name, folder in pretrained.MODELS.items():
        yield from named(name, _check_folder(folder, REINSTALL))
    yield from check_packaged_graphs()


def check_model(model: str | Path) -> Found:
    """Check a model folder, an `.onnx` file or an id."""
    if hub.is_id(model):
        folder = hub.cached(model)
        if folder is None:
            yield "warning", "not or not completely in the cache; the first use downloads it", _download(str(model))
        else:
            yield "ok", f"in the cache: {folder}"
            yield from _check_folder(folder)
    elif Path(model).suffix == ".onnx":
        yield from check_graph(model)
    elif Path(model).is_dir():
        yield from _check_folder(Path(model))
    else:
        yield "problem", f"{model}: no such folder, and no id"


def check_gpu() -> Found:
    """Check every GPU that torch has. Without one report the reason."""
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
    elif not shutil.which("nvidia-smi"):
        yield "ok", "none; denoising works without, training FRCRN is slow"
    elif torch.version.cuda is None:
        what = f"there seems to be an NVIDIA GPU, but torch {torch.__version__} is built for CPUs only"
        yield "warning", what, "pip install --force-reinstall 'torch>=2.4,<2.14'"
    else:
        what = f"torch cannot use the GPU; its driver must support CUDA {torch.version.cuda} or later"
        yield "warning", what, "nvidia-smi"


def _check_folder(folder: Path, fix: str = "") -> Found:
    """Check a model folder; `fix` is the command that restores it."""
    try:
        configuration = read_configuration(folder)
    except CheckpointError as error:
        yield "problem", str(error), fix
        return
    kind = configuration["model"].get("type")
    if kind == FRCRN_TYPE and not fix:
        fix = _download(f"iic/{FRCRN_TYPE}", folder)
    for key, reason in () if is_stock(folder) else _outdated_settings(configuration):
        yield "warning", f"{CONFIGURATION}, {key}: {reason}"
    try:
        net = load_network(folder)
    except CheckpointError as error:
        what = str(error).partition(" Get the released")[0]
        yield "problem", what, f"git -C {_quote(folder)} lfs pull" if "LFS pointer" in what else fix
        return
    used = next(name for name in (WEIGHTS, RELEASED_WEIGHTS) if (folder / name).exists())
    size = (folder / used).stat().st_size / 1e6
    yield "ok", f"{kind}: configuration and all weights ({used}, {size:.1f} MB) fit together"
    if used == WEIGHTS and (folder / RELEASED_WEIGHTS).exists():
        yield "warning", f"{RELEASED_WEIGHTS} is ignored next to {WEIGHTS}", f"rm {_quote(folder / RELEASED_WEIGHTS)}"
    yield from denoise_with(net)


def _outdated_settings(configuration: dict) -> Iterator[tuple[str, str]]:
    """Yield (key, reason) of settings with which the installed ModelScope or torch fails."""
    if "plugins" in configuration:
        yield "plugins", "ModelScope refuses this key or runs pip; `import modelscope_ext` is enough"
    if (kind := configuration.get("pipeline", {}).get("type")) not in TYPES:
        yield "pipeline.type", f"pipeline() fails: {kind!r} is not one of {', '.join(TYPES)}"
    try:
        config = SegmentConfig.from_configuration(configuration)
    except ValueError as error:
        yield "train", f"training fails: {error}"
        return
    if "verbose" in configuration.get("train", {}).get("lr_scheduler", {}):
        yield "train.lr_scheduler.verbose", "torch has no such option; only ModelScope's trainer fails"
    for section, module, name, options in (
        ("optimizer", torch.optim, config.optimizer, config.optimizer_options),
        ("lr_scheduler", torch.optim.lr_scheduler, config.scheduler, config.scheduler_options),
    ):
        if not hasattr(module, name):
            yield f"train.{section}.type", f"training fails: torch has no {name!r}"
            continue
        for option in sorted(set(options or {}) - set(inspect.signature(getattr(module, name)).parameters)):
            yield f"train.{section}.{option}", f"training fails: {name} of torch has no such option"


def _download(model: str, folder: Path | None = None) -> str:
    return f"modelscope download --model {model}" + (f" --local_dir {_quote(folder)}" if folder else "")


def _quote(text: object) -> str:
    return shlex.quote(str(text))
