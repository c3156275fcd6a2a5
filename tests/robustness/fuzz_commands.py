"""Command lines and raw samples: odd names, folders, pipes, links and options."""

import contextlib
import io
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from fuzz_common import PATIENCE_S, Models, outcome
from fuzz_sounds import a_file, counted, mutated, seed_file

from modelscope_ext.cli import main

NAMES = [
    "plain",
    "two words",
    "line\nfeed",
    "tab\t",
    "-q",
    "--",
    "语音",
    "مرحبا",
    "\u202eevil",
    "🎤👩‍🔬",
    "e\u0301",
    "%s{}",
    "*?[a]",
]
NAMES += ["'\"`$(x);|&", "\x1b[31mred\x1b[0m", "\udcff\udcfe", "é".encode("latin-1").decode(errors="surrogateescape")]
NAMES += ["n" * 250, "长" * 83, " ", ".hidden", "a.wav.wav", "\\", "\x7f\x01", "con", "~"]


def place(rng: np.random.Generator, folder: Path, what: str) -> Path:
    """Make something with the name of an audio file and return its path."""
    path = folder / f"{NAMES[rng.integers(len(NAMES))]}.wav"
    with contextlib.suppress(OSError):
        if os.path.lexists(path):  # to write into a pipe would take for ever
            pass
        elif what == "folder":
            path.mkdir()
        elif what == "pipe":
            os.mkfifo(path)
        elif what == "socket":
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(os.fsencode(os.path.relpath(path)))
        elif what == "link":
            path.symlink_to(
                rng.choice(["/dev/zero", "/dev/full", "/dev/null", "nothing", path.name, "..", "other.wav"])
            )
        elif what == "other":
            path.write_bytes(mutated(a_file(rng)[1], rng))
        elif what == "whole":
            path.write_bytes(seed_file(("WAV", "PCM_16"), 16000, 1, int(rng.integers(2000))))
    return path


def arguments(rng: np.random.Generator, folder: Path) -> tuple[list[str], list[Path], Path]:
    """Return the arguments of `denoise`, its inputs and its output."""
    (folder / "in").mkdir()
    kinds = ["whole", "whole", "whole", "other", "other", "folder", "pipe", "socket", "link", "missing"]
    inputs = [place(rng, folder / "in", rng.choice(kinds)) for _ in range(rng.choice([1, 1, 2, 4]))]
    if rng.random() < 0.3:
        inputs = [folder / "in"]
    output = folder / rng.choice(["out", "out", "out.wav", "out.wav", "new/folder", "in", "loop", "file"])
    (folder / "loop").symlink_to("loop")
    (folder / "file").write_text("a file")
    if rng.random() < 0.1:
        output = inputs[0]
    options = ["-q"] if rng.random() < 0.8 else []
    for name, values in (
        ("--wet", "0.5 1 2 -1 nan inf x"),
        ("--attenuation-limit", "0 12 inf nan -3"),
        ("--device", "cpu x"),
    ):
        if rng.random() < 0.1:
            options.append(f"{name}={rng.choice(values.split())}")
    if rng.random() < 0.1:
        options.append("--skip-existing")
    return ["denoise", *options, "-o", str(output), "--", *map(str, inputs)], inputs, output


def command(models: Models, rng: np.random.Generator, folder: Path, run: Callable | None = None) -> str:
    given, inputs, output = arguments(rng, folder)
    model = models.onnx if run or rng.random() < 0.2 else models.folder
    code, errors = (run or in_process)([given[0], "--model", str(model), *given[1:]])
    return check_command(code, errors, given, inputs, output, folder, run is not None)


#: Messages that mpg123 in libsndfile prints.
MPG123 = ("Note: ", "Warning: ", "[src/libmpg123/", "\n")


def check_command(
    code: int, errors: str, given: list[str], inputs: list[Path], output: Path, folder: Path, alone: bool
) -> str:
    assert code in (0, 1, 2), (code, errors)
    assert "Traceback" not in errors, errors
    left = list(folder.rglob(".*.half"))
    assert not left, left
    told = [line for line in errors.splitlines() if line.startswith("modelscope-ext: ")]
    if code == 1:
        assert told
        if "-q" in given and alone:  # all that is said is the reasons, each in one line
            others = [line for line in errors.splitlines() if line not in told]
            assert all(line.startswith(MPG123) for line in others), others
    elif code == 0 and "--skip-existing" not in given and len(inputs) == 1 and inputs[0].is_file():
        target = output / inputs[0].name if output.is_dir() else output
        assert counted(target) == counted(inputs[0])
    names = [text.encode("unicode_escape").decode() for path in (*inputs, folder) for text in (str(path),)]
    return {0: "done", 2: "usage"}.get(code) or outcome(told[0], *names).replace("modelscope-ext: ", "")


def in_process(given: list[str]) -> tuple[int, str]:
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = main(given)
        except SystemExit as exit:
            code = exit.code
    return code, errors.getvalue()


def as_process(given: list[str]) -> tuple[int, str]:
    program = [sys.executable, "-m", "modelscope_ext"]
    done = subprocess.run(program + given, capture_output=True, stdin=subprocess.DEVNULL, timeout=PATIENCE_S)
    return done.returncode, done.stderr.decode(errors="surrogateescape")


def processes(models: Models, rng: np.random.Generator, folder: Path) -> str:
    return command(models, rng, folder, as_process)


# Raw samples

SIZES = {"u8": 1, "s16le": 2, "s32le": 4, "f32le": 4}


def stream(models: Models, rng: np.random.Generator, folder: Path) -> str:
    def pick(usual: list, odd: list) -> object:
        return rng.choice(usual) if rng.random() < 0.85 else odd[rng.integers(len(odd))]

    format = str(rng.choice(list(SIZES)))
    rate, channels = (
        pick([16000, 16000, 48000, 8000, 44100], [0, -5, 999, 999_983, 10**400, 1000, 10**6]),
        pick([1, 2], [0, -1, 7, 1025]),
    )
    block = pick([20, 10, 7.3, 100], ["nan", "inf", "-1", 0, 1e-9, 1e12, 5000])
    if rng.random() < 0.2:
        data = a_file(rng)[1]
    elif format == "f32le" and rng.random() < 0.6:
        data = (0.1 * rng.standard_normal(int(rng.integers(3000)))).astype("<f4").tobytes()
        data = mutated(data, rng)
    else:
        data = rng.bytes(int(rng.integers(6000)))
    given = ["stream", "--model", str(models.folder), f"--rate={rate}", f"--channels={channels}", "--format", format]
    out, kept = io.TextIOWrapper(io.BytesIO()), (sys.stdin, sys.stdout, torch.get_num_threads())
    errors = io.StringIO()
    try:
        sys.stdin, sys.stdout = io.TextIOWrapper(io.BytesIO(data)), out
        with contextlib.redirect_stderr(errors):
            code = main([*given, f"--block-ms={block}"])
    except SystemExit as exit:
        code = exit.code
    finally:
        sys.stdin, sys.stdout = kept[:2]
    heard = out.buffer.getvalue()
    assert "Traceback" not in errors.getvalue()
    assert code in (0, 1, 2)
    if format == "f32le":
        assert np.isfinite(np.frombuffer(heard, "<f4")).all()
    if code:
        told = [line for line in errors.getvalue().splitlines() if line.startswith(("modelscope-ext: ", "usage"))]
        assert told, errors.getvalue()
        return "usage" if code == 2 else outcome(told[-1].replace("modelscope-ext: ", ""))
    assert len(heard) == len(data) - len(data) % (SIZES[format] * int(channels)), (len(heard), len(data))
    return "done"
