"""Plans of batches on a disk, and their local runs."""

from pathlib import Path

import fsspec
import pytest
import soundfile
from conftest import RATE

from modelscope_ext.audio import AudioError
from modelscope_ext.batch.local import probe, run
from modelscope_ext.batch.plan import Job, plan


@pytest.fixture
def folder(tmp_path, noisy, monkeypatch):
    """`in` in the current folder, with three files, a hidden one and a text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name in ("in/a.wav", "in/sub/b.FLAC", "in/sub/c.wav", "in/.hidden.wav"):
        soundfile.write(tmp_path / name, noisy[:RATE], RATE)
    (tmp_path / "in" / "notes.txt").write_text("text")
    return Path("in")


def test_a_folder_is_mirrored_by_paths_as_given(folder):
    jobs = plan([folder, "other.wav"], "out", {})
    assert [(str(job.source), str(job.target), job.path) for job in jobs] == [
        ("in/a.wav", "out/a.wav", "a.wav"),
        ("in/sub/b.FLAC", "out/sub/b.FLAC", "sub/b.FLAC"),
        ("in/sub/c.wav", "out/sub/c.wav", "sub/c.wav"),
        ("other.wav", "out/other.wav", "other.wav"),
    ]


@pytest.mark.parametrize(
    ("output", "target"),
    [
        ("new/x.wav", "new/x.wav"),
        ("x.3gp", "x.3gp"),
        ("new.2026", "new.2026/a.wav"),
        ("new", "new/a.wav"),
        ("folder.wav", "folder.wav/a.wav"),
        ("in/a.wav", "in/a.wav"),
    ],
)
def test_one_file_goes_to_a_file_name_or_a_folder(folder, output, target):
    Path("folder.wav").mkdir()
    assert plan([folder / "a.wav"], output, {}) == [Job(Path(target).name, folder / "a.wav", Path(target))]


def test_a_cluster_gets_urls_sizes_and_stamps(folder):
    source = Path("in/a.wav").absolute()
    (job,) = plan([folder / "a.wav"], "x.wav", {}, cluster=True)
    assert (job.source, job.target) == (f"file://{source}", f"file://{Path.cwd()}/x.wav/a.wav")
    assert (job.path, job.size, job.stamp) == ("a.wav", source.stat().st_size, str(source.stat().st_mtime))


@pytest.mark.parametrize("cluster", [False, True])
def test_earlier_results_are_no_input_even_by_links(folder, cluster):
    (folder / "out" / "sub").mkdir(parents=True)
    (folder / "out" / "sub" / "c.wav").write_text("earlier")
    Path("link").symlink_to("in/out")
    paths = ["a.wav", "sub/b.FLAC", "sub/c.wav"]
    assert [job.path for job in plan([folder], folder / "out", {}, cluster=cluster)] == paths
    assert [job.path for job in plan([folder], "link", {}, cluster=cluster)] == paths


def test_storage_is_planned_like_a_disk(folder):
    memory = fsspec.filesystem("memory")
    memory.put("in", "/talks", recursive=True)
    try:
        found = plan(["memory://talks"], "memory://talks/out", {}, cluster=True)
        assert [job.path for job in found] == [job.path for job in plan([folder], "out", {}, cluster=True)]
        assert {job.size for job in found if job.path != "sub/b.FLAC"} == {Path("in/a.wav").stat().st_size}
        assert found[0].source == "memory:///talks/a.wav"
        assert found[0].target == "memory:///talks/out/a.wav"
    finally:
        memory.rm("/", recursive=True)


def test_two_results_that_the_disk_takes_for_one_are_an_error(folder, caseless):
    for name in ("one/Talk.wav", "two/talk.wav"):
        Path(name).parent.mkdir()
        Path(name).write_bytes(Path("in/a.wav").read_bytes())
    for cluster in (False, True):
        with pytest.raises(AudioError, match=r"out/Talk\.wav and .*out/talk\.wav would be one file on this disk"):
            plan(["one", "two"], "out", {}, cluster=cluster)


def test_two_inputs_of_one_result_are_an_error(folder):
    with pytest.raises(AudioError, match=r"^in/sub/c.wav and in/sub/c.wav would both become out/c.wav$"):
        plan([folder / "sub", folder / "sub" / "c.wav"], "out", {})


@pytest.mark.parametrize("output", ["in/a.wav", "in/notes.txt", "/dev/null"])
def test_the_output_of_a_folder_is_no_file(folder, output):
    with pytest.raises(AudioError, match=f"^{output}: is a file, but the output must be a folder$"):
        plan([folder], output, {})


def test_a_run_goes_on_after_a_bad_file(folder, denoiser):
    (folder / "bad.wav").write_text("text")
    jobs = plan([folder, "none.wav"], "out", {})
    seconds, unreadable = probe(jobs)
    assert sum(seconds.values()) == 3
    assert {job.path: str(error).partition(": ")[2] for job, error in unreadable.items()} == {
        "bad.wav": "not readable as audio (Format not recognised)",
        "none.wav": "no such file",
    }
    done: list[float] = []
    results = list(run(jobs, denoiser, done.append))
    assert [job for job, _ in results] == jobs
    assert [job for job, result in results if isinstance(result, AudioError)] == list(unreadable)
    assert sum(done) == pytest.approx(3)
    assert [job for job in jobs if job.target.exists()] == [job for job in jobs if job not in unreadable]


def nested(folder: Path) -> None:
    (folder / "in").mkdir()
    (folder / "in" / "a.wav").write_bytes((folder / "sub" / "c.wav").read_bytes())


def linked(folder: Path) -> None:
    Path("real").symlink_to(folder)
    nested(folder)


def hard_linked(folder: Path) -> None:
    Path("out").mkdir()
    Path("out/a.wav").hardlink_to(folder / "sub" / "c.wav")


@pytest.mark.parametrize(
    ("prepare", "output"),
    [(nested, "."), (linked, "real/.."), (hard_linked, "out")],
    ids=["nested", "link", "hard link"],
)
@pytest.mark.parametrize("cluster", [False, True])
def test_no_result_overwrites_another_input(folder, prepare, output, cluster):
    prepare(folder)
    with pytest.raises(AudioError, match="is an input too, and"):
        plan([folder], output, {}, cluster=cluster)


def test_results_may_be_written_again(folder):
    first = plan([folder], "out", {})
    for job in first:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        job.target.write_bytes(job.source.read_bytes())
    assert plan([folder], "out", {}) == first


def test_what_cannot_be_read_is_named_as_given_and_the_rest_goes_on(folder, caplog):
    (folder / "gone.wav").symlink_to("nowhere")
    Path("none").mkdir()
    for cluster in (False, True):
        unreadable = {}
        assert len(plan([folder, "none"], "out", unreadable, cluster=cluster)) == 3
        assert unreadable == {"in/gone.wav": "is no file", "none": "no audio files in this folder"}
    assert caplog.text == ""
    assert len(plan([folder], "out")) == 3
    assert "in/gone.wav: is no file" in caplog.text
    with pytest.raises(AudioError, match=r"^none: no audio files in this folder$"):
        plan(["none"], "out")
