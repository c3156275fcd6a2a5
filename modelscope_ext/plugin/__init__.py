"""Adapters for ModelScope. Importing this package does not import ModelScope."""

import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from modelscope_ext.models import CRUSE_TYPE, DUAL_PATH_TYPE, FRCRN_TYPE
from modelscope_ext.plugin.names import COMPONENTS, TASK
from modelscope_ext.plugin.offline import MODULES, use_cache_offline

__all__ = ["plug_in"]


def plug_in() -> None:
    """Add our components to ModelScope's index now or when ModelScope is imported.

    ModelScope looks up a type in this index and imports its module and asks its registry. So our modules are imported
    when they are used and the stock modules of the same names never.
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
    """Add the preprocessor of FRCRN, whose released configuration has none."""
    base.PREPROCESSOR_MAP[FRCRN_TYPE, TASK] = FRCRN_TYPE


def _extend_names(metainfo: ModuleType) -> None:
    """Add names such as `Trainers.speech_cruse_ans_16k`."""
    for names in (metainfo.Models, metainfo.Pipelines, metainfo.Preprocessors, metainfo.Trainers):
        for kind in (CRUSE_TYPE, DUAL_PATH_TYPE):
            setattr(names, kind, kind)


_EXTENSIONS = {
    "modelscope.metainfo": _extend_names,
    "modelscope.utils.import_utils": _extend_index,
    "modelscope.preprocessors.base": _extend_preprocessors,
    **dict.fromkeys(MODULES, use_cache_offline),
}
#: Modules that register stock classes under our names. Nobody needs them, but their import must not fail.
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
    """Take our classes out of ModelScope's registries within the block, since a name registers only once."""
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


class _Watcher:
    """An import hook that extends modules after they have run and sets our classes aside while stock ones register.

    Args:
        waiting: module name → function that is called with the module.
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
