"""Batches on Ray: first runs, reruns, and killed processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import fsspec
import numpy as np
import pytest
import soundfile
from conftest import EXAMPLES, ROOT

from modelscope_ext.audio import AudioError
from modelscope_ext.batch import manifest as manifests
from modelscope_ext.batch import ray as cluster
from modelscope_ext.batch.manifest import Manifest
from modelscope_ext.batch.plan import Job
from modelscope_ext.batch.ray import Batch, CrashCounter, Worker, make_blocks
from modelscope_ext.cli import main
from modelscope_ext.pretrained import MODELS

RATE = 16000


@pytest.fixture(scope="module")
def ray():
    """Two cores, in processes of their own."""
    # Ray's workers give way to all other work, which can take minutes.
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "PYTHONPATH": str(ROOT)}
    import ray

    ray.init(
        "local",
        num_cpus=2,
        object_store_memory=10**8,
        include_dashboard=False,
        log_to_driver=False,
    )
    yield ray
    ray.shutdown()


@pytest.fixture
def folder(tmp_path, noisy):
    """Two good files and a bad one."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    soundfile.write(tmp_path / "in" / "a.wav", noisy[: 2 * RATE], RATE)
    soundfile.write(tmp_path / "in" / "sub" / "b.flac", np.tile(noisy[:RATE, None], (1, 2)), 22050)
    (tmp_path / "in" / "bad.wav").write_text("text")
    return tmp_path / "in"


def rows(out):
    lines = (out / "manifest.jsonl").read_text().splitlines()
    found = {row["path"]: row for row in map(json.loads, lines)}
    assert len(found) == len(lines)
    return found


def here(batch):
    """`batch.run` without Ray: in this process."""
    worker = Worker(**batch.worker)
    with batch.manifest:
        for job in batch.jobs:
            batch.manifest.append(json.loads(worker({"job": json.dumps(asdict(job))})["row"]))
    return [job.path for job in batch.jobs]


def test_only_what_is_missing_or_has_changed_is_done_again(folder, tmp_path):
    out = tmp_path / "out"

    def again(**options):
        return here(Batch([folder], out, **options))

    assert again() == ["a.wav", "bad.wav", "sub/b.flac"]
    (folder / "bad.wav").unlink()
    assert again() == []
    os.utime(folder / "a.wav", (1, 1))
    assert again() == ["a.wav"]
    (out / "a.wav").unlink()
    assert again() == ["a.wav"]
    content = (out / "a.wav").read_bytes()
    (out / "a.wav").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert again() == ["a.wav"]
    assert (out / "a.wav").read_bytes() == content
    os.utime(out / "a.wav", (1, 1))  # the same content at another time
    assert again() == []
    (out / "sub" / "b.flac").write_bytes(b"")
    assert again() == ["sub/b.flac"]
    assert again(wet=0.5) == ["a.wav", "sub/b.flac"]
    assert again(wet=0.5, attenuation_limit_db=200) == ["a.wav", "sub/b.flac"]
    shutil.copytree(MODELS["file"], tmp_path / "model")
    assert again(wet=0.5, attenuation_limit_db=200, model=tmp_path / "model") == []
    described = tmp_path / "model" / "configuration.json"
    described.write_text(described.read_text() + " ")
    assert again(wet=0.5, attenuation_limit_db=200, model=tmp_path / "model") == ["a.wav", "sub/b.flac"]


def test_the_noise_of_a_row_fell_and_unreadable_files_are_kept(folder, tmp_path):
    (folder / "gone.wav").symlink_to("nowhere")
    batch = Batch([folder], tmp_path / "out")
    here(batch)
    assert batch.unreadable == {str(folder / "gone.wav"): "is no file"}
    assert rows(tmp_path / "out")["a.wav"]["noise_fell_db"] > 10


def test_a_folder_with_a_pattern_in_its_name_keeps_its_manifest(monkeypatch):
    """Its parts are found and merged; a glob would take the brackets for a class of characters."""
    monkeypatch.setattr(manifests, "PART_S", 0)
    memory = fsspec.filesystem("memory")
    try:
        memory.pipe_file("/take[1]*/manifest-1.jsonl", b'{"path": "a.wav"}\n')
        with Manifest(memory, "/take[1]*") as manifest:
            manifest.append({"path": "b.wav"})
        assert Manifest(memory, "/take[1]*").rows.keys() == {"a.wav", "b.wav"}
        assert memory.find("/take[1]*") == ["/take[1]*/manifest.jsonl"]
    finally:
        memory.rm("/", recursive=True)


def test_storage_that_is_no_disk(folder, tmp_path, denoiser, monkeypatch):
    """Read, written, listed and decided by fsspec alone; the manifest comes in parts."""
    monkeypatch.setattr(manifests, "PART_S", 0)
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/talks", recursive=True)
    try:
        batch = Batch(["memory://talks"], "memory://done")
        assert here(batch) == ["a.wav", "bad.wav", "sub/b.flac"]
        for name in ("a.wav", "sub/b.flac"):
            denoiser.file(folder / name, tmp_path / "expected" / name)
            assert memory.cat_file(f"/done/{name}") == (tmp_path / "expected" / name).read_bytes()
        assert memory.find("/done") == ["/done/a.wav", "/done/manifest.jsonl", "/done/sub/b.flac"]
        reason = Manifest(memory, "/done").rows["bad.wav"]["reason"]
        assert reason == "memory:///talks/bad.wav: not readable as audio (Format not recognised)"
        memory.rm("/talks/bad.wav")
        assert Batch(["memory://talks"], "memory://done").jobs == []
        memory.put_file(str(folder / "sub" / "b.flac"), "/talks/sub/b.flac")  # at another time
        assert [job.path for job in Batch(["memory://talks"], "memory://done").jobs] == ["sub/b.flac"]
    finally:
        memory.rm("/", recursive=True)


def test_a_manifest_of_a_killed_process_is_read(tmp_path):
    disk = fsspec.filesystem("file")
    with Manifest(disk, str(tmp_path)) as manifest:
        manifest.append({"path": "a", "n": 1})
        manifest.append({"path": "b", "n": 1})
        manifest.append({"path": "a", "n": 2})
        while_open = Manifest(disk, str(tmp_path)).rows
    with (tmp_path / "manifest.jsonl").open("a") as file:
        file.write('{"path": "c", "n"')
    again = Manifest(disk, str(tmp_path))
    assert again.rows == while_open == {"a": {"path": "a", "n": 2}, "b": {"path": "b", "n": 1}}
    with again:
        again.append({"path": "d", "n": 1})
    assert rows(tmp_path) == {**while_open, "d": {"path": "d", "n": 1}}


class Killed(Worker):
    """Killed by a file "always", and by a file "once" if it is the first to have it."""

    def denoise(self, source, target):
        mark = Path(source.removeprefix("file://") + ".begun")
        if "always" in source or ("once" in source and not mark.exists()):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().denoise(source, target)


@pytest.mark.slow
def test_the_files_of_a_killed_worker_are_done_by_another(ray, tmp_path, denoiser, monkeypatch):
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(cluster, "Worker", Killed)
    names = ["a.wav", "always.wav", "b.wav", "c.wav", "once.wav"]
    (tmp_path / "in").mkdir()
    for name in names:
        shutil.copy(EXAMPLES / "noisy.wav", tmp_path / "in" / name)
    batch = Batch([tmp_path / "in"], tmp_path / "out")
    monkeypatch.setattr(cluster, "make_blocks", lambda jobs, workers: [jobs[:3], jobs[3:]])
    found = {row["path"]: row for row in batch.run()}
    assert sorted(found) == names
    assert {path for path, row in found.items() if row["status"] == "failed"} == {"always.wav"}
    assert "3 workers were killed by it" in found["always.wav"]["reason"]
    assert (tmp_path / "in" / "once.wav.begun").exists()
    denoiser.file(EXAMPLES / "noisy.wav", tmp_path / "whole.wav")
    for name in set(names) - {"always.wav"}:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole.wav").read_bytes()
    assert rows(tmp_path / "out") == found


@pytest.mark.slow
def test_after_a_killed_driver_a_rerun_does_the_rest_as_the_local_engine(ray, folder, tmp_path, capsys, denoiser):
    """Another process starts the batch on the same cluster and is killed after its first result."""
    denoiser.file(EXAMPLES / "noisy.wav", folder / "talk.m4a")
    for number in range(8):
        shutil.copy(EXAMPLES / "noisy.wav", folder / f"{number}.wav")
    address, out = ray.get_runtime_context().gcs_address, tmp_path / "out"
    options = ["--engine", "ray", "--ray-address", address, "--workers", "1", "--wet", "0.9"]
    arguments = ["denoise", "-q", f"file://{folder}", "-o", str(out), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    manifest = out / "manifest.jsonl"
    with subprocess.Popen([sys.executable, "-m", "modelscope_ext", *arguments], env=environment) as driver:
        until = time.monotonic() + 300
        while not (manifest.exists() and b'"done"' in manifest.read_bytes()) and time.monotonic() < until:
            assert driver.poll() is None
            time.sleep(0.02)
        driver.kill()
    lines = [json.loads(line) for line in manifest.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    done = [row["path"] for row in lines if row["status"] == "done"]
    assert 1 <= len(done) < 11
    time.sleep(1)  # its workers may be at their last file
    before = {path: (out / path).stat() for path in done}
    assert main(arguments) == 1
    errors = capsys.readouterr().err
    assert f"{folder}/bad.wav: not readable as audio" in errors
    assert "files failed" in errors
    for path, stat in before.items():
        now = (out / path).stat()
        assert (now.st_ino, now.st_mtime_ns) == (stat.st_ino, stat.st_mtime_ns), path
    found = rows(out)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")}
    assert found.keys() == names
    assert {path for path, row in found.items() if row["status"] == "failed"} == {"bad.wav"}
    assert "not readable" in found["bad.wav"]["reason"]
    row = found["a.wav"]
    assert (row["status"], row["duration"], row["reason"]) == ("done", 2.0, None)
    assert row["source"] == f"file://{folder}/a.wav"
    assert row["size"] == (folder / "a.wav").stat().st_size
    assert row["seconds"] > 0
    assert main(["denoise", "-q", str(folder), "-o", str(tmp_path / "local"), "--wet", "0.9"]) == 1
    for name in names - {"bad.wav"}:
        assert (out / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
    (folder / "bad.wav").unlink()
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    assert main(arguments) == 0
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*")}


def test_warnings_of_a_worker_are_in_its_row(folder, tmp_path):
    audio = np.random.default_rng(0).standard_normal(32000) * 0.1
    soundfile.write(tmp_path / "whole.flac", audio, 16000)
    content = (tmp_path / "whole.flac").read_bytes()
    (folder / "cut.flac").write_bytes(content[: len(content) // 2])
    batch = Batch([folder], tmp_path / "out")
    here(batch)
    rows = batch.manifest.rows
    assert "cut.flac: " in rows["cut.flac"]["warnings"][0]
    assert all(row["warnings"] is None for path, row in rows.items() if path != "cut.flac")


def test_a_worker_with_another_model_does_not_begin(folder, tmp_path):
    batch = Batch([folder], tmp_path / "out")
    with pytest.raises(ValueError, match=r"the model in the package: on .* another one than where the batch"):
        Worker(batch.worker["options"], {**batch.settings, "model": "another"})


def test_crashes_are_counted():
    crashes = CrashCounter()
    assert [crashes.begin("a"), crashes.begin("a"), crashes.begin("b")] == [0, 1, 0]
    crashes.end("b")
    assert [crashes.begin("b"), crashes.begin("a")] == [0, 2]


def test_work_is_cut_for_all_workers():
    small, large = (Job("a.wav", "file:///a.wav", "file:///out/a.wav", size) for size in (1000, 2**27))
    assert [len(block) for block in make_blocks([small] * 1000, 2)] == [16] * 62 + [8]
    assert [len(block) for block in make_blocks([small] * 3, 2)] == [1, 1, 1]
    assert [len(block) for block in make_blocks([large] * 40, 2)] == [1] * 40
    assert make_blocks([small, large, small], 1) == [[large], [small], [small]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in", "-o", "out", "--engine", "ray", "--skip-existing"], "always skips finished files"),
        (["in/a.wav", "-o", "out", "--engine", "ray", "--spectrogram", "p.png"], "leave out --spectrogram"),
        (["in", "-o", "in/a.wav", "--engine", "ray"], "is a file, but the output must be a folder"),
        (["in", "-o", "in", "--engine", "ray"], "is the output folder"),
        (["in/a.wav", "-o", "in", "--engine", "ray"], "would overwrite its own input"),
        (["in", "in/a.wav", "-o", "out", "--engine", "ray"], "would both become"),
        (["nothing", "-o", "out", "--engine", "ray"], "nothing: no such file"),
        (["s3x://bucket/talks", "-o", "out", "--engine", "ray"], "Protocol not known: s3x"),
        (["in", "-o", "out", "--engine", "ray", "--device", "cuda:1"], "the device is cpu or cuda, got cuda:1"),
        (["in", "-o", "out", "--engine", "ray", "--wet", "2"], "wet must be 0 … 1, got 2.0"),
        (["in", "-o", "out", "--engine", "ray", "--workers", "0"], "--workers must be at least 1, got 0"),
        (["in", "-o", "out", "--workers", "2"], "--workers and --ray-address are for --engine ray"),
        (["s3://bucket/talks", "-o", "out"], "s3://bucket/talks: URLs need --engine ray"),
    ],
)
def test_what_cannot_be_done_is_reported(folder, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(folder.parent)
    assert main(["denoise", "-q", *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not (folder.parent / "out").exists()


def test_results_inside_the_input_are_no_input(folder):
    (folder / "bad.wav").unlink()
    assert here(Batch([folder], folder / "clean")) == ["a.wav", "sub/b.flac"]
    assert Batch([folder], folder / "clean").jobs == []


def test_without_ray_the_error_says_how_to_install_it(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["denoise", "-q", str(folder), "-o", str(tmp_path / "out"), "--engine", "ray"]) == 1
    assert "--engine ray needs Ray: pip install 'modelscope-ext[ray]'" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["127.0.0.1:9", "no port:x"])
def test_no_cluster_is_an_error(folder, tmp_path, monkeypatch, address):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ValueError, match=f"no Ray cluster at {address}: "):
        list(Batch([folder], tmp_path / "out").run(address))


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(AudioError, match="no audio files in this folder"):
        Batch([tmp_path], tmp_path / "out")
