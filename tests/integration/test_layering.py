"""One trade a room: who imports whom, who prints, who parses, and who imports ModelScope."""

import ast
import graphlib
import re
import subprocess
import sys

import pytest
from conftest import ROOT

PACKAGE = ROOT / "modelscope_ext"
#: Rooms from the lowest floor to the highest → the rooms that each may import, all on lower floors.
ROOMS = {
    "text": "",
    "threads": "",
    "progress": "threads",
    "atomic": "",
    "stft": "",
    "pretrained": "",
    "hub": "pretrained threads",
    "audio": "atomic text",
    "models": "audio stft threads",
    "tensors": "atomic",
    "checkpoint": "atomic hub models stft tensors",
    "losses": "stft",
    "metrics": "stft",
    "data": "atomic text audio stft threads",
    "inference": "stft audio models checkpoint hub pretrained",
    "batch": "atomic audio checkpoint hub inference",
    "plots": "audio",
    "players": "audio inference",
    "demo": "audio inference players plots pretrained",
    "evaluation": "progress audio metrics data",
    "report": "atomic text audio metrics data inference players plots",
    "info": "text checkpoint hub pretrained inference",
    "export": "atomic stft models tensors checkpoint hub pretrained inference",
    "training": "atomic progress stft hub audio models tensors checkpoint losses metrics data",
    "doctor": "threads checkpoint hub pretrained inference training",
    "cli": "atomic text progress audio checkpoint hub pretrained metrics data inference batch plots demo evaluation "
    "report info export training doctor",
    "plugin": "atomic audio models checkpoint hub losses metrics data inference evaluation export training cli",
    "__init__": "models data inference plugin",
    "__main__": "cli",
}
#: Packages that only some users have, or that are slow to import. They are imported in functions.
LATE = {
    "datasets",
    "gradio",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "openvino",
    "pesq",
    "pyroomacoustics",
    "pystoi",
    "ray",
    "shtab",
    "sounddevice",
    "speechmos",
}
#: Most imports of our own within functions, which let commands start or run without torch.
MOST_LATE_IMPORTS = 10
#: Most names in all `__all__` together, which only the doors of rooms have: `ROOM.py` or `ROOM/__init__.py`.
MOST_PUBLIC_NAMES = 120


def imports(path):
    """Yield (module, whether in a function) for every import in a file; names of packages count as modules."""
    tree = ast.parse(path.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    late = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from ((name if name in MODULES else node.module, id(node) in late) for name in names)


def module_of(path):
    return ".".join(("modelscope_ext", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def room_of(module):
    """Return the room of a module of ours; the package itself is `__init__`."""
    return [*module.split("."), "__init__"][1]


FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {module_of(path): path for path in FILES}
#: The hub's client and networks of ModelScope's own, which models in our folders don't need.
MODELSCOPE = ("modelscope_ext.hub", "modelscope_ext.inference.stock")
each_module = pytest.mark.parametrize("module", MODULES)


def test_the_order_is_strict():
    for i, (room, allowed) in enumerate(ROOMS.items()):
        assert set(allowed.split()) <= set(list(ROOMS)[:i]), f"{room} may import only lower floors"


def test_rooms_are_all_known():
    assert {path.stem for path in PACKAGE.iterdir()} - {"__pycache__", "py", "templates"} == set(ROOMS)


@each_module
def test_rooms_import_what_they_may(module):
    room = room_of(module)
    for imported, _ in imports(MODULES[module]):
        if imported == "modelscope_ext":  # for `__version__`; importing the package is part of every import
            continue
        if imported.startswith("modelscope_ext."):
            assert room_of(imported) in {room, *ROOMS[room].split()}, f"{room} must not import {imported}"


def test_modules_import_each_other_in_no_circle():
    graph = {module: {imported for imported, _ in imports(path)} for module, path in MODULES.items()}
    tuple(graphlib.TopologicalSorter(graph).static_order())


def test_imports_in_functions_are_few():
    late = {(m, i) for m, p in MODULES.items() for i, late in imports(p) if late and i.startswith("modelscope_ext")}
    assert len(late) <= MOST_LATE_IMPORTS, sorted(late)


def test_public_names_are_few_and_stand_at_the_doors():
    public = {
        module: [name.value for name in node.value.elts]
        for module, path in MODULES.items()
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    }
    assert not [module for module in public if module.count(".") > 1], "inner modules need no `__all__`"
    assert sum(map(len, public.values())) <= MOST_PUBLIC_NAMES


@each_module
def test_packages_that_are_imported_in_functions(module):
    for imported, late in imports(MODULES[module]):
        name = imported.split(".")[0]
        assert late or name not in LATE, f"imports {imported} at its top"
        assert name != "modelscope" or room_of(module) == "plugin" or (module in MODELSCOPE and late), (
            "imports ModelScope"
        )


@each_module
def test_only_commands_parse_and_print(module):
    if room_of(module) == "cli" or module == "modelscope_ext.plugin.command":
        return
    assert "argparse" not in {imported for imported, _ in imports(MODULES[module])}
    calls = [node.func for node in ast.walk(ast.parse(MODULES[module].read_text())) if isinstance(node, ast.Call)]
    assert "print" not in {function.id for function in calls if isinstance(function, ast.Name)}


@each_module
def test_threads_begin_in_one_place(module):
    """Where they are refused if memory is scarce."""
    text = MODULES[module].read_text()
    assert module == "modelscope_ext.threads" or not re.search(r"ThreadPool|Thread\(", text)


def test_ruff():
    for arguments in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *arguments, ROOT], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
