"""Imports follow the arrows of the house."""

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

PACKAGE = ROOT / "modelscope_ext"
#: What a part may import, itself aside.
ARROWS = {
    "atomic": set(),
    "stft": set(),
    "audio": {"atomic"},
    "models": {"audio", "stft"},
    "checkpoint": {"models", "atomic"},
    "pretrained": {"checkpoint"},
    "hub": set(),
    "losses": {"stft"},
    "metrics": {"stft"},
    "data": {"audio", "atomic", "stft"},
    "inference": {"audio", "models", "checkpoint", "pretrained", "hub"},
    "batch": {"audio", "atomic", "checkpoint", "hub", "pretrained", "inference"},
    "plots": {"audio"},
    "demo": {"audio", "inference", "plots"},
    "doctor": {"checkpoint", "pretrained", "hub", "inference", "training"},
    "info": {"inference", "models", "checkpoint", "pretrained", "hub"},
    "export": {"models", "stft", "inference", "checkpoint", "atomic", "pretrained", "hub"},
    "evaluation": {"audio", "data", "atomic", "metrics", "inference"},
    "report": {"audio", "data", "atomic", "metrics", "plots", "inference"},
    "training": {"models", "losses", "data", "atomic", "metrics", "checkpoint", "pretrained"},
    "cli": None,
    "plugin": None,
    "__init__": {"plugin"},
    "__main__": {"cli"},
}
#: Packages that only some users have, or that are slow to import: inside functions only.
LATE = {
    "datasets",
    "gradio",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "pesq",
    "pyroomacoustics",
    "pystoi",
    "ray",
    "sounddevice",
    "speechmos",
}


def imports(path):
    """(module, whether at the top level) of every import in a file."""
    tree = ast.parse(path.read_text())
    top = set(ast.walk(tree)) - {n for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node in top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module, node in top
            if node.module == "modelscope_ext":
                yield from ((f"modelscope_ext.{alias.name}", node in top) for alias in node.names)


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=[str(p.relative_to(PACKAGE)) for p in FILES])
def test_arrows(path):
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    allowed = ARROWS[part]
    for module, at_top in imports(path):
        names = module.split(".")
        if names[0] == "modelscope_ext" and len(names) > 1 and allowed is not None:
            assert names[1] in allowed | {part, "__version__"}, f"{path.name} must not import {module}"
            assert names[1] != "plugin" or part == "__init__"
        assert names[0] != "modelscope" or part == "plugin" or (part == "hub" and not at_top), (
            f"{path.name} imports ModelScope"
        )
        assert names[0] not in LATE or not at_top, f"{path.name} imports {module} at its top"


def test_parts_are_all_known():
    assert {p.relative_to(PACKAGE).parts[0].removesuffix(".py") for p in FILES} <= ARROWS.keys()


def test_ruff():
    for arguments in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *arguments, ROOT], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
