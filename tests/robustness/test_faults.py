"""Killed processes, full or read-only disks, files that change: nothing is lost, and no part is taken for the whole.

Killed training is in test_training_loop, killed and cut downloads in test_hub, killed `prepare-data` in
test_dataset.
"""

import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import soundfile
import torch
from conftest import EXAMPLES, ROOT
from helpers import CRUSE_CONFIG, mixture_loop, segment_loop
from processes import python

from modelscope_ext.atomic import atomic_write
from modelscope_ext.audio import AudioError, reading
from modelscope_ext.cli import main
from modelscope_ext.inference import file as enhance
from modelscope_ext.pretrained import DEFAULT, MODELS

pytestmark = pytest.mark.slow
RATE = 16000
NOISY = EXAMPLES / "noisy.wav"


def everything(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# Killed

KILLED_DENOISING = """
import os, signal, sys
from modelscope_ext import cli
from modelscope_ext.audio.reading import AudioFile
from modelscope_ext.inference import file as enhance
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
enhance.BLOCK_S = 1.0
blocks = AudioFile.blocks

def until_killed(file, seconds):
    for number, block in enumerate(blocks(file, seconds)):
        if number == 3 and "b.wav" in file.name:
            os.kill(os.getpid(), signal.SIGKILL)
        yield block

AudioFile.blocks = until_killed
sys.exit(cli.main(["denoise", *sys.argv[1:]]))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, 130)])
def test_a_signal_leaves_nothing_half_written(tmp_path, number, code):
    (tmp_path / "in").mkdir()
    for name in ("a.wav", "b.wav"):
        shutil.copy(NOISY, tmp_path / "in" / name)
    program = KILLED_DENOISING.replace("SIGKILL", signal.Signals(number).name)
    assert python("-c", program, tmp_path / "in", "-o", tmp_path / "out", fails=True).returncode == code
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.wav"]


STOPPED_WRITING = """
import os, signal, sys
from modelscope_ext import cli
sync = os.fsync
def stop(file):
    os.kill(os.getpid(), signal.SIGTERM)
    sync(file)
os.fsync = stop
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("name", ["report", "export", "prepare-data"])
def test_sigterm_leaves_no_temporary_file(arranged, tmp_path, name):
    out = tmp_path / "out"
    arguments = commands(out, *arranged)[name][0]
    assert python("-c", STOPPED_WRITING, *arguments, fails=True).returncode == 128 + signal.SIGTERM
    assert [path.name for path in out.rglob("*") if path.is_file()] == []


def test_killed_while_it_denoises_a_rerun_does_the_rest(denoiser, tmp_path, monkeypatch):
    monkeypatch.setattr(enhance, "BLOCK_S", 1.0)  # as there: the last bits depend on it
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name in ("a.wav", "b.wav", "c.wav"):
        shutil.copy(NOISY, source / name)
    assert python("-c", KILLED_DENOISING, source, "-o", out, fails=True).returncode == -signal.SIGKILL
    done = out / "a.wav"
    left = [p.name for p in out.iterdir() if p != done]
    assert [re.fullmatch(r"\.b\.wav\..+\.half", name) is not None for name in left] == [True]
    before = done.stat()
    assert main(["denoise", "-q", str(source), "-o", str(out), "--skip-existing"]) == 0
    assert (done.stat().st_ino, done.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    denoiser.file(NOISY, tmp_path / "whole.wav")
    for name in ("a.wav", "b.wav", "c.wav"):
        assert (out / name).read_bytes() == (tmp_path / "whole.wav").read_bytes()
    assert sorted(p.name for p in out.iterdir()) == ["a.wav", "b.wav", "c.wav"]


KILLED_WRITING = """
import os, signal, sys
from modelscope_ext.atomic import atomic_write
with atomic_write(sys.argv[1]) as temp:
    temp.write_text("ha")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_while_it_writes_the_earlier_file_is_there(tmp_path):
    path = tmp_path / "made" / "file"
    for content in ("first", "second"):
        with atomic_write(path) as temp:
            temp.write_text(content)
            assert not path.exists() or path.read_text() == "first"
        assert python("-c", KILLED_WRITING, path, fails=True).returncode == -signal.SIGKILL
        assert path.read_text() == content
    with pytest.raises(UnicodeEncodeError), atomic_write(path) as temp:
        temp.write_text("third\ud800", encoding="utf-8")
    left = everything(tmp_path)
    assert left.pop("made/file") == b"second"
    assert all(content == b"ha" for content in left.values()), "only what was killed is left"


# Full

LIMIT = 20_000


@pytest.fixture
def full_disk(request, tmp_path):
    """Return a folder where nothing above 20 kB can be written, by a limit for files or the size of the disk."""
    folder = tmp_path / "full"
    folder.mkdir()
    if request.param == "limit":
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))
        yield folder
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        return
    yield from mounted(folder, f"size={LIMIT}")


def mounted(folder, options):
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting is not permitted")
    yield folder
    subprocess.run(["umount", folder], check=True)


def commands(out, corpora, config):
    """Name → (arguments, the file or folder that is written)."""
    pairs = ["--noisy", corpora / "speech", "--clean", corpora / "speech"]
    train = ["train", "-q", "--device", "cpu", "--config", config, "--data-dir", corpora]
    return {
        "denoise": (["denoise", "-q", NOISY, "-o", out / "talk.wav"], "talk.wav"),
        "denoise, flac": (["denoise", "-q", NOISY, "-o", out / "talk.flac"], "talk.flac"),
        "report": (["report", "-q", NOISY, "-o", out / "page.html"], "page.html"),
        "export": (["export", "-q", "-o", out / "net.onnx"], "net.onnx"),
        "prepare-data": (["prepare-data", "-q", *pairs, "-o", out / "data"], "data/train"),
        "train": ([*train, "--work-dir", out / "run"], "run/cache/speech"),
    }


NAMES = list(commands(ROOT, ROOT, ROOT))


@pytest.fixture
def arranged(corpora, tmp_path):
    """Return the arguments of `commands` without the folder."""
    config = tmp_path / "train.json"
    config.write_text(json.dumps(CRUSE_CONFIG))
    (corpora / "speech" / "b.flac").unlink()
    noise = np.random.default_rng(0).standard_normal(3 * RATE) * 0.1
    soundfile.write(corpora / "speech" / "a.wav", noise, RATE)
    return corpora, config


@pytest.mark.parametrize(
    ("full_disk", "name"),
    # A report's sound files lie in the system's folder for such, where the limit would stop it before.
    [(disk, name) for disk in ("limit", "tmpfs") for name in NAMES if (disk, name) != ("limit", "report")],
    indirect=["full_disk"],
)
def test_a_full_disk_is_told_and_leaves_what_was_there(arranged, full_disk, name, capsys):
    arguments, written = commands(full_disk, *arranged)[name]
    earlier = full_disk / written
    if earlier.suffix:
        earlier.write_text("earlier")
    assert main(list(map(str, arguments))) == 1
    errors = capsys.readouterr().err
    assert f"{full_disk / written}" in errors
    assert re.search(r"No space left on device|File too large|no space left on the disk|is there a quota", errors)
    assert "Traceback" not in errors
    assert not earlier.suffix or earlier.read_text() == "earlier"
    parts = {p.name for p in full_disk.rglob("*") if p.is_file()} - {earlier.name, "plan.json"}
    assert not parts, "a temporary file is left"


@pytest.mark.parametrize("kind", ["segments", "mixtures"])
def test_a_full_disk_spares_the_last_checkpoint(arranged, tmp_path, kind):
    """A run that could not save continues from the previous checkpoint when there is room again."""
    corpora, config = arranged
    work = tmp_path / "run"

    def make(steps):
        if kind == "segments":
            return segment_loop(work, epochs=steps)
        config.write_text(
            json.dumps({**CRUSE_CONFIG, "steps": steps, "validation": {**CRUSE_CONFIG["validation"], "every": 100}})
        )
        return mixture_loop(config, corpora, work)

    make(1 if kind == "segments" else 2).run()
    checkpoint = work / ("epoch_1.pth" if kind == "segments" else "last.pt")
    before, limit = checkpoint.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    again = make(4)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limit[1]))
    try:
        failing = r"(best|epoch_2)\.pth" if kind == "segments" else r"last\.pt"
        with pytest.raises(OSError, match=rf"{failing}: cannot be written \(File too large\)"):
            again.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert checkpoint.read_bytes() == before
    assert not list(work.glob(".*.half"))
    torch.load(checkpoint, weights_only=True)


# Failing


def test_a_disk_that_fails_costs_its_file_only(tmp_path, monkeypatch, capsys):
    source, open_decoder = tmp_path / "in", reading.open_decoder
    source.mkdir()
    for name in ("a.wav", "b.wav", "c.wav", "d.wav"):
        shutil.copy(NOISY, source / name)

    def open_or_fail(file, name, track):
        decoder = open_decoder(file, name, track)
        if name.endswith("b.wav"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if name.endswith("c.wav"):
            monkeypatch.setattr(decoder, "read", lambda length: file.seek(-1))
        return decoder

    monkeypatch.setattr(reading, "open_decoder", open_or_fail)
    assert main(["denoise", "-q", str(source), "-o", str(tmp_path / "out")]) == 1
    errors = capsys.readouterr().err
    assert f"{source / 'b.wav'}: [Errno 5] Input/output error" in errors
    assert f"{source / 'c.wav'}: [Errno 22] Invalid argument" in errors
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.wav", "d.wav"]


# Read-only


@pytest.fixture(params=["a file instead of the folder", "a read-only disk"])
def closed_folder(request, tmp_path):
    folder = tmp_path / "closed"
    if request.param == "a file instead of the folder":
        folder.write_text("a file")
        yield folder / "inside"
        return
    folder.mkdir()
    yield from mounted(folder, "ro")


@pytest.mark.parametrize("name", NAMES)
def test_where_nothing_can_be_written_it_is_told(arranged, closed_folder, name, capsys):
    arguments, _ = commands(closed_folder, *arranged)[name]
    assert main(list(map(str, arguments))) == 1
    errors = capsys.readouterr().err
    assert str(closed_folder) in errors
    assert re.search("Not a directory|Read-only file system", errors)
    assert "Traceback" not in errors


# Read and written

#: Arguments of commands that would write onto what they read; {0} is a folder with pairs, a recording, which is also
#: standard input, and the models of this package.
ONTO = {
    "denoise": "denoise {0}/a.wav -o {0}/a.wav",
    "denoise, by a link": "denoise {0}/a.wav -o {0}/link.wav",
    "denoise, in place": "denoise {0}/noisy -o {0}/noisy",
    "report": "report {0}/a.wav -o {0}/a.wav",
    "report, by a link": "report {0}/noisy -o {0}/hard.wav",
    "report, the reference": "report {0}/noisy/x.wav --reference {0}/clean/x.wav -o {0}/clean/x.wav",
    "spectrogram": "denoise {0}/a.wav -o {0}/out.wav --spectrogram {0}/a.wav",
    "spectrogram, the result": "denoise {0}/a.wav -o {0}/out.wav --spectrogram {0}/../data/out.wav",
    "evaluate, json": "evaluate --metrics si_sdr --workers 1 --pairs {0} --json {0}/noisy/x.wav",
    "evaluate, csv": "evaluate --metrics si_sdr --workers 1 --pairs {0} --csv {0}/hard.wav",
    "standard input": "denoise - -o {0}/a.wav",
    "standard input, by a link": "denoise - -o {0}/link.wav",
    "standard input, the model": "denoise - -o {0}/model/copy.wav --model {0}/model/copy.wav",
    "denoise, the model": "denoise {0}/a.wav -o {0}/out.wav --spectrogram {0}/model/configuration.json",
    "report, the model": "report {0}/a.wav -o {0}/model/README.md",
    "export, the model": "export -o {0}/link.onnx",
    "evaluate, the model": "evaluate --metrics si_sdr --pairs {0} --json {0}/model/configuration.json",
    "train, the configuration": "train --config {0}/run/log.csv --data-dir {0} --work-dir {0}/run",
    "evaluate, both": "evaluate --metrics si_sdr --workers 1 --pairs {0} --csv {0}/new --json {0}/new",
}


@contextmanager
def standard_input(path):
    """Give this process a file as standard input."""
    before, text = os.dup(0), sys.stdin
    with path.open() as file:
        os.dup2(file.fileno(), 0)
        sys.stdin = file
        yield
    sys.stdin = text
    os.dup2(before, 0)
    os.close(before)


@pytest.mark.parametrize("arguments", ONTO.values(), ids=ONTO)
def test_nothing_that_is_read_is_overwritten(tmp_path, arguments, capsys, monkeypatch):
    data = tmp_path / "data"
    shutil.copytree(DEFAULT, data / "model")
    shutil.copy(data / "model" / "model.onnx", data / "model" / "copy.wav")
    (data / "link.onnx").symlink_to(data / "model" / "configuration.json")
    for name in MODELS:
        monkeypatch.setitem(MODELS, name, data / "model")
    (data / "run").mkdir()
    (data / "run" / "log.csv").write_text(json.dumps(CRUSE_CONFIG))
    for kind in ("noisy", "clean"):
        (data / kind).mkdir(parents=True)
        shutil.copy(NOISY, data / kind / "x.wav")
    shutil.copy(NOISY, data / "a.wav")
    (data / "link.wav").symlink_to(data / "a.wav")
    os.link(data / "noisy" / "x.wav", data / "hard.wav")
    before = everything(tmp_path)
    with standard_input(data / "a.wav"):
        assert main(arguments.format(data).split()) == 1
    assert re.search("overwrit|written twice", capsys.readouterr().err)
    assert everything(tmp_path) == before
    assert (data / "link.wav").is_symlink()


# Changed while it is read


@pytest.mark.parametrize("format", ["wav", "flac", "ogg", "mp3"])
def test_a_source_that_shrinks_is_told(denoiser, tmp_path, format):
    source, target = tmp_path / f"talk.{format}", tmp_path / f"out.{format}"
    soundfile.write(source, np.random.default_rng(0).standard_normal(45 * RATE) * 0.1, RATE)
    target.write_text("earlier")

    def shrink(seconds):
        os.truncate(source, source.stat().st_size // 3)

    with pytest.raises(AudioError, match=rf"talk\.{format}: (cut off|damaged)"):
        denoiser.file(source, target, shrink)
    assert target.read_text() == "earlier"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([source.name, target.name])


def test_of_a_source_that_grows_what_was_there_is_taken(denoiser, tmp_path):
    source, target, expected = (tmp_path / f"{name}.wav" for name in ("talk", "out", "expected"))
    soundfile.write(source, np.random.default_rng(0).standard_normal(15 * RATE) * 0.1, RATE)
    denoiser.file(source, expected)

    def grow(seconds):
        with source.open("ab") as file:
            file.write(b"\7" * 100_000)

    denoiser.file(source, target, grow)
    assert target.read_bytes() == expected.read_bytes()


def test_a_source_that_is_replaced_is_read_to_its_end(denoiser, tmp_path):
    source, target, expected = (tmp_path / f"{name}.wav" for name in ("talk", "out", "expected"))
    soundfile.write(source, np.random.default_rng(0).standard_normal(15 * RATE) * 0.1, RATE)
    denoiser.file(source, expected)

    def replace(seconds):
        (tmp_path / "new").write_text("something else")
        (tmp_path / "new").replace(source)

    denoiser.file(source, target, replace)
    assert target.read_bytes() == expected.read_bytes()


# Scarce memory

SCARCE = """
import resource, sys
from modelscope_ext import cli
from modelscope_ext.cli import prepare_data, train
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 60 * 2**20, used + 60 * 2**20))
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("name", ["prepare-data", "train"])
def test_no_thread_begins_without_memory(arranged, tmp_path, name):
    """A thread of CPython 3.11 that gets none runs forever, and its parent waits for it."""
    done = python("-c", SCARCE, *commands(tmp_path, *arranged)[name][0], fails=True)
    assert re.fullmatch(r"modelscope-ext: not enough memory: threads need \d+ MB of addresses\n", done.stderr)
