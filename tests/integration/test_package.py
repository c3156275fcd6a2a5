"""What is shipped: the wheel, the examples, the documents."""

import configparser
import doctest
import os
import re
import subprocess
import sys
import tarfile
import zipfile

import pytest
import soundfile
from conftest import EXAMPLES, ROOT
from packaging.requirements import Requirement

import modelscope_ext
from modelscope_ext.inference import denoiser
from modelscope_ext.pretrained import MODELS

pytestmark = pytest.mark.slow


def run(*command, cwd=ROOT, **environment):
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_the_models_and_nothing_of_the_tests(tmp_path):
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    sizes = {info.filename: info.compress_size for info in zipfile.ZipFile(wheel).infolist()}
    names = list(sizes)
    for folder in MODELS.values():
        for name in ("configuration.json", "model.safetensors", "model.onnx", "README.md"):
            assert f"modelscope_ext/pretrained/{folder.name}/{name}" in names
    assert "modelscope_ext/pretrained/high_band/model.onnx" in names
    assert sum(size for name, size in sizes.items() if "/pretrained/" in name) < 8e6
    assert "modelscope_ext/templates/report.html" in names
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "examples"))]
    assert wheel.stat().st_size < 10e6
    metadata = zipfile.ZipFile(wheel).read(next(name for name in names if name.endswith("METADATA"))).decode()
    assert "Requires-Dist: torch<2.14,>=2.4\n" in metadata
    extras = re.findall(r"Provides-Extra: (\w+)", metadata)
    assert {"metrics", "train", "demo", "test", "dev"} <= set(extras)


def test_what_goes_to_an_index_is_complete(tmp_path):
    """The source archive holds what its tests need; both pass the checks of the index, which shows all pictures."""
    url = "https://example.org/ours"
    run(sys.executable, "-m", "build", "--no-isolation", "-o", tmp_path, ROOT, MODELSCOPE_EXT_URL=f"{url}/")
    (archive,), (wheel,) = tmp_path.glob("*.tar.gz"), tmp_path.glob("*.whl")
    run(sys.executable, "-m", "twine", "check", "--strict", archive, wheel)
    run(sys.executable, "-m", "check_wheel_contents", wheel)
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {"tests/conftest.py", "examples/noisy.wav", "setup.py", "requirements.lock", ".ci/run"} <= names
    opened = zipfile.ZipFile(wheel)
    metadata = opened.read(next(name for name in opened.namelist() if name.endswith("METADATA"))).decode()
    assert f"Project-URL: Repository, {url}\n" in metadata
    assert "License-Expression: Apache-2.0\n" in metadata
    links = re.findall(r"(!?)\[[^]]*]\(([^)]+)\)", metadata)
    assert all(re.match(r"https?:", link) for _, link in links)
    pictures = [link for picture, link in links if picture]
    assert len(pictures) >= 2
    assert all((ROOT / link.removeprefix(f"{url}/raw/main/")).is_file() for link in pictures)


USER = """
import numpy as np

from modelscope_ext import Denoiser

denoiser = Denoiser(attenuation_limit_db=20.0)
stream = denoiser.stream(48000, 2)
latency: float = stream.latency_ms
clean = np.concatenate([stream.feed(np.zeros((480, 2), np.float32)), stream.flush()])
denoiser.file("a.wav", "b.wav", progress=lambda seconds: None)
print(latency, clean.shape, denoiser(np.zeros(10), 16000).dtype)
Denoiser(no_such_option=1)  # type: ignore[call-arg]
"""


def test_a_users_program_passes_strict_mypy(tmp_path):
    """An ignored error that is none fails too: the class is not of type Any."""
    (tmp_path / "user.py").write_text(USER)
    strict = ["--strict", "--follow-imports", "silent", "--cache-dir", tmp_path / "cache"]
    run(sys.executable, "-m", "mypy", *strict, tmp_path / "user.py", MYPYPATH=str(ROOT))


def requirements():
    """Those of the package and of all its extras, by name."""
    config = configparser.RawConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = "\n".join([config["options"]["install_requires"], *config["options.extras_require"].values()]).splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "%"))]


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_every_requirement_is_a_range_and_the_tested_set_is_in_it(requirement):
    assert {each.operator for each in requirement.specifier} == {">=", "<"}
    locked = re.findall(rf"(?m)^{re.escape(requirement.name)}==([^ \n]+)", (ROOT / "requirements.lock").read_text())
    assert locked
    assert requirement.marker or all(requirement.specifier.contains(version) for version in locked)


def test_the_tested_set_is_of_no_index():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    assert all(re.fullmatch(r"[a-z0-9-]+==[^ ]+( ; .+)?", line) for line in lines if not line.startswith("#"))
    assert not [line for line in lines if "://" in line or line.startswith("--")]


@pytest.mark.parametrize("script", ["stream.py", "pipeline.py"])
def test_examples_run(script, tmp_path):
    run(sys.executable, EXAMPLES / script, EXAMPLES / "noisy.wav", tmp_path / "out.wav")
    assert soundfile.info(tmp_path / "out.wav").frames == soundfile.info(EXAMPLES / "noisy.wav").frames


def test_docstrings_that_are_examples():
    for module in (modelscope_ext, denoiser):
        result = doctest.testmod(module)
        assert result.attempted
        assert not result.failed


def test_waiting_threads_spin_shortly_unless_the_user_says_otherwise():
    code = "import os, modelscope_ext; print(os.environ['GOMP_SPINCOUNT'])"
    for given, wanted in ((None, "10000"), ("7", "7")):
        env = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
        env |= {"GOMP_SPINCOUNT": given} if given else {}
        found = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True).stdout
        assert found.strip() == wanted
