"""Model folders and weights files, read strictly and never executed.

A folder holds `configuration.json` and `model.safetensors`. For FRCRN it may hold `pytorch_model.bin` instead, in one
of three layouts: the released one, in which every layer has two names; that of ModelScope's trainer, the same with a
prefix `model.` and perhaps inside `{"state_dict": …}`; the state dict of our network.
"""

import json
import os
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialized
from torch import Tensor, nn

from modelscope_ext.atomic import atomic_write
from modelscope_ext.hub import CONFIGURATION, RELEASED_WEIGHTS, WEIGHTS
from modelscope_ext.models import FRCRN_TYPE, TYPES, build
from modelscope_ext.models.frcrn.network import FrcrnBase
from modelscope_ext.stft import analysis_matrix, synthesis_matrix
from modelscope_ext.tensors import CodeError, from_8_bits, load_tensors, save_tensors, smallest

__all__ = [
    "CheckpointError",
    "has_weights",
    "load_model",
    "load_weights",
    "read_configuration",
    "released_state_dict",
    "save_model",
    "save_released",
]

LONGEST_CONFIGURATION = 1_000_000  # bytes
#: Limit of the size of a weights file, in sizes of the network: two names, 64 bits, a training state.
MOST_COPIES = 10
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
#: Our name → the second name of the same tensor in the released FRCRN.
ALIASES = {
    "encoders": "encoder",
    "decoders": "decoder",
    "se_layers_enc": "se_layer_enc",
    "se_layers_dec": "se_layer_dec",
    "fsmn_enc": "fsmn_enc",
    "fsmn_dec": "fsmn_dec",
}


class CheckpointError(ValueError):
    """A model folder or a weights file that cannot be used; the message names it and the reason."""


def read_configuration(folder: str | Path) -> dict:
    """Return the `configuration.json` of a model folder."""
    path = Path(folder) / CONFIGURATION
    try:
        with path.open("rb") as file:
            content = file.read(LONGEST_CONFIGURATION + 1)
        if len(content) > LONGEST_CONFIGURATION:
            raise ValueError(f"longer than {LONGEST_CONFIGURATION:,} bytes, which no configuration is")
        found = json.loads(content.decode("utf-8-sig"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; a model folder holds {CONFIGURATION} and {WEIGHTS}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("model"), dict):
        raise CheckpointError(f'{path}: has no "model" section')
    return found


def load_model(folder: str | Path, need_weights: bool = True) -> nn.Module:
    """Load the network of a model folder in eval mode.

    `model.safetensors` comes before `pytorch_model.bin`. The folder's `attenuation_limit_db` is set if there is one.

    Args:
        folder: the model folder.
        need_weights: False returns random weights if the folder has none.

    Raises:
        CheckpointError: configuration or weights are missing, damaged, not finite or of another architecture.
    """
    folder = Path(folder)
    configuration = read_configuration(folder)
    options = dict(configuration["model"])
    kind = options.pop("type", None)
    if kind not in TYPES:
        raise CheckpointError(f"{folder / CONFIGURATION}: model type {kind!r} is unknown; known are {', '.join(TYPES)}")
    try:
        limit_db = _attenuation_limit_db(configuration)
        name = "FRCRN" if kind == FRCRN_TYPE else options.pop("name", None)
        # Random weights that are replaced at once must not move the caller's generator.
        with torch.random.fork_rng([], enabled=has_weights(folder)):
            net = build(name, **options).float()  # whatever torch's default type is
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIGURATION}: {error}") from error
    if not has_weights(folder):
        if not need_weights:
            return net.eval()
        if kind == FRCRN_TYPE:
            raise CheckpointError(
                f"{folder}: has neither {WEIGHTS} nor {RELEASED_WEIGHTS}; without weights nothing can be denoised. "
                f"Get the released ones with: modelscope download --model iic/{FRCRN_TYPE} --local_dir '{folder}'"
            )
    by_trainer = (folder / RELEASED_WEIGHTS).exists() and not (folder / WEIGHTS).exists()
    load_weights(net, folder / (RELEASED_WEIGHTS if by_trainer else WEIGHTS))
    if limit_db is not None:
        net.attenuation_limit_db = limit_db
    return net.eval()


def _attenuation_limit_db(configuration: dict) -> float | None:
    inference = configuration.get("inference", {})
    limit_db = inference.get("attenuation_limit_db") if isinstance(inference, dict) else inference
    if limit_db is not None and not (type(limit_db) in (int, float) and limit_db >= 0):
        raise ValueError(f'"inference" must say an attenuation_limit_db of at least 0, got {inference!r:.100}')
    return limit_db


def has_weights(folder: str | Path) -> bool:
    """Return True if a model folder has a weights file of any kind."""
    return any((Path(folder) / name).exists() for name in (WEIGHTS, RELEASED_WEIGHTS))


def load_weights(net: nn.Module, path: str | Path) -> None:
    """Load weights from a file; every name and every shape must match.

    Args:
        net: unchanged if there is an error.
        path: a `.safetensors` file or one that `torch.save` wrote. An FRCRN may have any known layout.

    Raises:
        CheckpointError: the file cannot be used. The message gives the reason.
    """
    path = Path(path)
    own = net.state_dict()
    found = _read(path, sum(value.nbytes for value in own.values()))
    second_names = {"stft.weight", *map(_alias, own)} - own.keys()
    released = isinstance(net, FrcrnBase) and found.keys() & second_names
    if problems := _problems(found, released_state_dict(net) if released else own):
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise CheckpointError(f"{path}: {'; '.join(problem[:200] for problem in sorted(problems)[:4])}{more}")
    net.load_state_dict({name: found[name] for name in own})


def _read(path: Path, size: int) -> dict[str, Tensor]:
    """Read the tensors of a file by name; `size` is that of the network in bytes. Only the wrapping is checked."""
    try:
        with path.open("rb") as file:
            start, length = file.read(64), os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; without weights nothing can be denoised") from None
    except OSError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path}: a Git LFS pointer, not the weights; fetch them with `git lfs pull`")
    if length > MOST_COPIES * size + 2**20:
        raise CheckpointError(f"{path}: {length:,} bytes, where this network has {size:,}; not its weights")
    try:
        if path.suffix == ".safetensors":
            return from_8_bits(load_file(path))
        found = load_tensors(path)
    except CodeError as error:
        raise CheckpointError(f"{path}: would run {error!s:.100} when unpickled, and is refused") from error
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a safetensors file, or damaged ({str(error)[:200]})") from error
    except Exception as error:  # what torch's reader raises on damaged files is not documented
        reason = str(error).partition("\n")[0][:200]
        raise CheckpointError(f"{path}: not a weights file, or damaged ({reason})") from error
    return _unwrap(found, path)


def _unwrap(found: object, path: Path) -> dict[str, Tensor]:
    for wrapping in ("state_dict", "generator"):  # the second one is of ModelScope's ZipEnhancer
        if isinstance(found, dict) and isinstance(found.get(wrapping), dict):
            found = found[wrapping]
    items = found.items() if isinstance(found, dict) else ()
    if not items or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in items):
        raise CheckpointError(f"{path}: holds no state dict, that is, tensors by name")
    prefix = "model."
    if all(name.startswith(prefix) for name in found):
        found = {name[len(prefix) :]: value for name, value in found.items()}
    return found


def _alias(name: str) -> str:
    """Return the second name of a tensor (`unet.encoders.0.bn` → `unet.encoder0.bn`) or the only one."""
    return re.sub(rf"^(unet2?)\.({'|'.join(ALIASES)})\.", lambda m: f"{m[1]}.{ALIASES[m[2]]}", name)


def _problems(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> list[str]:
    problems = [f"lacks {name}" for name in wanted.keys() - found.keys()]
    problems += [f"has unknown {name}" for name in found.keys() - wanted.keys()]
    for name in wanted.keys() & found.keys():
        if not _plain(found[name], wanted[name]):
            problems.append(f"{name} is no plain tensor of {wanted[name].dtype}")
        elif wanted[name].shape != found[name].shape:
            problems.append(f"{name} is {tuple(found[name].shape)} instead of {tuple(wanted[name].shape)}")
        elif not torch.isfinite(found[name].to(wanted[name].dtype)).all():
            problems.append(f"{name} has NaN or infinite values")
        elif name.startswith(("stft.", "istft.")) and not torch.allclose(found[name], wanted[name], atol=1e-5):
            problems.append(f"{name} is not that of a square-root Hann window")
    twice = ((name, _alias(name)) for name in wanted if _alias(name) in wanted)
    if not problems:
        problems = [f"{a} and {b} are one tensor and differ" for a, b in twice if (found[a] != found[b]).any()]
    return problems


def _plain(tensor: Tensor, wanted: Tensor) -> bool:
    """Return True if a tensor is dense and in memory and its type converts to the wanted one."""
    dense = tensor.layout == torch.strided and not (tensor.is_quantized or tensor.is_nested)
    return dense and tensor.device.type == "cpu" and tensor.dtype in (*FLOATS, wanted.dtype)


def dft_matrices(window: Tensor) -> dict[str, Tensor]:
    """Return the float64 matrices of a released checkpoint besides the network.

    For a window of W samples: `stft.weight` and `istft.weight` (2F, 1, W) with the real rows first, `istft.window` (1,
    W, 1), and the unit matrix `istft.enframe` (W, 1, W).
    """
    window = window.double().cpu()
    return {
        "stft.weight": analysis_matrix(window).T.unsqueeze(1),
        "istft.weight": synthesis_matrix(window).unsqueeze(1),
        "istft.window": window[None, :, None],
        "istft.enframe": torch.eye(len(window), dtype=window.dtype).unsqueeze(1),
    }


def released_state_dict(net: FrcrnBase) -> dict[str, Tensor]:
    """Return the state dict of an FRCRN in the released layout: layers by both names and the matrices of the DFT."""
    own = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    matrices = {name: value.float().contiguous() for name, value in dft_matrices(net.window.cpu()).items()}
    return matrices | {_alias(name): value for name, value in own.items()} | own


def save_model(net: nn.Module, folder: str | Path, configuration: dict, small: bool = False) -> None:
    """Write a model folder; each file is complete or absent.

    Args:
        net: weights keep their precision; `load_model` converts to 32 bits.
        folder: created if missing.
        configuration: content of `configuration.json`.
        small: store tensors in 8 or 16 bits where these hold them exactly.
    """
    folder = Path(folder)
    weights = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    weights = smallest(weights) if small else weights
    with atomic_write(folder / WEIGHTS) as temp:
        temp.write_bytes(serialized(weights))
    with atomic_write(folder / CONFIGURATION) as temp:
        temp.write_text(json.dumps(configuration, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def save_released(net: nn.Module, path: str | Path) -> None:
    """Write an FRCRN's weights in the released layout for ModelScope's own class; the file is complete or absent."""
    save_tensors(released_state_dict(net), path)
