"""Writes `api.md`, the reference of what users call, from the docstrings of the package.

python docs/make_api.py

The source is read and not imported. A public name (in a module's `__all__`, or a method of such a class without a
leading underscore) that has no docstring is an error, in every module.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
HEAD = """# Reference

Written by `python docs/make_api.py` from the docstrings: edit those. The [README](../README.md) shows how the parts are
used together.
"""
#: What users call, in the order of reading; the other modules are for those who work on this one.
MODULES = [
    "enhance",
    "streaming",
    "audio",
    "pictures",
    "cluster",
    "models",
    "models.cruse",
    "models.frcrn",
    "evaluation",
    "metrics",
    "losses",
    "data.segments",
    "data.pairs",
    "data.mixtures",
    "data.mixing",
    "training.config",
    "training.trainer",
    "training.epochs",
    "export",
    "checkpoint",
    "hub",
    "plugin.pipeline",
    "plugin.trainer",
    "plugin.metric",
    "plugin.exporter",
]
Function = ast.FunctionDef | ast.AsyncFunctionDef


def reference(package: Path) -> str:
    """The Markdown of `MODULES`.

    Raises:
        ValueError: public names of any module without a docstring; the message lists them.
    """
    missing: list[str] = []
    sections = {}
    for path in package.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        module = ".".join(path.relative_to(package).with_suffix("").parts).removesuffix(".__init__")
        parts = [f"\n## {module}\n\n", prose(_docstring(tree, module, missing))]
        defined = {each.name: each for each in tree.body if isinstance(each, ast.ClassDef | Function)}
        for name in _public(tree):
            if name in defined:
                parts += _described(defined[name], f"{module}.{name}", source.splitlines(), missing)
        sections[module] = "".join(parts)
    if missing:
        raise ValueError("public names without a docstring: " + ", ".join(sorted(missing)))
    contents = "".join(f"- [{module}](#{module.replace('.', '')})\n" for module in MODULES)
    return f"{HEAD}\n{contents}" + "".join(sections[module] for module in MODULES)


def prose(docstring: str) -> str:
    """Markdown of a docstring in Google's style."""
    lines, example = [], False
    for line in [*docstring.splitlines(), ""]:
        if line.startswith(">>>") and not example:
            lines.append("```python")
            example = True
        elif example and not line:
            lines.append("```")
            example = False
        if section := re.fullmatch(r"(Args|Attributes|Returns|Yields|Raises):", line):
            lines.append(f"**{section[1]}**")
            line = ""
        elif entry := re.match(r" {4}(\*{0,2}[\w, ]+): (.*)", line):
            line = f"- `{entry[1]}`: {entry[2]}"
        lines.append(line if example else line.strip())
    return "\n".join(lines).strip() + "\n"


def _public(tree: ast.Module) -> list[str]:
    lists = [
        each.value for each in tree.body if isinstance(each, ast.Assign) and "__all__" in ast.unparse(each.targets)
    ]
    return [name for each in lists for name in ast.literal_eval(each)]


def _described(node: ast.ClassDef | Function, name: str, source: list[str], missing: list[str]) -> Iterator[str]:
    depth = "###" if isinstance(node, ast.ClassDef) or name.rpartition(".")[0].islower() else "####"
    yield f"\n{depth} {name}\n\n```python\n{_signature(node, source)}\n```\n\n{prose(_docstring(node, name, missing))}"
    for each in node.body if isinstance(node, ast.ClassDef) else ():
        if isinstance(each, Function) and (each.name == "__call__" or not each.name.startswith("_")):
            yield from _described(each, f"{name}.{each.name}", source, missing)


def _docstring(node: ast.AST, name: str, missing: list[str]) -> str:
    found = ast.get_docstring(node)
    if not found:
        missing.append(name)
    return found or ""


def _signature(node: ast.ClassDef | Function, source: list[str]) -> str:
    """The head of a definition as it stands in the source; of a class also its fields and its constructor."""
    head = source[min([node.lineno, *(each.lineno for each in node.decorator_list)]) - 1 : node.body[0].lineno - 1]
    if isinstance(node, ast.ClassDef):
        fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
        made = [each for each in node.body if isinstance(each, Function) and each.name == "__init__"]
        if fields:
            head += source[fields[0].lineno - 1 : fields[-1].end_lineno]
        for each in made:
            head += source[each.lineno - 1 : each.body[0].lineno - 1]
    indent = len(head[0]) - len(head[0].lstrip())
    return "\n".join(line[indent:] for line in head)


if __name__ == "__main__":
    try:
        (ROOT / "docs" / "api.md").write_text(reference(ROOT / "modelscope_ext"), encoding="utf-8")
    except ValueError as error:
        sys.exit(str(error))
