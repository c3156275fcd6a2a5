"""Imports follow the arrows of the house."""

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

PACKAGE = ROOT / "modelscope_ext"
#: What a part may import, itself aside.
ARROWS = {
    "audio": set(),
    "files": set(),
    "stft": set(),
    "layers": {"audio", "stft"},
    "models": {"audio", "stft", "layers"},
    "checkpoint": {"models", "files"},
    "pretrained": {"checkpoint"},
    "hub": set(),
    "losses": {"stft"},
    "metrics": {"stft"},
    "data": {"audio", "files", "stft"},
    "engines": set(),
    "digest": {"engines"},
    "utterances": {"engines", "digest"},
    "streaming": {"audio", "engines", "utterances"},
    "enhance": {"models", "audio", "streaming", "utterances", "digest", "engines", "checkpoint", "pretrained", "hub"},
    "storage": {"audio", "files"},
    "cluster": {"audio", "checkpoint", "hub", "pretrained", "enhance", "storage"},
    "live": {"audio", "enhance"},
    "demo": {"audio", "enhance", "pictures"},
    "doctor": {"checkpoint", "pretrained", "hub", "enhance", "training"},
    "info": {"engines", "models", "checkpoint", "pretrained", "hub"},
    "export": {"models", "stft", "engines", "checkpoint", "files", "pretrained", "hub"},
    "evaluation": {"audio", "data", "files", "metrics", "enhance"},
    "pictures": {"audio"},
    "report": {"audio", "data", "files", "metrics", "pictures", "enhance"},
    "training": {"models", "losses", "data", "files", "metrics", "checkpoint", "pretrained"},
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
