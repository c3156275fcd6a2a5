"""Documents that could go stale: the reference, the notebook, the programs in `examples/`, links and pictures."""

import os
import re
import runpy
import socket
import subprocess
import sys
import threading

import nbclient
import nbformat
import numpy as np
import pytest
import soundfile
from conftest import EXAMPLES, ROOT, streamed

DOCS = ROOT / "docs"
DOCUMENTS = [*ROOT.glob("*.md"), ROOT / "benchmarks" / "README.md", DOCS / "api.md"]
sys.path.append(str(DOCS))

from make_api import prose, reference  # noqa: E402

NOTEBOOK = EXAMPLES / "denoise.ipynb"


def example(name, *arguments, cwd):
    """What one of `examples/` prints."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HOME": str(cwd / "hf")},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def pairs(tmp_path, noisy, clean):
    for name, audio in (("noisy", noisy), ("clean", clean)):
        (tmp_path / "pairs" / name).mkdir(parents=True)
        soundfile.write(tmp_path / "pairs" / name / "one.wav", audio[:64000], 16000)
    return tmp_path / "pairs"


def test_the_reference_is_that_of_the_docstrings():
    fresh = reference(ROOT / "modelscope_ext") == (DOCS / "api.md").read_text()
    assert fresh, "run: python docs/make_api.py"


@pytest.mark.parametrize("missing", ["function", "Class", "Class.method", "Class.__call__"])
def test_a_public_name_needs_a_docstring(tmp_path, missing):
    said = {
        name: "" if name == missing else '"""Said."""'
        for name in ("function", "Class", "Class.method", "Class.__call__")
    }
    (tmp_path / "module.py").write_text(
        f'"""A module."""\n__all__ = ["Class", "function"]\n'
        f"def function():\n    {said['function']}\n    pass\n"
        f"class Class:\n    {said['Class']}\n"
        f"    def method(self):\n        {said['Class.method']}\n        pass\n"
        f"    def __call__(self):\n        {said['Class.__call__']}\n        pass\n"
        "    def _own(self): pass\n"
        "def _own(): pass\n"
    )
    with pytest.raises(ValueError, match=rf"docstring: module\.{re.escape(missing)}$"):
        reference(tmp_path)


def test_a_docstring_becomes_markdown():
    found = prose(
        "One line.\n\nArgs:\n    a, b: first,\n        still first.\n    **rest: more.\n\n>>> 1 + 1\n2\n\nEnd."
    )
    assert found == (
        "One line.\n\n**Args**\n\n- `a, b`: first,\nstill first.\n- `**rest`: more.\n\n"
        "```python\n>>> 1 + 1\n2\n```\n\nEnd.\n"
    )


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    headings = {
        re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in re.findall(r"^#+ .*", text, re.M)
    }
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("#"):
            assert link[1:] in headings, link
        elif not link.startswith("https://"):
            assert (path.parent / link.partition("#")[0]).exists(), link


def test_the_map_of_the_house_is_complete():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rooms = [path for path in (ROOT / "modelscope_ext").iterdir() if not path.name.startswith("_")]
    names = [f"{path.name}/" if path.is_dir() else path.name for path in rooms]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_pictures_are_small():
    assert all(picture.stat().st_size < 300_000 for picture in DOCS.glob("*.png"))


def test_examples_are_short():
    assert max(len(path.read_text().splitlines()) for path in EXAMPLES.glob("*.py")) <= 60


@pytest.mark.slow
def test_the_example_that_denoises(tmp_path):
    assert "energy" in example("denoise.py", EXAMPLES / "noisy.wav", tmp_path / "out.wav", cwd=tmp_path)
    assert soundfile.info(tmp_path / "out.wav").frames == soundfile.info(EXAMPLES / "noisy.wav").frames


@pytest.mark.slow
def test_the_example_that_evaluates(tmp_path, pairs):
    table = example("evaluate.py", pairs, "stoi", "si_sdr", cwd=tmp_path)
    assert re.search(r"\| noisy \| [\d.]+ \| [\d.]+ \|\n\| denoised \| [\d.]+ \| [\d.]+ \|", table)


@pytest.mark.slow
def test_the_example_that_fine_tunes(tmp_path, pairs):
    from modelscope_ext import Denoiser
    from modelscope_ext.pretrained import DEFAULT

    assert "avg_sisnr" in example("fine_tune.py", DEFAULT, pairs, pairs, tmp_path, 1, 1, cwd=tmp_path)
    Denoiser(tmp_path / "run" / "output")


def test_the_example_that_serves(denoiser, noisy):
    serve = runpy.run_path(str(EXAMPLES / "serve.py"))
    pcm = (noisy[:32000] * 32767).astype("<i2")
    with serve["server"](0, denoiser) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        with socket.create_connection(running.server_address, timeout=60) as connection:
            sent = pcm.tobytes()
            connection.sendall(sent[:4001])  # in the middle of a sample
            connection.sendall(sent[4001:])
            connection.shutdown(socket.SHUT_WR)
            heard = b"".join(iter(lambda: connection.recv(65536), b""))
        running.shutdown()
    assert np.abs(np.frombuffer(heard, "<i2").astype(int) - streamed(denoiser, pcm, 16000)).max() <= 1


@pytest.mark.slow
def test_the_notebook_runs_and_carries_no_output(monkeypatch):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    assert NOTEBOOK.stat().st_size < 10_000
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    ran = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    printed = "".join(
        output.text for cell in ran.cells for output in cell.get("outputs", ()) if output.output_type == "stream"
    )
    before, after = map(float, re.search(r"SI-SDR (\S+) dB before, (\S+) dB after", printed).groups())
    assert after > before + 3
    assert float(re.search(r"latency 32 ms, SI-SDR (\S+) dB", printed)[1]) > before + 3
