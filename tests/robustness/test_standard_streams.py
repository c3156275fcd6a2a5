"""Commands without standard input, output or error, or with full ones: results come first, messages second."""

import json
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
from conftest import EXAMPLES
from fuzz_common import Models
from processes import python

from modelscope_ext.cli import main

pytestmark = pytest.mark.slow
RATE = 16000


class Case(NamedTuple):
    """A command.

    arguments: IN has the inputs, OUT takes the results.
    results: files in OUT at the end.
    prints: True if it prints a result on standard output.
    reads: True if it reads standard input.
    code: exit code.
    """

    arguments: str
    results: str = ""
    prints: bool = True
    reads: bool = False
    code: int = 0


GATED = "--gate IN/pairs --epochs 1 --iterations 1 --batch 2 --learning-rate 1e-9"
SCORES = "--metrics si_sdr --workers 1 --json OUT/scores.json --csv OUT/scores.csv"
CASES = {
    "denoise": Case("IN/mixed --model IN/net/model -o OUT/out", "out/0.wav out/1.wav", False, code=1),  # a bad file
    "denoise -": Case("--model IN/net/model", reads=True),
    "stream": Case("--model IN/net/model", reads=True),
    "report": Case("IN/pairs/noisy/0.wav --model IN/net/model -o OUT/page.html", "page.html", False),
    "evaluate": Case(f"--pairs IN/pairs --enhanced IN/pairs/noisy {SCORES}", "scores.json scores.csv"),
    "train": Case(f"--data IN/data --model IN/net/model {GATED} --work-dir OUT/run", "run/output/pytorch_model.bin"),
    "prepare-data": Case("--noisy IN/pairs/noisy --clean IN/pairs/clean -o OUT/data", "data/README.md"),
    "export": Case("--model IN/net/model -o OUT/net.onnx", "net.onnx", False),
    "info": Case("IN/net/model"),
    "doctor": Case("IN/net/model"),
    "--print-completion": Case("bash"),
    "--version": Case(""),
    "denoise --help": Case(""),
}
#: State of the streams 0, 1 and 2 → the commands.
STATES = {
    "2 full": CASES,
    "012 closed": CASES,
    "1 full, unbuffered": CASES,
    "1 full": ["info", "--version"],
    "1 closed": ["denoise -", "stream"],
    "0 closed": ["denoise -", "stream"],
    "2 broken": ["denoise", "--version"],
}
PROGRAM = """
import io, json, os, sys, traceback
from pathlib import Path
import matplotlib.pyplot, onnx, onnxruntime, datasets, shtab
from modelscope_ext.cli import denoise, doctor, evaluate, export, info, main, prepare_data, report, stream, train
from modelscope_ext.doctor import CheckResult

doctor.run_checks = lambda model: iter([CheckResult("Python", "ok", "works")])  # the real ones take long


def child(arguments, source, state):
    os.dup2(os.open(source, os.O_RDONLY), 0)
    for number, name in enumerate(("stdout", "stderr"), 1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT, 0o600), number)
    struck = [int(digit) for digit in state.split()[0]]
    for number in struck:
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(os.open("/dev/full", os.O_WRONLY) if "full" in state else writer, number)
    through = "unbuffered" in state
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        file = io.FileIO(number, "w" if number else "r", closefd=False)
        kind = io.BufferedWriter if number else io.BufferedReader
        line = {"write_through": through, "line_buffering": number == 2}
        setattr(sys, name, io.TextIOWrapper(file if through and number else kind(file), **line))
        if number in struck and "closed" in state:
            os.close(number)
            setattr(sys, name, None)
    code = main(arguments)
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        return 120  # as at Python's end
    return code


codes = []
for arguments, source, out, state in json.loads(sys.argv[1]):
    Path(out).mkdir(parents=True)
    if not (process := os.fork()):
        os.chdir(out)
        try:
            code = child(arguments, source, state)
        except SystemExit as ended:
            code = ended.code or 0
        except BaseException:
            Path("stderr").open("a").write(traceback.format_exc())
            code = 99
        os._exit(code)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
print(json.dumps(codes))
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Return state and command → exit code and folder of results."""
    folder, audio = tmp_path_factory.mktemp("streams"), soundfile.read(EXAMPLES / "noisy.wav", stop=RATE)[0]
    Models(folder / "net")
    for kind in ("pairs/noisy", "pairs/clean", "mixed"):
        (folder / kind).mkdir(parents=True)
        for number in range(2):
            soundfile.write(folder / kind / f"{number}.wav", np.roll(audio, 999 * number), RATE)
    (folder / "mixed" / "bad.wav").write_text("no audio")
    (folder / "raw").write_bytes(bytes(2 * RATE))
    assert not main(f"prepare-data --noisy {folder}/pairs/noisy --clean {folder}/pairs/clean -o {folder}/data".split())
    places = {
        (state, name): folder / f"{state}: {name}".replace(" ", "-") for state in STATES for name in STATES[state]
    }
    given = []
    for (state, name), out in places.items():
        words = f"{name} {CASES[name].arguments}".replace("IN/", f"{folder}/").replace("OUT/", f"{out}/").split()
        words = [each for each in words if each != "-"] + ["-"] * ("-" in words)
        given.append((words, str(folder / ("raw" if name == "stream" else "pairs/noisy/0.wav")), str(out), state))
    codes = json.loads(python("-c", PROGRAM, json.dumps(given), timeout=900).stdout)
    return {key: (code, out) for (key, out), code in zip(places.items(), codes, strict=True)}


@pytest.mark.parametrize("state", STATES)
def test_results_do_not_depend_on_the_standard_streams(outcomes, state):
    for name in STATES[state]:
        case, (code, out) = CASES[name], outcomes[state, name]
        printed, messages = ((out / each).read_text(errors="replace") for each in ("stdout", "stderr"))
        told = (name, code, messages)
        assert "Traceback" not in messages, told
        assert "ignored" not in messages, told
        assert all((out / file).is_file() for file in case.results.split()), told
        if "1 full" in state and case.prints:
            assert code == 1, told
            assert messages.count("modelscope-ext: standard output: No space left") == 1, told
        elif "closed" in state and case.reads:
            assert code == 1, told
            assert "2" in state or "is closed" in messages, told
        else:
            assert code == case.code, told
            assert bool(printed) == (case.prints and "1" not in state), told
