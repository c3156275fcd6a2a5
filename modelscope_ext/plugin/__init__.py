"""ModelScope adapters. Importing this package imports nothing of ModelScope; `plug_in` waits until that is imported."""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from types import ModuleType

from modelscope_ext.plugin.names import COMPONENTS

__all__ = ["plug_in"]

_TARGET = "modelscope.utils.import_utils"


def plug_in() -> None:
    """Adds our components to ModelScope's index of what can be imported, now, or as soon as ModelScope is imported.

    ModelScope looks a type up in this index, imports the module that stands there, and asks its registry; so our
    modules are imported when they are used, and the stock modules of the same names never.
    """
    if module := sys.modules.get(_TARGET):
        _extend(module)
    elif not any(isinstance(finder, _Watcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watcher())


def _extend(import_utils: ModuleType) -> None:
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


class _Watcher(importlib.abc.MetaPathFinder):
    """Extends `modelscope.utils.import_utils` right after it has run."""

    def find_spec(self, name, path, target=None):
        if name != _TARGET:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or not isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            return spec
        execute = spec.loader.exec_module

        def execute_and_extend(module):
            execute(module)
            _extend(module)

        spec.loader.exec_module = execute_and_extend
        return spec
