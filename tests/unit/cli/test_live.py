"""`modelscope-ext stream`: pipes, and sound devices by a stand-in for the package sounddevice."""

import io
import os
import re
import select
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, streamed

from modelscope_ext.audio import as_float, from_float
from modelscope_ext.cli import main
from modelscope_ext.cli.stream import FORMATS


@pytest.fixture
def stream(monkeypatch):
    """Return a function that runs the command on bytes and returns (exit code, output bytes)."""

    def run(data, *arguments):
        out = io.TextIOWrapper(io.BytesIO())
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        monkeypatch.setattr(sys, "stdout", out)
        return main(["stream", *map(str, arguments)]), out.buffer.getvalue()

    return run


@pytest.mark.parametrize(
    ("format", "rate", "channels", "block_ms"),
    [("s16le", 16000, 1, 20), ("u8", 16000, 1, 7.3), ("s32le", 44100, 1, 100), ("f32le", 48000, 2, 10)],
)
def test_a_pipe_gives_the_samples_of_a_stream(stream, denoiser, noisy, format, rate, channels, block_ms):
    audio = noisy[:24000] if channels == 1 else np.stack((noisy[:24000], noisy[24000:48000]), 1)
    samples = from_float(audio, np.dtype(FORMATS[format]))
    arguments = ("--rate", rate, "--channels", channels, "--format", format, "--block-ms", block_ms)
    code, out = stream(samples.tobytes(), *arguments)
    assert code == 0
    out = np.frombuffer(out, FORMATS[format]).reshape(samples.shape)
    expected = streamed(denoiser, samples, rate)
    assert np.abs(as_float(out) - as_float(expected)).max() <= max(1e-4, 2.0 ** (1 - 8 * out.dtype.itemsize))
    assert np.abs(as_float(out) - as_float(samples)).max() > 0.01  # something was done


def test_the_log(stream, caplog):
    caplog.set_level("INFO")
    assert stream(bytes(3201), "--block-ms", "10") == (0, bytes(3200))
    first, odd, last = caplog.messages
    assert first == "16000 Hz, 1 channel, s16le: latency 42 ms, of which 10 ms for the block"
    assert odd == "the input ends within a sample; its last 1 byte(s) are left out"
    assert re.fullmatch(r"0\.1 s of audio: real-time factor \d\.\d+, slowest block [\d.]+ ms", last)


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        (b"RIFF----WAVE", [], "the input is a wav file, not raw PCM: arecord -t raw, or ffmpeg"),
        (np.float32([0, np.nan]).tobytes(), ["--format", "f32le"], "NaN or infinite samples"),
        (b"", ["--channels", "0"], "--channels must be at least 1, got 0"),
        (b"", ["--block-ms", "0.01"], "--block-ms 0.01 is less than a sample at 16000 Hz"),
        (b"", ["--rate", "100"], "sample_rate must be a whole number of Hz, 1000 … 1000000, got 100"),
        (b"", ["--wet", "2"], "wet must be 0 … 1"),
    ],
)
def test_errors_are_reported_in_a_line(stream, capsys, data, arguments, message):
    assert stream(data, *arguments) == (1, b"")
    assert message in capsys.readouterr().err


def test_a_model_that_cannot_stream_is_an_error(stream, capsys, frcrn_folder):
    assert stream(b"", "--model", frcrn_folder)[0] == 1
    assert "it cannot stream" in capsys.readouterr().err


def test_a_terminal_is_no_pcm(monkeypatch, capsys):
    master, terminal = os.openpty()
    monkeypatch.setattr(sys, "stdin", os.fdopen(terminal))
    assert main(["stream"]) == 1
    assert "standard input is a terminal; pipe raw PCM into it, as in: arecord" in capsys.readouterr().err
    os.close(master)


def start(**options):
    command = [sys.executable, "-m", "modelscope_ext", "stream"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, bufsize=0, **(pipes | options))


def test_samples_come_out_while_the_input_goes_on_and_pressure_goes_back():
    """The reader gets all but the latency at once; then it stops, and the writer is soon held up."""
    with start() as process:
        process.stdin.write(bytes(2 * 16000))
        out = b""
        while len(out) < 2 * (16000 - 640):  # would wait for ever if samples were kept
            out += process.stdout.read(65536)
        os.set_blocking(process.stdin.fileno(), False)
        taken = 0
        while select.select([], [process.stdin], [], 5.0)[1]:
            taken += process.stdin.write(bytes(4096)) or 0
            assert taken < 2**20, "the input is kept in memory"
        os.set_blocking(process.stdin.fileno(), True)
        rest, errors = process.communicate()
    assert len(out) + len(rest) == 2 * 16000 + taken
    assert process.returncode == 0
    assert errors.count(b"\n") == 2


@pytest.mark.parametrize("full", [False, True])
def test_an_output_that_takes_no_more_ends_it(full):
    if full and not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    with start(**({"stdout": open("/dev/full", "wb")} if full else {})) as process:
        if not full:
            process.stdout.close()
        errors = process.communicate(bytes(10**6))[1].decode()
    assert process.returncode == (1 if full else 141)
    assert ("modelscope-ext: standard output: No space left" if full else "standard output was closed") in errors
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors


# Devices


class Device:
    """A microphone that has two blocks and is then interrupted, or a loudspeaker."""

    opened = []

    def __init__(self, **options):
        self.options, self.out, self.left = options, b"", 2
        Device.opened.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closed = True

    def read(self, frames):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return memoryview(np.full(frames, 1000, "<i2").tobytes()), self.left == 0

    def write(self, data):
        self.out += data


@pytest.fixture
def sounds(monkeypatch):
    class PortAudioError(Exception):
        pass

    def output(**options):
        if options["device"] == "none":
            raise ValueError("No output device matching 'none'")
        if options["device"] == 9:
            raise PortAudioError("Error querying device 9")
        return Device(**options)

    module = SimpleNamespace(PortAudioError=PortAudioError, RawInputStream=Device, RawOutputStream=output)
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    monkeypatch.setattr(Device, "opened", [])
    return module


def test_from_a_microphone_to_a_loudspeaker(stream, sounds, caplog):
    assert stream(b"", "--input", "usb", "--output", "--rate", "48000") == (130, b"")
    microphone, loudspeaker = Device.opened
    expected = {"samplerate": 48000, "blocksize": 960, "channels": 1, "dtype": "int16"}
    assert microphone.options == {"device": "usb", **expected}
    assert loudspeaker.options == {"device": None, **expected}
    assert len(loudspeaker.out) == 2 * 2 * 960  # what waited when Ctrl-C came, too
    assert microphone.closed
    assert loudspeaker.closed
    assert "samples were lost" in caplog.text


@pytest.mark.parametrize(
    ("device", "message"), [("none", "--output none: No output device"), ("9", "--output 9: Error querying device 9")]
)
def test_a_device_that_is_not_there(stream, sounds, capsys, device, message):
    assert stream(b"", "--output", device) == (1, b"")
    text = capsys.readouterr().err
    assert message in text
    assert "python -m sounddevice lists the devices" in text


def test_without_sounddevice_there_is_a_hint(stream, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert stream(b"", "--input")[0] == 1
    assert "need the package sounddevice: pip install 'modelscope-ext[live]'" in capsys.readouterr().err
