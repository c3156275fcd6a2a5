"""Documents: their links, lengths and site, every command and snippet in them, the examples and the notebook."""

import configparser
import os
import re
import runpy
import shlex
import shutil
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

from modelscope_ext import cli

DOCS = ROOT / "docs"
ENGLISH = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
TRANSLATED = {DOCS / "zh" / path.name: path for path in ENGLISH[1:]} | {ROOT / "README_zh.md": ENGLISH[0]}
CHINESE = [path for path in TRANSLATED if path.exists()]
DOCUMENTS = [*ENGLISH, *CHINESE, *(ROOT / f"{name}.md" for name in ("CHANGELOG", "CONTRIBUTING", "SECURITY"))]
DOCUMENTS += sorted((ROOT / "benchmarks").glob("*.md"))
NOTEBOOK = EXAMPLES / "denoise.ipynb"
#: Commands that take seconds; tests of their own run the others.
RUN = {"denoise", "export", "info", "prepare-data", "report"}
#: What needs a network, Ray, many seconds or hours.
NOT_RUN = re.compile("iic/|--engine ray|frcrn|--hours")


def relative(path):
    return str(path.relative_to(ROOT))


def blocks(path, language="[a-z]+"):
    """Return the code blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


def shell_lines(path):
    """Return the shell commands of a page without comments, continuation lines joined."""
    lines = "".join(blocks(path, "sh")).replace("\\\n", " ").splitlines()
    return [" ".join(line.partition("#")[0].split()) for line in lines]


def programs(line):
    """Return the argument lists of `modelscope-ext` in a shell line."""
    for part in re.split(r"[|;&]+", line):
        if found := re.search(r"(?:^|\s|/)(?:modelscope-ext|-m modelscope_ext) (.*)", part):
            yield shlex.split(found[1])


def without_comments(code):
    return [re.split(r"\s+# ", line)[0] for line in code.splitlines()]


def example(name, *arguments, cwd):
    """Run one of `examples/` and return what it prints."""
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


@pytest.fixture
def sandbox(tmp_path, monkeypatch, pairs):
    """Return a working folder with the files and folders that the documents name, two seconds of audio each."""
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    noisy = soundfile.read(pairs / "noisy" / "one.wav", frames=32000)[0]
    for folder in ("recordings", "inbox"):
        (tmp_path / folder).mkdir()
    for name in ("talk.wav", "talk.mp3", "more.wav", "recordings/a.wav", "inbox/b.flac"):
        soundfile.write(tmp_path / name, noisy, 16000)
    for name, target in (("PAIRS", pairs), ("DNS", pairs), ("TEST", pairs)):
        (tmp_path / name).symlink_to(target)
    for name in ("noisy", "clean"):
        (tmp_path / name).symlink_to(pairs / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def anchors(path):
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    return {
        re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in re.findall(r"^#+ .*", text, re.MULTILINE)
    }


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_links_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize(
    "path", [path for path in DOCUMENTS if path.name not in ("NOTES.md", "CHANGELOG.md")], ids=relative
)
def test_lines_and_pages_are_short(path):
    lines = path.read_text().splitlines()
    limits = {"CONTRIBUTING.md": 60, "benchmarks/README.md": 120, "CHANGELOG.md": 1000}
    assert len(lines) <= limits.get(relative(path), 150)
    long = [line for line in lines if len(line) > 120 and " " in line.strip() and not line.startswith("|")]
    assert long == []


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "modelscope_ext.metrics.si_sdr" in (tmp_path / "site" / "reference" / "index.html").read_text()
    pages = [path for path in (tmp_path / "site").rglob("index.html") if path.parent.name != "try"]
    assert len(pages) == len(list(DOCS.rglob("*.md")))
    assert (tmp_path / "site" / "try" / "model.deflate").exists()


@pytest.mark.parametrize("path", CHINESE, ids=relative)
def test_a_translation_has_the_code_and_the_headings_of_the_original(path):
    original = TRANSLATED[path]
    assert [without_comments(code) for code in blocks(path)] == [without_comments(code) for code in blocks(original)]
    ours, theirs = (re.findall(r"^(#+) ", page.read_text(), re.MULTILINE) for page in (path, original))
    assert ours == theirs


def test_every_option_in_the_documents_is_known(capsys):
    helps = {}
    for line in (line for path in ENGLISH for line in shell_lines(path)):
        for arguments in programs(line):
            if arguments[0].startswith("-"):
                continue
            if arguments[0] not in helps:
                with pytest.raises(SystemExit):
                    cli.main([arguments[0], "--help"])
                helps[arguments[0]] = capsys.readouterr().out
            options = {option for option in arguments if re.match("--?[a-z]", option)}
            assert [option for option in options if option not in helps[arguments[0]]] == [], line
    assert len(helps) == 10


@pytest.mark.slow
def test_the_commands_in_the_documents_run(sandbox, capsys):
    lines = dict.fromkeys(line for path in ENGLISH for line in shell_lines(path))
    done = []
    for line in lines:
        arguments = line.split()
        if arguments[:1] != ["modelscope-ext"] or arguments[1] not in RUN or NOT_RUN.search(line):
            continue
        code = cli.main(arguments[1:])
        assert code == 0, (line, capsys.readouterr().err)
        done.append(line)
    assert {line.split()[1] for line in done} == RUN
    assert len(done) > 15


@pytest.mark.slow
def test_the_snippets_in_the_documents_run(sandbox, noisy):
    """All in one namespace and in the order of the pages; those of FRCRN's card run in `test_card` and `test_hub`."""
    snippets = list(dict.fromkeys(code for path in ENGLISH for code in blocks(path, "python")))
    card = [code for code in snippets if "your_local_path" in code or "damo/" in code]
    assert len(card) == 4
    assert cli.main(["export", "-q", "-o", "step.onnx"]) == 0
    names = {}
    for code in snippets:
        if code in card:
            continue
        hop, played = 256 if "(1, 256)" in code else 480, []
        chunks = noisy[: 100 * hop].reshape(-1, hop)
        names |= {"microphone": chunks[:, None] if hop == 256 else list(chunks), "play": played.append}
        exec(compile(code, code, "exec"), names)
        assert not played or sum(chunk.size for chunk in played) == chunks.size, code
    assert (sandbox / "denoised.wav").exists()


def test_a_light_install_has_enough(tmp_path):
    """.ci/run tests it in an environment of its own by tests/light.py."""
    config = configparser.RawConfigParser()
    config.read(ROOT / "setup.cfg")
    left_out = re.findall(r"(?m)^([a-z-]+)>", config["options.extras_require"]["full"])
    assert {"torch", "modelscope", "scipy"} <= set(left_out)
    missing = {name.removeprefix("python-"): None for name in left_out}
    code = f"import sys; sys.modules |= {missing}; from modelscope_ext import cli; sys.exit(cli.main())"
    for arguments in (["denoise", EXAMPLES / "noisy.wav", "-o", tmp_path / "denoised.wav"], ["info"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    refused = {
        "train": "this needs torch, which a light install leaves out: pip install 'modelscope-ext[full]'",
        "evaluate": "this needs pandas, which a light install leaves out: pip install 'modelscope-ext[metrics]'",
        f"denoise --device cuda {EXAMPLES / 'noisy.wav'} -o {tmp_path / 'a.wav'}": "device 'cuda' needs torch: pip",
    }
    for command, reason in refused.items():
        done = subprocess.run([sys.executable, "-c", code, *command.split()], cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert reason in done.stderr
    assert done.stderr.endswith("pip install 'modelscope-ext[full]'\n")


def test_the_map_of_the_house_is_complete():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rooms = [path for path in (ROOT / "modelscope_ext").iterdir() if not path.name.startswith("_")]
    rooms = [path for path in rooms if path.is_dir() or path.suffix == ".py"]
    names = [f"{path.name}/" if path.is_dir() else path.name for path in rooms]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_every_promise_has_its_tests():
    code = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    names = set(re.findall(r"`(test_\w+)`", (ROOT / "SECURITY.md").read_text()))
    assert [name for name in sorted(names) if f"def {name}(" not in code] == []


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
