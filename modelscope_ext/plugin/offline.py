"""Patches that let ModelScope use a cached copy of our models when the hub cannot be reached.

ModelScope asks the hub about an id even if it needs nothing from it, and fails after half a minute. Without a copy the
error comes at once.
"""

import functools
import json
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from modelscope_ext.hub import cached, cached_if_offline, is_id, require_hub
from modelscope_ext.models import TYPES

#: Modules that ask the hub: `pipeline`, `Model.from_pretrained` and `build_trainer`.
MODULES = ("modelscope.pipelines.builder", "modelscope.models.base.base_model", "modelscope.trainers.builder")


def use_cache_offline(module: ModuleType) -> None:
    """Patch one of `MODULES`."""
    for name in ("is_model_from_trusted_source", "is_official_hub_path", "read_config"):
        if ask := getattr(module, name, None):
            setattr(module, name, functools.partial(_ask_folder, ask))
    if build := getattr(module, "pipeline", None):
        module.pipeline = _takes_paths(build)
        if package := sys.modules.get("modelscope.pipelines"):  # imported before this package
            package.pipeline = module.pipeline
    if download := getattr(module, "snapshot_download", None):
        module.snapshot_download = functools.partial(_cached_or_download, download)


def _takes_paths(function: Callable) -> Callable:
    """Return a function that takes a `pathlib.Path` wherever the given one takes its text."""

    @functools.wraps(function)
    def call(*args, **kwargs) -> Any:
        args = [os.fspath(each) if isinstance(each, os.PathLike) else each for each in args]
        given = {name: os.fspath(each) if isinstance(each, os.PathLike) else each for name, each in kwargs.items()}
        return function(*args, **given)

    return call


def _ask_folder(ask: Callable, model: Any, *args, **kwargs) -> Any:
    """Ask about a local folder by its absolute path: ModelScope takes a relative one for an id, and asks its hub."""
    if isinstance(model, (str, os.PathLike)) and os.path.isdir(model):
        return ask(os.path.abspath(model), *args, **kwargs)
    return ask(_cached(model) or model, *args, **kwargs)


def _cached_or_download(download: Callable, *args, **kwargs) -> str:
    return (_cached(args[0]) if args else None) or download(*args, **kwargs)


def _cached(model: Any) -> str | None:
    """Return the folder of a cached model of our types if the hub cannot be reached.

    Raises:
        ValueError: the hub cannot be reached, and there is no copy. ModelScope would wait for minutes.
    """
    if is_id(model) and not cached(model):
        require_hub(model)
    if folder := cached_if_offline(model):
        configuration = json.loads((folder / "configuration.json").read_text(encoding="utf-8-sig"))
        if configuration.get("model", {}).get("type") in TYPES:
            return str(folder)
    return None
