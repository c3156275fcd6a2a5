"""Networks of ModelScope's own package with the members of ours, for `TorchBackend`."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from modelscope_ext.checkpoint import CheckpointError, load_model, load_weights, read_configuration
from modelscope_ext.hub import CONFIGURATION, RELEASED_WEIGHTS
from modelscope_ext.inference import dfsmn, zipenhancer


def is_stock(folder: Path) -> bool:
    """Return True if a model folder is for a network of ModelScope's own package."""
    return read_configuration(folder)["model"].get("type") in STOCK


def load_network(folder: Path, need_weights: bool = True) -> nn.Module:
    """Load the network of a model folder, ours or ModelScope's, as `load_model` does.

    Raises:
        CheckpointError: the configuration or the weights are missing, damaged or of another architecture.
        ModuleNotFoundError: ModelScope is missing.
    """
    if not is_stock(folder):
        return load_model(folder, need_weights)
    options = read_configuration(folder)["model"]
    try:
        # Random weights that are replaced at once must not move the caller's generator.
        with torch.random.fork_rng([]):
            wrapped = STOCK[options["type"]](options).float()  # whatever torch's default type is
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        reason = error if type(error) is ValueError else repr(error)
        raise CheckpointError(f"{folder / CONFIGURATION}: {reason}") from error
    if need_weights or (folder / RELEASED_WEIGHTS).exists():
        load_weights(wrapped.net, folder / RELEASED_WEIGHTS)
    return wrapped.eval()


def _zipenhancer(options: dict) -> nn.Module:
    from modelscope.models.audio.ans import zipenhancer as stock

    if missing := [name for name in zipenhancer.OPTIONS if name not in options]:
        raise ValueError(f"the model lacks {', '.join(missing)}")
    net = stock.ZipEnhancer(stock.AttrDict({name: options[name] for name in zipenhancer.OPTIONS}))
    return zipenhancer.ZipEnhancer(net, stock.mag_pha_stft, stock.mag_pha_istft)


def _dfsmn(options: dict) -> nn.Module:
    from modelscope.models.audio.ans.denoise_net import DfsmnAns

    given = {name: options[name] for name in dfsmn.OPTIONS if name in options}
    for name, value in given.items():
        if type(value) is not int or not 1 <= value <= dfsmn.OPTIONS[name]:
            raise ValueError(f"{name} must be 1 to {dfsmn.OPTIONS[name]}, got {value!r:.100}")
    return dfsmn.Dfsmn(DfsmnAns("", **given))


#: Type in a configuration → what makes the network of its "model" section.
STOCK: dict[str, Callable[[dict], nn.Module]] = {
    "speech_zipenhancer_ans_multiloss_16k_base": _zipenhancer,
    "speech_dfsmn_ans": _dfsmn,
}
