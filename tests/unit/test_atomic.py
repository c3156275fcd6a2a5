"""Files that appear whole, whoever else writes them at the same time."""

import os
import re
import signal
import socket
from pathlib import Path

import pytest
from processes import python

from modelscope_ext.atomic import atomic_write, remove_stale_temp_files, require_apart, require_outside, temp_name
from modelscope_ext.audio import write_audio
from modelscope_ext.data.corpus import load_corpus


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_two_writers_of_one_path_both_succeed(tmp_path):
    path = tmp_path / "made" / "file"
    with atomic_write(path) as first:
        first.write_text("the first, which is longer")
        with atomic_write(path) as second:
            second.write_text("the second")
        assert path.read_text() == "the second"
    assert path.read_text() == "the first, which is longer"
    assert names(path.parent) == ["file"]


def test_processes_that_write_one_path_leave_a_whole_file(tmp_path):
    path = tmp_path / "file"
    letters = "abc"
    children = []
    for letter in letters:
        child = os.fork()
        if not child:
            status = 1
            try:
                for _ in range(20):
                    with atomic_write(path) as temp, temp.open("w") as file:
                        for _ in range(20):
                            file.write(letter * 5000)
                            file.flush()
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
    text = path.read_text()
    assert len(text) == 100_000
    assert text in [letter * 100_000 for letter in letters]
    assert names(tmp_path) == ["file"]


def test_two_that_decode_one_corpus_at_once_both_get_it(corpora, tmp_path):
    inner = []

    def begin_another(files):
        inner.append(load_corpus(corpora / "speech", tmp_path / "cache"))
        return files

    outer = load_corpus(corpora / "speech", tmp_path / "cache", progress=begin_another)
    assert outer.names == inner[0].names == ["a.wav", "b.flac"]
    assert (outer.pcm == inner[0].pcm).all()
    assert len(names(tmp_path / "cache")) == 2


def test_a_failed_block_keeps_the_earlier_content(tmp_path):
    path = tmp_path / "file"
    path.write_text("earlier")

    def fail():
        with atomic_write(path) as temp:
            temp.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "earlier"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize(
    "name",
    ["n" * 255, "长" * 85, os.fsdecode(b"\xff" * 255), "a b.wav", "line\nfeed"],
    ids=["long", "wide", "no UTF-8", "blank", "line feed"],
)
def test_every_name_that_a_file_can_have_is_written(tmp_path, name):
    with atomic_write(tmp_path / name) as temp:
        temp.write_text("whole")
        assert temp.name.startswith(".")
    assert names(tmp_path) == [name]


def test_temporary_names_are_unique_short_and_allowed_on_windows():
    made = [temp_name("n" * 255) for _ in range(50)]
    assert len(set(made)) == 50
    assert all(len(name) < 143 and re.fullmatch(r"\.n+\.[0-9a-f-]+-[0-9a-f]+\.half", name) for name in made)
    child = os.fork()
    if not child:
        os._exit(temp_name("n").split("-")[1] == made[0].split("-")[1])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "a child has another process id in its names"


LEAVE = """
import os, signal, sys
from modelscope_ext.atomic import atomic_write
with atomic_write(sys.argv[1]) as temp:
    temp.write_text("ha")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_only_files_of_dead_processes_of_this_host_are_stale(tmp_path):
    assert python("-c", LEAVE, tmp_path / "dead", fails=True).returncode == -signal.SIGKILL
    (left,) = names(tmp_path)
    host, process, _ = left.split(".")[2].split("-")
    others = [
        left.replace(host, "0" * 8 if host != "0" * 8 else "1" * 8),  # of another host, which may be running
        left.replace(process, "1"),  # lives as long as the system does
        ".mine.half",
        ".train.half",
    ]
    for name in others:
        (tmp_path / name).touch()
    (tmp_path / "dead.wav").touch()
    with atomic_write(tmp_path / "alive") as temp:
        temp.touch()
        remove_stale_temp_files(tmp_path)
        assert names(tmp_path) == sorted([*others, temp.name, "dead.wav"])


def test_a_file_keeps_its_permissions_and_a_link_its_place(tmp_path):
    path, link = tmp_path / "elsewhere" / "file", tmp_path / "link"
    path.parent.mkdir()
    path.write_text("earlier")
    path.chmod(0o600)
    link.symlink_to(path)
    with atomic_write(link) as temp:
        temp.write_text("later")
    assert link.is_symlink()
    assert path.read_text() == "later"
    assert path.stat().st_mode & 0o777 == 0o600
    assert names(tmp_path) == ["elsewhere", "link"]
    (tmp_path / "like").touch(0o640)
    for name, like, mode in (("elsewhere/file", "like", 0o600), ("new", "like", 0o640)):
        with atomic_write(tmp_path / name, tmp_path / like) as temp:
            temp.write_text("again")
        assert (tmp_path / name).stat().st_mode & 0o777 == mode
    with atomic_write(tmp_path / "newer", tmp_path / "like") as temp:
        temp.write_text("a source may vanish while it is read")
        (tmp_path / "like").unlink()
    assert (tmp_path / "newer").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "socket"])
def test_a_device_or_a_pipe_is_not_replaced_by_a_file(tmp_path, kind):
    path = tmp_path / "place"
    if kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    else:
        os.mkfifo(tmp_path / "pipe" if "link" in kind else path)
    if "link" in kind:
        path.symlink_to(tmp_path / "pipe")
    before = path.stat()
    with pytest.raises(OSError, match=r"place: cannot be written \(a device or a pipe"), atomic_write(path) as temp:
        temp.write_text("a file")
    with pytest.raises(OSError, match="place: a device or a pipe"):
        require_apart([path], [])
    assert (path.stat().st_mode, path.stat().st_ino) == (before.st_mode, before.st_ino)
    assert not [name for name in names(tmp_path) if name.endswith(".half")]


def test_what_is_read_is_not_written(tmp_path):
    source, other, model = tmp_path / "a.wav", tmp_path / "b.wav", tmp_path / "model"
    model.mkdir()
    for path in (source, other, model / "configuration.json"):
        path.write_text("read")
    (tmp_path / "soft").symlink_to(source)
    os.link(source, tmp_path / "hard")
    (tmp_path / "folder").symlink_to(tmp_path)
    read = [source, other, model, None, "an/id"]
    for target in (source, "soft", "hard", "folder/a.wav", "model/configuration.json", "model/../b.wav"):
        with pytest.raises(OSError, match="is read by this command and would be overwritten"):
            require_apart([None, tmp_path / target], read)
    with pytest.raises(OSError, match=r"new: would be written twice"):
        require_apart([tmp_path / "new", tmp_path / "folder" / "new"], read)
    require_apart([tmp_path / "new", model / "new"], read)


def test_names_that_the_disk_takes_for_one_are_not_written_both(tmp_path, caseless, monkeypatch):
    names = [tmp_path / "new" / name for name in ("Talk.wav", "other.wav", "talk.wav")]
    with pytest.raises(OSError, match=r"talk\.wav: would be written twice, since .*Talk\.wav is the same on this disk"):
        require_apart(names, [])
    with pytest.raises(OSError, match="would be written twice"):
        require_apart([tmp_path / "new" / "caf\u00e9", tmp_path / "new" / "cafe\u0301"], [])
    assert list((tmp_path / "new").iterdir()) == []
    monkeypatch.undo()
    require_apart(names, [])


def test_a_folder_that_is_written_is_not_read(tmp_path):
    (tmp_path / "run" / "output").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "run")
    written = [tmp_path / "run" / "output", tmp_path / "run" / "refused"]
    for source in ("run/output", "run/output/inner", "link/output", "run/refused"):
        with pytest.raises(ValueError, match="is read by this command and would be overwritten"):
            require_outside(tmp_path / source, *written)
    for source in ("run", "run/outputs", "other"):
        require_outside(tmp_path / source, *written)


def test_a_missing_folder_has_no_stale_files(tmp_path):
    remove_stale_temp_files(tmp_path / "none")


def test_sound_files_and_others_share_the_rule(tmp_path):
    """Two writers of one sound file do not meet either."""
    path = Path(tmp_path, "a.wav")
    with write_audio(path, 16000, 1, "WAV", "PCM_16") as first:
        first.write([0.5] * 100)
        with write_audio(path, 16000, 1, "WAV", "PCM_16") as second:
            second.write([0.5] * 10)
        assert path.stat().st_size == 44 + 2 * 10
    assert path.stat().st_size == 44 + 2 * 100
    assert names(tmp_path) == ["a.wav"]
