"""Text from strangers."""

import contextlib
import io
import logging
import shutil
import sys
import time
from pathlib import Path

import pytest
from conftest import EXAMPLES

from modelscope_ext.audio import ProblemsError
from modelscope_ext.cli import common, doctor, execute, main
from modelscope_ext.data.rooms import room_name
from modelscope_ext.data.segments import find_row_problem
from modelscope_ext.data.speakers import speaker_of
from modelscope_ext.doctor import CheckResult
from modelscope_ext.hub import is_id
from modelscope_ext.info import card_licence, card_tables
from modelscope_ext.models import build
from modelscope_ext.text import printable, table_cell

EVIL = "a\x1b[31m\x1b]0;title\x07\u202e\x9b2J\r\nmodelscope-ext: done\x00\x7f"


def test_nothing_that_moves_a_cursor_is_printed():
    assert printable(EVIL).isprintable()
    assert printable("长 ö …") == "长 ö …"
    assert printable(Path("a\nb")) == "a\\nb"


def test_errors_of_several_lines_have_lines_and_names_have_none(capsys):
    def fail(args=None):
        raise ProblemsError(f"{EVIL}: 2 problems", {EVIL: "bad", "b.wav": EVIL})

    assert execute(fail) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line[:16] for line in lines] == ["modelscope-ext: ", "  a\\x1b[31m\\x1b]", "  b.wav: a\\x1b[3"]
    assert all(line.isprintable() for line in lines)
    assert main(["denoise", EVIL.replace("\0", ""), "-o", "out"]) == 1
    assert all(line.isprintable() for line in capsys.readouterr().err.splitlines())
    with pytest.raises(SystemExit):
        main(["denoise", f"-{EVIL}".replace(" ", ""), "-o", "out"])
    assert all(line.isprintable() for line in capsys.readouterr().err.splitlines())


def test_results_on_standard_output_are_safe_to_print(tmp_path, capsys, monkeypatch):
    name = EVIL.replace("\0", "")
    for kind in ("noisy", "clean"):
        (tmp_path / kind).mkdir()
        shutil.copy(EXAMPLES / "noisy.wav", tmp_path / kind)
    pairs = ["--noisy", tmp_path / "noisy", "--clean", tmp_path / "clean", "-o", tmp_path / name]
    assert main(["prepare-data", *map(str, pairs)]) == 0
    monkeypatch.setattr(doctor, "run_checks", lambda model: [CheckResult(EVIL, "problem", EVIL, EVIL)])
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), "not enough memory: MemoryError"),
        (RuntimeError("can't start new thread"), "not enough memory: can't start new thread"),
        (RuntimeError("could not create a primitive"), "not enough memory: could not create a primitive"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "not enough memory: DefaultCPUAllocator: can't "),
        (ImportError("x.so: failed to map segment"), "x.so: failed to map segment"),
    ],
)
def test_scarce_memory_is_an_error_in_one_line(capsys, error, line):
    def fail(args=None):
        raise error

    assert execute(fail) == 1
    assert capsys.readouterr().err.startswith(f"modelscope-ext: {line}")


def test_names_in_the_log_stay_in_their_line(capsys, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])
    common.configure_logging(quiet=False)
    logging.getLogger("modelscope_ext").warning("%s: %d clips\nand more", EVIL, 2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@a"])
def test_no_cell_is_a_formula(text):
    assert table_cell(text) == f"'{text}"
    assert table_cell("a=1.wav") == "a=1.wav"


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: mit\n---", "mit"),
        ("---\nlicense:\n- apache-2.0\n---", "apache-2.0"),
        ("# Model\n\nLicence of the weights: CC BY 4.0.", "CC BY 4.0"),
        ('license: "other"', "other"),
        ("The software is free", None),
        ("licence:", None),
        ("", None),
        (f"licence: {EVIL}", "a\\x1b[31m\\x1b]0;title\\x07\\u202e\\x9b2J"),
    ],
)
def test_the_licence_of_a_card(card, licence):
    assert card_licence(card) == licence


@pytest.mark.parametrize("card", ["licence:" + " " * 10**6 + "x\ny", "licence:\n" * 10**5, "licence " * 10**5 + ":"])
def test_a_card_of_a_megabyte_takes_no_minutes(card):
    assert card_licence(card) in ("x", None)


class Full(io.StringIO):
    """A stream on a full disk."""

    def write(self, text):
        raise OSError(28, "No space left on device")


def test_messages_that_cannot_be_written_stop_nothing(monkeypatch):
    def warn(args=None):
        common.print_error("lost")
        print("what another package prints", file=sys.stderr)
        raise ValueError("lost too")

    monkeypatch.setattr("sys.stderr", Full())
    assert execute(warn) == 1


#: What reads text or names from strangers.
READERS = {
    "licence": card_licence,
    "tables": card_tables,
    "id": is_id,
    "name": printable,
    "cell": table_cell,
    "network": build,
    "speaker": speaker_of,
    "room": lambda text: room_name(Path(text)),
    "row": lambda text: find_row_problem({"noisy": text}),
}
FILLERS = [" ", "\n", "[", "(", "|", "|-", "-", "_", ".", "1", "a", "a/", "_pos1", "licence", "licence:\n"]


@pytest.mark.parametrize("reader", READERS)
def test_time_grows_with_the_length_of_foreign_text_and_no_faster(reader):
    """Eight times the text may take 32 times as long; a quadratic reader takes 64 times."""

    def least(text):
        taken = []
        for _ in range(3):
            begun = time.process_time()
            with contextlib.suppress(ValueError, OSError):
                READERS[reader](text)
            taken.append(time.process_time() - begun)
        return max(min(taken), 2e-3)

    for filler in FILLERS:
        for head, tail in (("", ""), ("a", "!"), ("CRUSE", "x"), ("licence:", "")):
            short, long = (head + filler * (size // len(filler)) + tail for size in (20_000, 160_000))
            assert least(long) < 32 * least(short), (filler, head, tail)
