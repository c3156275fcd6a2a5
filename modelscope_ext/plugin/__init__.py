"""ModelScope adapters. Importing this package imports nothing of ModelScope; `plug_in` waits until that is imported."""

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from modelscope_ext.plugin.names import COMPONENTS, CRUSE_TYPE, FRCRN_TYPE, TASK

__all__ = ["plug_in"]


def plug_in() -> None:
    """Adds our components to ModelScope's index of what can be imported, now, or as soon as ModelScope is imported.

    ModelScope looks a type up in this index, imports the module that stands there, and asks its registry; so our
    modules are imported when they are used, and the stock modules of the same names never.
    """
    waiting = dict.fromkeys(_STOCK - sys.modules.keys())
    for name, extend in _EXTENSIONS.items():
        if module := sys.modules.get(name):
            extend(module)
        else:
            waiting[name] = extend
    if waiting and not any(isinstance(finder, _Watcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watcher(waiting))


def _extend_index(import_utils: ModuleType) -> None:
    loaded = import_utils.LazyImportModule._AST_INDEX
    if loaded is not None:
        _add(loaded)
        return
    load_index = import_utils.load_index

    def load_extended_index(*args, **kwargs):
        index = load_index(*args, **kwargs)
        _add(index)
        return index

    import_utils.load_index = load_extended_index


def _add(index: dict) -> None:
    for signature, module in COMPONENTS.items():
        index["index"][signature] = {"filepath": "", "imports": [], "module": module}


def _extend_preprocessors(base: ModuleType) -> None:
    """The released configuration names no preprocessor; ModelScope then looks here."""
    base.PREPROCESSOR_MAP[FRCRN_TYPE, TASK] = FRCRN_TYPE


def _find_offline(module: ModuleType) -> None:
    """Lets ids of our models be found in the cache when the hub cannot be reached, which ModelScope alone does not."""
    for name in ("is_model_from_trusted_source", "is_official_hub_path", "read_config"):
        if ask := getattr(module, name, None):
            setattr(module, name, functools.partial(_ask_folder, ask))
    if download := getattr(module, "snapshot_download", None):
        module.snapshot_download = functools.partial(_cached_or, download)


def _ask_folder(ask: Callable, model: Any, *args, **kwargs) -> Any:
    return ask(_cached(model) or model, *args, **kwargs)


def _cached_or(download: Callable, *args, **kwargs) -> str:
    return (_cached(args[0]) if args else None) or download(*args, **kwargs)


def _cached(model: Any) -> str | None:
    from modelscope_ext.hub import cached_if_offline

    if folder := cached_if_offline(model):
        described = json.loads((folder / "configuration.json").read_text(encoding="utf-8"))
        if described.get("model", {}).get("type") in (CRUSE_TYPE, FRCRN_TYPE):
            return str(folder)
    return None


def _extend_names(metainfo: ModuleType) -> None:
    """Names such as `Trainers.speech_cruse_ans_16k`."""
    for names in (metainfo.Models, metainfo.Pipelines, metainfo.Preprocessors, metainfo.Trainers):
        setattr(names, CRUSE_TYPE, CRUSE_TYPE)


_EXTENSIONS = {
    "modelscope.metainfo": _extend_names,
    "modelscope.utils.import_utils": _extend_index,
    "modelscope.preprocessors.base": _extend_preprocessors,
    "modelscope.pipelines.builder": _find_offline,
    "modelscope.models.base.base_model": _find_offline,
    "modelscope.trainers.base": _find_offline,
}
#: Modules that register stock classes under names of ours. Nobody needs them, but importing them must not fail.
_STOCK = {
    "modelscope.models.audio.ans.frcrn",
    "modelscope.pipelines.audio.ans_pipeline",
    "modelscope.trainers.audio.ans_trainer",
    "modelscope.metrics.audio_noise_metric",
}
_BUILDERS = {
    "MODELS": "modelscope.models.builder",
    "PREPROCESSORS": "modelscope.preprocessors.builder",
    "PIPELINES": "modelscope.pipelines.builder",
    "TRAINERS": "modelscope.trainers.builder",
    "METRICS": "modelscope.metrics.builder",
    "EXPORTERS": "modelscope.exporters.builder",
}


@contextmanager
def _ours_set_aside() -> Iterator[None]:
    """Takes our classes out of ModelScope's registries for a while: a name registers once."""
    kept = []
    for registry, group, kind in COMPONENTS:
        if builder := sys.modules.get(_BUILDERS[registry]):
            classes = getattr(builder, registry).modules.get(group, {})
            if classes.get(kind, object).__module__.startswith("modelscope_ext."):
                kept.append((classes, kind, classes.pop(kind)))
    try:
        yield
    finally:
        for classes, kind, ours in kept:
            classes[kind] = ours


class _Watcher(importlib.abc.MetaPathFinder):
    """Extends modules right after they have run, and sets ours aside while stock ones register.

    Args:
        waiting: module name → what is called with the module afterwards.
    """

    def __init__(self, waiting: dict) -> None:
        self.waiting = waiting

    def find_spec(self, name, path, target=None):
        if name not in self.waiting:
            return None
        extend = self.waiting.pop(name)  # the search below asks this finder again
        spec = importlib.util.find_spec(name)
        if spec is None or not isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            return spec
        execute = spec.loader.exec_module

        def execute_and_extend(module):
            if name in _STOCK:
                with _ours_set_aside():
                    execute(module)
            else:
                execute(module)
                extend(module)

        spec.loader.exec_module = execute_and_extend
        return spec
