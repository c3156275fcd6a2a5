"""Whatever comes in: no crash, hang or NaN, exact lengths, a reason for each refusal. `fuzzing.py` sends far more."""

import io
import os
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import soundfile
from conftest import EXAMPLES, ROOT
from fuzz_arrays import RATE, audio, check_array
from fuzz_commands import in_process
from fuzz_common import Models
from fuzz_sounds import check_file, counted
from fuzzing import DOORS, send
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelscope_ext.audio import AudioError, StreamResampler, from_float, open_audio, write_audio

#: Inputs of each door, without and with the slow tests. A campaign takes thousands. Processes take seconds each.
COUNTS = {
    "files": (20, 150),
    "media": (20, 200),
    "command": (8, 60),
    "processes": (0, 1),
    "stream": (8, 50),
    "pipeline": (12, 80),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return Models(tmp_path_factory.mktemp("models"))


def check_arrays(models, count):
    @given(audio(), RATE, st.booleans())
    @settings(
        max_examples=count, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    def each(given, rate, onnx):
        check_array(models.by_onnx if onnx else models.denoiser, given, rate)

    each()


def test_arrays(models):
    check_arrays(models, 30)


@pytest.mark.slow
def test_more_arrays(models):
    check_arrays(models, 150)


@pytest.mark.parametrize("door", [door for door in DOORS if COUNTS[door][0]])
def test_generated_inputs(models, door):
    outcomes = [send(door, models, number) for number in range(COUNTS[door][0])]
    assert "done" in outcomes


@pytest.mark.slow
@pytest.mark.parametrize("door", DOORS)
def test_more_generated_inputs(models, door):
    outcomes = [send(door, models, number) for number in range(*COUNTS[door])]
    assert len(outcomes) < 5 or "done" in outcomes
    assert len(outcomes) < 5 or len(set(outcomes)) > 3


# What campaigns and the thoughts before them found, one by one


@pytest.mark.parametrize("loud", [1e10, 1e18, 3e38])
def test_what_would_overflow_is_refused_with_its_name(models, tmp_path, loud):
    audio = np.full(2000, loud, np.float32)
    audio[::2] *= -1
    with pytest.raises(AudioError, match=r"samples of up to .* where full scale is 1"):
        models.denoiser(audio, 16000)
    soundfile.write(tmp_path / "loud.wav", audio, 16000, "FLOAT")
    with pytest.raises(AudioError, match=r"loud\.wav: has samples of up to"):
        models.denoiser.file(tmp_path / "loud.wav", tmp_path / "out.wav")


def test_floats_in_the_range_of_integers_are_denoised(models):
    audio = (2.0**31 * np.sin(np.arange(2000))).astype(np.float32)
    assert check_array(models.denoiser, audio, 16000) == "done"


def test_half_precision_does_not_overflow_to_infinity():
    assert from_float(np.float32([1e5, -1e5, 1]), np.dtype(np.float16)).tolist() == [65504, -65504, 1]


@pytest.mark.parametrize("dtype", [">i2", ">f4", ">f8"])
def test_the_order_of_bytes_stays(models, dtype):
    assert check_array(models.denoiser, np.ones(100, dtype), 16000) == "done"


@pytest.mark.parametrize("dtype", ["complex64", "O", "U1", "bool"])
def test_nothing_of_a_type_that_is_no_audio_is_refused_too(models, dtype):
    with pytest.raises(AudioError, match="must be floating point or integers"):
        models.denoiser(np.zeros(0, dtype), 16000)


def test_read_only_samples_give_no_warning(models):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        models.denoiser(np.frombuffer(bytes(400), np.float32), 16000)


def test_channels_first_is_told_before_it_takes_the_memory(models):
    with pytest.raises(AudioError, match=r"need 1 … 1024 channels, got 480000; the shape is \(samples, channels\)"):
        models.denoiser(np.zeros((2, 480_000), np.float32), 48000)
    with pytest.raises(AudioError, match="need 1 … 1024 channels"):
        models.pipeline(np.zeros((2, 480_000), np.float32))


def test_rates_whose_filter_would_take_gigabytes_are_refused(models):
    with pytest.raises(AudioError, match="999983 Hz and 16000 Hz have too small a common divisor"):
        models.denoiser(np.zeros(100, np.float32), 999_983)
    assert StreamResampler(768_000, 16_000, 1).taps.size < 10_000


@pytest.mark.parametrize("rate", [1, 999, 2**31 - 1])
def test_a_rate_that_no_audio_has_is_told_with_the_file(models, tmp_path, rate):
    path = tmp_path / "rate.wav"
    soundfile.write(path, np.zeros(100), rate)
    with pytest.raises(AudioError, match=rf"rate\.wav: sample_rate must be .* got {rate}"):
        models.denoiser.file(path, tmp_path / "out.wav")
    with pytest.raises(AudioError, match=rf"the bytes given: sample_rate must be .* got {rate}"):
        models.pipeline(path.read_bytes())


def test_damaged_bytes_are_not_called_by_their_address(models):
    file = io.BytesIO()
    soundfile.write(file, np.float32([0, np.nan]), 16000, "FLOAT", format="WAV")
    with pytest.raises(AudioError, match=r"^the bytes given: has NaN or infinite samples"):
        models.pipeline(file.getvalue())


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "loop", "name", "NUL", "surrogate", "raw"])
def test_what_is_no_regular_file_is_told(models, tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "odd.wav"
    reason = "is a pipe, a socket or a device"
    if kind == "pipe":
        os.mkfifo(path)  # nobody writes to it: whoever opens it waits for ever
    elif kind == "socket":
        import socket

        with socket.socket(socket.AF_UNIX) as made:
            made.bind("odd.wav")
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path)
        reason = "Too many levels of symbolic links"
    elif kind == "name":
        path, reason = tmp_path / ("n" * 300 + ".wav"), "File name too long"
    elif kind == "raw":
        path, reason = tmp_path / "odd.raw", "raw samples have no header"
        path.write_bytes(bytes(100))
    else:  # the first part of the name is a file
        path, reason = tmp_path / {"NUL": "a.wav\0.txt", "surrogate": "\ud800.wav"}[kind], "no file can have this name"
        soundfile.write(tmp_path / "a.wav", np.zeros(100), 16000)
    with pytest.raises(AudioError, match=reason), open_audio(path):
        pass
    for source in (path, str(path)):
        with pytest.raises(AudioError, match=reason):
            models.pipeline(source)
    code, errors = in_process(["denoise", "-q", "--model", str(models.folder), str(path), "-o", str(tmp_path / "out")])
    assert code == 1
    assert reason in errors


@pytest.mark.parametrize(
    "name", [b"\xff\xe9.wav", "长".encode() * 80 + b".wav", b"n" * 251 + b".wav", b"a\n\x1b[31mb.wav"]
)
def test_every_name_that_a_file_can_have_is_taken(models, tmp_path, name):
    (tmp_path / "in").mkdir()
    source, target = (tmp_path / folder / os.fsdecode(name) for folder in ("in", "out"))
    with open(os.fsencode(source), "wb") as file:
        soundfile.write(file, np.zeros(500), 16000, format="WAV")
    assert check_file_in(models, source, target) == "done"
    with open_audio(source) as file:
        assert sum(map(len, file.blocks(1.0))) == 500
    source.write_bytes(b"no audio")
    code, errors = in_process(["denoise", "-q", "--model", str(models.folder), str(source), "-o", str(tmp_path / "x")])
    assert code == 1
    assert "\x1b" not in errors
    assert [line.startswith("modelscope-ext: ") for line in errors.splitlines()] == [True, True]


def check_file_in(models, source, target):
    target.parent.mkdir()
    return check_file(models.denoiser.file, source, target)


def test_one_name_that_is_too_long_does_not_stop_the_others(models, tmp_path):
    good, out = EXAMPLES / "noisy.wav", tmp_path / "out"
    given = [str(tmp_path / ("n" * 300)), str(good)]
    assert in_process(["denoise", "-q", "--model", str(models.folder), *given, "-o", str(out)])[0] == 1
    assert counted(out / "noisy.wav") == counted(good)


def test_a_loop_of_links_for_the_output_is_told(models, tmp_path):
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "a.wav", np.zeros(100), 16000)
    (tmp_path / "loop").symlink_to("loop")
    code, errors = in_process(
        ["denoise", "-q", "--model", str(models.folder), str(tmp_path / "in"), "-o", str(tmp_path / "loop")]
    )
    assert code == 1
    assert "loop" in errors


@pytest.mark.parametrize("format", ["SD2", "RAW"])
def test_formats_that_one_file_does_not_make_are_not_written(models, tmp_path, format):
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 16000)
    with pytest.raises(AudioError, match=rf"out\.{format.lower()}: no audio format has this suffix"):
        models.denoiser.file(tmp_path / "a.wav", tmp_path / f"out.{format.lower()}")
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


def test_a_format_that_cannot_say_the_length_does_not_blame_the_disk(tmp_path):
    with (
        pytest.raises(AudioError, match="VOC with ULAW cannot store 3 samples"),
        write_audio(tmp_path / "a.voc", 16000, 1, "VOC", "ULAW") as file,
    ):
        file.write(np.zeros(3))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--block-ms", "inf"], "--block-ms inf is too long"),
        (["--block-ms", "nan"], "--block-ms nan is too long"),
        (["--block-ms", "1e12"], "--block-ms 1e+12 is too long"),
        (["--rate", "1" + "0" * 400], "sample_rate must be"),
        (["--channels", "1000000"], "need 1 … 1024 channels"),
    ],
)
def test_absurd_blocks_are_refused(models, options, reason, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    code, errors = in_process(["stream", "--model", str(models.folder), *options])
    assert code == 1
    assert reason in errors


@pytest.mark.parametrize(("closed", "code"), [("<&-", 1), (">&-", 1)])
def test_closed_streams_are_told(models, closed, code):
    line = f"{sys.executable} -m modelscope_ext stream --model {models.onnx} {closed}"
    done = subprocess.run(["sh", "-c", line], cwd=ROOT, capture_output=True, text=True, stdin=subprocess.PIPE)
    assert done.returncode == code
    assert done.stderr.startswith(f"modelscope-ext: standard {'input' if '<' in closed else 'output'} is closed")


def test_the_command_does_without_standard_output(models, tmp_path):
    given = f"denoise -q --model {models.onnx} {EXAMPLES / 'noisy.wav'} -o {tmp_path / 'out.wav'}"
    line = f"{sys.executable} -m modelscope_ext {given} >&-"
    assert subprocess.run(["sh", "-c", line], cwd=ROOT).returncode == 0
    assert counted(tmp_path / "out.wav") == counted(EXAMPLES / "noisy.wav")


@pytest.mark.parametrize(
    "given", ["ftp://x/y", "oss://x/y", "a://b://c", {"array": "x"}, {"array": [0.0], "sampling_rate": None}, 7]
)
def test_the_pipeline_says_why(models, given):
    with pytest.raises(AudioError):
        models.pipeline(given)


def test_threads_do_not_share_half_files(models, tmp_path):
    """Names of which only the end differs, all cut to the same beginning."""
    sources = [tmp_path / f"{'n' * 240}{number}.wav" for number in range(4)]
    for number, source in enumerate(sources):
        soundfile.write(source, np.zeros(500 + number), 16000)
    (tmp_path / "out").mkdir()
    threads = [threading.Thread(target=models.denoiser.file, args=(s, tmp_path / "out" / s.name)) for s in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [counted(tmp_path / "out" / s.name) for s in sources] == [500, 501, 502, 503]
