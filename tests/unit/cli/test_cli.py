import contextlib
import fcntl
import io
import math
import os
import re
import struct
import subprocess
import sys
import termios

import imageio_ffmpeg
import numpy as np
import pytest
import soundfile
from conftest import EXAMPLES, ROOT

from modelscope_ext.cli import COMMANDS, main
from modelscope_ext.inference.denoiser import ASR_SAFE_WET, Denoiser

NOISY = EXAMPLES / "noisy.wav"


@pytest.fixture
def folder(tmp_path, noisy):
    source = tmp_path / "in"
    (source / "deep" / "er").mkdir(parents=True)
    soundfile.write(source / "a.wav", noisy[:16000], 16000)
    soundfile.write(source / "deep" / "er" / "b.flac", noisy[:16000], 22050)
    (source / "deep" / "notes.txt").write_text("not audio")
    return source


def denoise(*arguments):
    return main(["denoise", "-q", *map(str, arguments)])


def tree(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_file_to_a_file_and_to_a_folder(tmp_path, denoiser, noisy):
    assert denoise(NOISY, "-o", tmp_path / "new" / "clean.wav") == 0
    assert denoise(NOISY, "-o", tmp_path / "folder") == 0
    assert tree(tmp_path) == ["folder/noisy.wav", "new/clean.wav"]
    out = soundfile.read(tmp_path / "new" / "clean.wav", dtype="float32")[0]
    assert np.abs(out - denoiser(noisy, 16000)).max() < 1e-4


def test_a_folder_is_mirrored(tmp_path, folder):
    assert denoise(folder, NOISY, "-o", tmp_path / "out") == 0
    assert tree(tmp_path / "out") == ["a.wav", "deep/er/b.flac", "noisy.wav"]


def test_results_inside_the_input_are_not_taken_for_input(folder):
    assert denoise(folder, "-o", folder / "out") == 0
    assert denoise(folder, "-o", folder / "out") == 0
    assert tree(folder / "out") == ["a.wav", "deep/er/b.flac"]


def test_a_locale_without_the_characters_of_the_bar_costs_nothing(tmp_path):
    """Python itself takes UTF-8 for the locale C unless it is kept from it; Windows has many other code pages."""
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    target = tmp_path / "噪.wav"
    command = [sys.executable, "-m", "modelscope_ext", "denoise", NOISY, "-o", target]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"1 file done" in done.stderr
    assert target.exists()


def test_the_last_line_counts_all_that_failed(tmp_path, folder, caplog, capsys):
    (folder / "gone.wav").symlink_to("nowhere")
    (folder / "bad.wav").write_text("text")
    assert main(["denoise", str(folder), "-o", str(tmp_path / "out")]) == 1
    assert "2 files done, 0 skipped, 2 failed" in caplog.text
    assert "2 of 4 files failed" in capsys.readouterr().err


def test_a_bad_file_is_reported_and_the_rest_go_on(tmp_path, folder, capsys):
    (folder / "deep" / "bad.wav").write_text("text")
    assert denoise(folder, tmp_path / "none.wav", "-o", tmp_path / "out") == 1
    assert tree(tmp_path / "out") == ["a.wav", "deep/er/b.flac"]
    errors = capsys.readouterr().err
    assert "bad.wav: not readable as audio" in errors
    assert "none.wav: no such file" in errors
    assert "2 of 4 files failed" in errors


def test_existing_results_are_skipped_if_asked(tmp_path, folder):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.wav").write_text("mine")
    assert denoise(folder, "-o", out, "--skip-existing") == 0
    assert (out / "a.wav").read_text() == "mine"
    assert tree(out) == ["a.wav", "deep/er/b.flac"]
    assert denoise(folder, "-o", out) == 0
    assert soundfile.info(out / "a.wav").frames == 16000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in/none.wav", "-o", "out.wav"], "no such file"),
        (["in", "-o", "in/a.wav"], "is a file, but the output must be a folder"),
        (["in/a.wav", "in/a.wav", "-o", "out"], "would both become"),
        (["in/deep/er", "-o", "in"], None),
        (["in/a.wav", "-o", "in/a.wav"], "overwrite its own input"),
        (["in", "-o", "in"], "overwrite its own input"),
        (["in", "-o", "out", "--spectrogram", "x.png"], "--spectrogram takes one input file, got 2"),
        (["in/a.wav", "-o", "out", "--wet", "2"], "wet must be 0 … 1, got 2.0"),
        (["in/a.wav", "-o", "out", "--asr-safe", "--wet", "1"], "leave out --wet and --attenuation-limit"),
        (
            ["in/a.wav", "-o", "out", "--asr-safe", "--attenuation-limit", "0"],
            "leave out --wet and --attenuation-limit",
        ),
        (["in/a.wav", "-o", "out", "--model", "in"], "a model folder holds"),
    ],
)
def test_errors_are_reported_in_a_line(folder, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(folder.parent)
    before = (folder / "a.wav").read_bytes()
    assert denoise(*arguments) == (1 if message else 0)
    assert (message or "") in capsys.readouterr().err
    assert (folder / "a.wav").read_bytes() == before


def test_wet_zero_is_the_input(tmp_path):
    assert denoise(NOISY, "-o", tmp_path / "out.wav", "--wet", "0") == 0
    assert np.abs(soundfile.read(NOISY)[0] - soundfile.read(tmp_path / "out.wav")[0]).max() < 1e-4


def test_asr_safe_sets_the_strength_whatever_the_model_recommends(tmp_path, noisy):
    assert denoise(NOISY, "-o", tmp_path / "out.wav", "--asr-safe") == 0
    expected = Denoiser(wet=ASR_SAFE_WET, attenuation_limit_db=math.inf)(noisy, 16000)
    assert np.abs(soundfile.read(tmp_path / "out.wav", dtype="float32")[0] - expected).max() < 1e-4
    assert np.abs(noisy - expected).max() > 1e-2


def test_the_picture_is_drawn(tmp_path):
    assert denoise(NOISY, "-o", tmp_path / "out.wav", "--spectrogram", tmp_path / "p.png") == 0
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def run(*arguments, **options):
    environment = {**os.environ, **options}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_the_command_never_imports_modelscope(tmp_path):
    code = (
        "import sys; from modelscope_ext.cli import main\n"
        f"assert main(['denoise', r'{NOISY}', '-o', r'{tmp_path / 'out.wav'}']) == 0\n"
        "assert 'modelscope' not in sys.modules"
    )
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    assert "\r" not in done.stderr  # no bar without a terminal


@pytest.mark.parametrize("arguments", ["--version", "--help", "doctor --help"])
def test_it_starts_without_numpy_and_torch(arguments):
    code = (
        "import sys; from modelscope_ext.cli import main\n"
        f"try: main({arguments.split()})\n"
        "except SystemExit: assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    done = run("-c", code)
    assert done.stdout
    assert done.returncode == 0, done.stderr


def test_python_m_and_exit_codes():
    assert run("-m", "modelscope_ext", "--version").stdout.startswith("modelscope-ext 0.")
    assert run("-m", "modelscope_ext", "denoise").returncode == 2
    failed = run("-m", "modelscope_ext", "denoise", "nothing.wav", "-o", "out.wav")
    assert failed.returncode == 1
    assert "nothing.wav: no such file" in failed.stderr
    assert "Traceback" not in failed.stderr


# Terminals and pipes


class Piped(io.TextIOWrapper):
    """Standard input from bytes."""

    def __init__(self, content):
        super().__init__(io.BytesIO(content))


def test_standard_input_takes_a_track_and_its_warnings_name_no_folder(tmp_path, noisy, monkeypatch, caplog):
    for number, gain in enumerate((1, 0.25)):
        soundfile.write(tmp_path / f"{number}.wav", gain * noisy[:16000], 16000)
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error"]
    inputs = [each for number in (0, 1) for each in ("-i", tmp_path / f"{number}.wav")]
    subprocess.run([*ffmpeg, *inputs, "-map", "0", "-map", "1", "-c:a", "flac", tmp_path / "two.mka"], check=True)
    content = (tmp_path / "two.mka").read_bytes()
    levels = {}
    for name, track in (("all", []), ("second", ["--track", "1"])):
        monkeypatch.setattr(sys, "stdin", Piped(content))
        assert denoise("-", "-o", tmp_path / f"{name}.wav", *track, "--wet", "0") == 0
        levels[name] = np.abs(soundfile.read(tmp_path / f"{name}.wav")[0]).max()
    assert levels["second"] == pytest.approx(levels["all"] / 4, rel=0.01)
    assert [record.getMessage() for record in caplog.records if "tracks" in record.getMessage()] == [
        "standard input: has 2 audio tracks; only track 0 is read"
    ]


@pytest.mark.parametrize("option", ["--spectrogram=x.png", "--engine=ray", "--workers=2"])
def test_options_that_standard_input_does_not_take_are_refused(tmp_path, monkeypatch, option):
    monkeypatch.setattr(sys, "stdin", Piped(NOISY.read_bytes()))
    assert denoise("-", "-o", tmp_path / "o.wav", option) == 1
    assert not (tmp_path / "o.wav").exists()


def test_a_result_of_standard_input_that_exists_is_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", Piped(NOISY.read_bytes()))
    (tmp_path / "o.wav").write_text("a result")
    assert denoise("-", "-o", tmp_path / "o.wav", "--skip-existing") == 0
    assert (tmp_path / "o.wav").read_text() == "a result"


@pytest.mark.parametrize(("format", "subtype"), [("WAV", "PCM_24"), ("FLAC", "PCM_16")])
def test_standard_input_to_standard_output(format, subtype, tmp_path, clean):
    audio = np.stack((clean[:9000], -clean[:9000]), 1)
    soundfile.write(tmp_path / "in", audio, 22050, subtype, format=format)
    command = [sys.executable, "-m", "modelscope_ext", "denoise", "-"]
    done = subprocess.run(command, input=(tmp_path / "in").read_bytes(), cwd=ROOT, capture_output=True, check=True)
    assert done.stderr.startswith(b"1 file done, 0 skipped, 0 failed; 0.4 s of audio in ")
    (tmp_path / "out").write_bytes(done.stdout)
    info = soundfile.info(tmp_path / "out")
    assert (info.format, info.subtype, info.samplerate, info.channels) == (format, subtype, 22050, 2)
    assert np.abs(soundfile.read(tmp_path / "out")[0] - Denoiser()(audio, 22050)).max() < 1e-3
    refused = subprocess.run(command, input=b"no audio", cwd=ROOT, capture_output=True)
    assert refused.returncode == 1
    assert refused.stderr.startswith(b"modelscope-ext: standard input: ")
    assert not refused.stdout


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_80_columns(command, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as caught:
        main([*command.split(), "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    for option in re.findall(r"^  (-.*)", text, re.M):
        assert "  " in option.strip() or len(option) > 20, f"{option} is not explained"


def on_a_terminal(arguments, columns=80):
    """Return the output of a command whose standard error is a terminal, and its exit code."""
    master, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with subprocess.Popen(arguments, cwd=ROOT, stderr=terminal) as process:
        os.close(terminal)
        text = b""
        with contextlib.suppress(OSError):  # Linux says so when the other end is closed
            while part := os.read(master, 65536):
                text += part
    os.close(master)
    return text.decode(), process.returncode


def test_bars_are_for_terminals_only(tmp_path):
    (tmp_path / "bad.wav").write_text("text")
    arguments = [sys.executable, "-m", "modelscope_ext", "denoise", NOISY, tmp_path / "bad.wav", "-o", tmp_path / "out"]
    text, code = on_a_terminal(arguments)
    assert code == 1
    assert "/8 s of audio" in text
    assert max(map(len, re.split(r"[\r\n]+", re.sub(r"\x1b\[[A-Z]", "", text).replace(str(tmp_path), "")))) <= 80
    done = run(*map(str, arguments[1:]))
    assert done.stdout == ""
    *lines, summary, last = done.stderr.splitlines()
    assert [*lines, last] == [
        f"modelscope-ext: {tmp_path}/bad.wav: not readable as audio (Format not recognised)",
        f"{NOISY} → {tmp_path}/out/noisy.wav",
        "modelscope-ext: 1 of 2 files failed",
    ]
    assert re.fullmatch(r"1 file done, 0 skipped, 1 failed; 7\.8 s of audio in .* s → .*/out; noise -\d+ dB", summary)
    quiet = run(*map(str, arguments[1:]), "-q")
    assert quiet.stderr.splitlines() == [lines[0], last]


def test_who_stops_reading_is_no_traceback():
    command = f"{sys.executable} -m modelscope_ext info | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.returncode in (0, 141)


def test_training_from_the_shell(tmp_path, corpora, capsys):
    config = tmp_path / "train.json"
    config.write_text(
        '{"model": {"name": "CRUSE2-8-1xGRU2"}, "steps": 2, "batch": 1, "workers": 0,'
        '"data": {"speech": {"speech": 1}, "noise": {"noise": 1}, "rooms": 0, "mix": {"seconds": 0.5}},'
        '"validation": {"speech": "valid_speech", "noise": "valid_noise", "pairs": 1, "seconds": 2}}'
    )
    arguments = ["--config", str(config), "--work-dir", str(tmp_path / "run"), "--device", "cpu", "-q"]
    assert main(["train", *arguments, "--data-dir", str(corpora)]) == 0
    shown = capsys.readouterr()
    assert "pesq" in shown.out
    assert "\r" not in shown.err  # no bar without a terminal
    assert main(["train", *arguments, "--data-dir", str(tmp_path / "nothing")]) == 1
    assert "no such folder" in capsys.readouterr().err


def test_bash_completes_commands_options_and_files(tmp_path):
    script = run("-m", "modelscope_ext", "--print-completion", "bash").stdout
    (tmp_path / "completion").write_text(script)
    (tmp_path / "talk.wav").write_text("")
    complete = "source ./completion; COMP_WORDS=(modelscope-ext {}); COMP_CWORD={}; _shtab_modelscope_ext; "
    for words, found in (("den", "denoise"), ("train --spl", "--split-by"), ("denoise --model tal", "talk.wav")):
        code = complete.format(words, len(words.split())) + 'printf "%s\n" "${COMPREPLY[@]}"'
        done = subprocess.run(["bash", "-c", code], cwd=tmp_path, capture_output=True, text=True)
        assert found in done.stdout.split(), (words, done)


def test_nothing_is_written_or_sent_besides_the_result(tmp_path):
    """Versions of onnxruntime from 1.32 on would leave the session of their telemetry and a database."""
    (tmp_path / "temp").mkdir()
    environment = {**os.environ, "HOME": str(tmp_path), "TMPDIR": str(tmp_path / "temp")}
    for name in ("XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "modelscope_ext", "denoise", "-q", NOISY, "-o", tmp_path / "out.wav"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    assert tree(tmp_path) == ["out.wav"]
