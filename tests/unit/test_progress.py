"""Progress of long work with and without a terminal."""

import io
import re
import threading

import pytest

from modelscope_ext import progress


class Watched(io.StringIO):
    """A stream that sets an event with each line."""

    def __init__(self, terminal=False):
        super().__init__()
        self.terminal, self.written = terminal, threading.Event()

    def isatty(self):
        return self.terminal

    def write(self, text):
        count = super().write(text)
        self.written.set()
        return count


@pytest.fixture
def stream(monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.01)
    monkeypatch.setattr(progress, "REFRESH_S", 0.01)

    def replace(**options):
        stream = Watched(**options)
        monkeypatch.setattr("sys.stderr", stream)
        return stream

    return replace


def test_lines_come_during_one_long_step_without_a_terminal(stream):
    watched = stream()
    with progress.Bar(total=3, desc="scoring", unit="file") as bar:
        bar.update()
        for _ in range(2):
            watched.written.clear()
            assert watched.written.wait(60)
    lines = watched.getvalue().splitlines()
    assert len(lines) >= 2
    assert re.match(r"scoring:\s+33% 1/3 \[", lines[-1])
    assert "\r" not in watched.getvalue()


def test_a_bar_lives_during_one_long_step_on_a_terminal(stream):
    watched = stream(terminal=True)
    with progress.Bar(range(3), desc="scoring", mininterval=1e9) as bar:
        for _ in bar:
            watched.written.clear()
            assert watched.written.wait(60)
    assert watched.getvalue().count("\r") >= 3


@pytest.mark.parametrize("terminal", [True, False])
def test_quiet_is_quiet(stream, terminal):
    watched = stream(terminal=terminal)
    threads = threading.active_count()
    with progress.Bar(range(3), quiet=True) as bar:
        assert list(bar) == [0, 1, 2]
    assert watched.getvalue() == ""
    assert threading.active_count() == threads
