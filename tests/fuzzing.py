"""Inputs that nobody would send on purpose, and what must hold whatever they are.

    python tests/fuzzing.py --count 10000 --seed 0          # a campaign
    python tests/fuzzing.py --door files --first 77 --count 1     # an input of it

Every door of the package is a function that makes the input of a number, sends it in, and returns what came of it:
"done", or the reason of a refusal. What breaks a promise is an AssertionError, or kills the process. Arrays are made by
Hypothesis, from which tests/test_fuzz.py draws too; files also by libFuzzer, in tests/fuzz_files.py.
"""

import argparse
import contextlib
import faulthandler
import functools
import io
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from modelscope_ext import Denoiser
from modelscope_ext.audio import AudioError, resample
from modelscope_ext.audio.files import MOST_CHANNELS
from modelscope_ext.checkpoint import CRUSE_TYPE, save_model
from modelscope_ext.cli import main
from modelscope_ext.export import export_onnx
from modelscope_ext.models import build

NAME = "CRUSE2-8-1xGRU2"
WINDOW = 512
#: Seconds that an input may take on a busy machine, and bytes beyond what the process has.
PATIENCE_S, SPARE = 300, 3 * 2**30
RATES = (16000, 8000, 11025, 22050, 44100, 48000, 96000, 192000, 1000, 1_000_000)


class Models:
    """A small network in every form that the doors take."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        net = build(NAME).eval()
        self.folder, self.onnx = folder / "model", folder / "model.onnx"
        configuration = {"task": "acoustic-noise-suppression", "pipeline": {"type": CRUSE_TYPE}}
        configuration["model"] = {"type": CRUSE_TYPE, "name": NAME}
        save_model(net, self.folder, {"framework": "pytorch", **configuration})
        export_onnx(net, self.onnx)
        self.denoiser, self.by_onnx = Denoiser(net), Denoiser(self.onnx)

    @functools.cached_property
    def frcrn(self) -> Denoiser:
        return Denoiser(build("FRCRN").eval())

    @functools.cached_property
    def pipeline(self) -> Callable:
        from modelscope.pipelines import pipeline

        import modelscope_ext.plugin  # noqa: F401

        return pipeline("acoustic-noise-suppression", model=str(self.folder), device="cpu")


def outcome(reason: str, *names: object) -> str:
    """A reason without what differs from input to input."""
    for name in names:
        reason = reason.replace(str(name), "…")
    reason = re.sub(r"(?s)^\S*/.*?: ", "…: ", reason)
    return re.sub(r"-?\b\d[\d.,]*(e[+-]?\d+)?|-?\binf\b|\bnan\b", "#", reason)[:100]


# Arrays

LENGTHS = st.integers(0, 3 * WINDOW)
FLOATS = st.one_of(
    st.floats(-1, 1, width=32),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 1e-45, 1e-39, 1e9, -1e15, 3e38, np.inf, -np.inf, np.nan]),
)
TYPES = st.one_of(
    arrays.integer_dtypes(endianness="?"),
    arrays.unsigned_integer_dtypes(endianness="?"),
    arrays.floating_dtypes(endianness="?"),
    st.sampled_from([np.dtype(name) for name in ("bool", "complex64", "O", "U3", "M8[s]", "longdouble", "V4")]),
)
LAYOUTS = {
    "as it is": lambda a: a,
    "backwards": lambda a: a[::-1],
    "every second": lambda a: np.repeat(a, 2, 0)[::2],
    "by column": lambda a: np.asfortranarray(a),
    "read-only": lambda a: (
        np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape) if a.size and a.dtype.kind != "O" else a
    ),
    "one for all": lambda a: np.broadcast_to(a[:1], a.shape) if len(a) else a,
}


@st.composite
def audio(draw) -> np.ndarray:
    """Most are audio, with a few odd samples; some are no audio at all."""
    dtype, length = draw(TYPES), draw(LENGTHS)
    tail = draw(st.sampled_from([()] * 12 + [(2,)] * 4 + [(1,), (3,), (0,), (9,), (MOST_CHANNELS + 1,), (2, 2)]))
    length = min(length, 20) if tail and tail[0] > 9 else length
    base = np.random.default_rng(draw(st.integers(0, 2**32))).standard_normal((length, *tail))
    with np.errstate(all="ignore"):
        try:
            if dtype.kind == "f":
                values = (base * draw(st.sampled_from([0, 1e-42, 1e-6, 0.1, 1, 1e4, 1e12]))).astype(dtype)
                if values.size:
                    for place, value in draw(st.lists(st.tuples(st.integers(0, 2**32), FLOATS), max_size=3)):
                        values.flat[place % values.size] = value
            elif dtype.kind in "iu":
                limits = np.iinfo(dtype)
                values = np.clip(base * draw(st.sampled_from([0, 0.2, 2])) * limits.max, limits.min, limits.max)
                values = values.clip(limits.min, np.nextafter(float(limits.max), 0)).astype(dtype)
            else:
                values = np.zeros(base.shape, dtype)
        except (TypeError, ValueError):
            values = np.zeros(base.shape, dtype)
    return LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))](values)


ODD_RATES = st.sampled_from([0, -1, 999, 1_000_001, 999_983, 2**70, 16000.0, np.nan, None, "16000", True])
RATE = st.integers(0, 9).flatmap(
    lambda n: (
        ODD_RATES if n == 9 else st.integers(1000, 60_000) if n == 8 else st.sampled_from([*RATES, np.int32(16000)])
    )
)


def check_array(denoiser: Denoiser, given: np.ndarray, rate: object) -> str:
    """Shape, type and samples of what comes out; the input stays as it was."""
    before = given.tobytes()
    try:
        out = denoiser(given, rate)
    except AudioError as error:
        reason = str(error)
        assert reason
        return outcome(reason, given.shape, repr(rate))
    assert given.dtype.kind in "fiu", "taken for audio"
    assert (out.shape, out.dtype) == (given.shape, given.dtype), (out.shape, out.dtype)
    assert np.isfinite(out.astype(np.float64)).all(), "NaN or infinite"
    assert given.tobytes() == before, "the input was changed"
    return "done"


def array_campaign(models: Models, count: int, number: int, seen: Counter) -> None:
    profile = {"max_examples": count, "database": None, "deadline": None, "suppress_health_check": list(HealthCheck)}

    @seed(number)
    @settings(**profile)
    @given(audio(), RATE, st.integers(0, 99))
    def each(given, rate, share) -> None:
        engine = (
            models.by_onnx if share < 20 else models.frcrn if share == 20 and given.size < 2000 else models.denoiser
        )
        with patience():
            seen[check_array(engine, given, rate)] += 1

    each()


# Files

KINDS = [
    *(
        ("WAV", kind)
        for kind in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM", "GSM610")
    ),
    *(("AIFF", kind) for kind in ("PCM_S8", "PCM_16", "FLOAT", "IMA_ADPCM", "DWVW_16")),
    *(
        (name, kind)
        for name in ("WAVEX", "AU", "W64", "RF64", "CAF")
        for kind in ("PCM_16", "FLOAT", "DOUBLE", "PCM_24")
    ),
    *(("FLAC", kind) for kind in ("PCM_S8", "PCM_16", "PCM_24")),
    *(("CAF", "ALAC_16"), ("CAF", "ALAC_32"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")),
    *((name, "PCM_16") for name in ("NIST", "VOC", "IRCAM", "PAF", "SVX", "MAT4", "MAT5", "PVF", "HTK", "SDS", "AVR")),
    *(("XI", "DPCM_16"), ("WVE", "ALAW"), ("MPC2K", "PCM_16"), ("VOC", "ULAW"), ("AU", "G721_32")),
]
SUFFIX = {"WAVEX": "wav", "MAT4": "mat", "MAT5": "mat", "SVX": "iff", "IRCAM": "sf"}
INTERESTING = [0, 1, 2, 3, 4, 8, 16, 127, 128, 255, 256, 999, 1000, 1024, 1025, 32767, 65535, 10**6, 10**6 + 3, 2**24]
INTERESTING += [2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**48, 2**63 - 1, 2**63, 2**64 - 1]
ODD_FLOATS = [np.nan, np.inf, -np.inf, 1e-45, 1e-39, 3e38, -3e38, 1e10, 1.5, -1.0]


@functools.lru_cache(512)
def seed_file(kind: tuple[str, str], rate: int, channels: int, length: int) -> bytes | None:
    """A sound file as libsndfile writes it, or None where it does not."""
    samples = 0.1 * np.random.default_rng(length).standard_normal((length, channels))
    file = io.BytesIO()
    try:
        soundfile.write(file, samples, rate, kind[1], format=kind[0])
    except (soundfile.LibsndfileError, ValueError):
        return None
    return file.getvalue()


def a_file(rng: np.random.Generator) -> tuple[str, bytes]:
    """The suffix and the bytes of one that is whole."""
    while True:
        kind = KINDS[rng.integers(len(KINDS))]
        length = int(rng.choice([0, 1, 159, 160, 161, WINDOW, 2 * WINDOW, 3 * WINDOW, 2000, rng.integers(960)]))
        rate, channels = (int(rng.choice(some)) for some in ((8000, 16000, 44100, 48000), (1, 1, 2, 5)))
        if content := seed_file(kind, rate, channels, length):
            return SUFFIX.get(kind[0], kind[0].lower()), content


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """The same with a few faults, most of them near its beginning."""
    data = bytearray(content)
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3, 8])):
        near = max(1, len(data) if rng.random() < 0.3 else min(len(data), 128))
        at, what = int(rng.integers(near)), rng.integers(10)
        if what == 0:
            del data[at:]
        elif what == 1:
            del data[at : at + int(rng.integers(1, 64))]
        elif what == 2:
            data[at:at] = rng.bytes(int(rng.integers(1, 64)))
        elif what <= 5 and data:  # a number that claims something
            size = int(rng.choice([1, 2, 4, 8]))
            order = "little" if rng.random() < 0.6 else "big"
            data[at : at + size] = (INTERESTING[rng.integers(len(INTERESTING))] % 256**size).to_bytes(size, order)
        elif what == 6 and data:
            data[at % len(data)] ^= 1 << int(rng.integers(8))
        elif what == 7:  # samples that are none
            kind = rng.choice(["<f4", ">f4", "<f8", ">f8"])
            value = np.array(ODD_FLOATS[rng.integers(len(ODD_FLOATS))], kind).tobytes()
            at = len(data) - len(value) * int(rng.integers(1, 9))
            data[max(at, 0) : at + len(value)] = value
        elif what == 8:  # wild metadata, in the tongue of RIFF, AIFF, FLAC or ID3
            said = int(rng.choice([0, 5, 64, 2**31 - 1, 2**32 - 1]))
            start = [b"LIST", b"bext", b"id3 ", b"smpl", b"cue ", b"SSND", b"COMM", b"INFO", b"fact", b"ID3\4"][
                rng.integers(10)
            ]
            data[at:at] = start + said.to_bytes(4, "little") + rng.bytes(int(rng.integers(64)))
        else:
            data += data[: at + 1] if rng.random() < 0.5 else a_file(rng)[1]
    return bytes(data)


def check_file(denoise: Callable[[Path, Path], object], source: Path, target: Path) -> str:
    """The target is whole and as long as the source, or is not there and the error names one of them."""
    before = set(os.listdir(target.parent))
    try:
        denoise(source, target)
    except AudioError as error:
        reason = str(error)
        assert str(source) in reason or str(target) in reason, f"names no file: {reason}"
        left = set(os.listdir(target.parent)) - before
        assert not left, f"left over: {left}"
        return outcome(reason, source, target)
    assert set(os.listdir(target.parent)) - before == {target.name}
    wanted, length = counted(source), counted(target)
    assert wanted == length, f"{length} samples of {wanted}"
    return "done"


def counted(path: Path) -> int:
    """The samples of a file, which are all finite."""
    total = 0
    with soundfile.SoundFile(os.fsencode(path)) as file:
        while len(block := file.read(65536, always_2d=True)):
            assert np.isfinite(block).all()
            total += len(block)
    return total


def files(models: Models, rng: np.random.Generator, folder: Path) -> str:
    suffix, content = a_file(rng)
    content = mutated(content, rng) if rng.random() < 0.97 else rng.bytes(int(rng.integers(200)))
    source = folder / f"in.{suffix}"
    source.write_bytes(content)
    target = (
        folder / f"out.{suffix if rng.random() < 0.7 else rng.choice(['wav', 'flac', 'ogg', 'mp3', 'opus', 'xyz', ''])}"
    )
    return check_file((models.by_onnx if rng.random() < 0.2 else models.denoiser).file, source, target)


# The command

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
    """Something below a folder that is called like audio."""
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
    """Of `denoise`: all of them, what is to be denoised, and where to."""
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


#: What mpg123 within libsndfile says by itself.
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


# ModelScope

NONSENSE = [None, 0, 1.5, True, {}, {"noisy": None}, {"array": [[1], [1, 2]]}, {"array": "x", "sampling_rate": 16000}]
NONSENSE += [
    {"array": [0.0] * 9, "sampling_rate": None},
    {"audio": {"array": [0.0] * 9, "sampling_rate": float("inf")}},
]
NONSENSE += [
    "",
    "\0",
    "nothing.wav",
    "ftp://x/y",
    "a://b://c",
    "local://x",
    "oss://b/x.wav",
    "http://127.0.0.1:9/x",
    "://",
]
NONSENSE += [
    "/",
    "/dev/zero",
    "http://[",
    "x" * 300,
    "\udcff",
    b"",
    {"audio": {"bytes": None, "path": None}},
    io.BytesIO(b"x"),
]
NONSENSE += [
    {"audio": 7},
    {"audio": {"noisy": {"noisy": 1}}},
    Path("nothing"),
    {"path": "/"},
    object,
    {"array": 1 + 2j},
]


def pipeline(models: Models, rng: np.random.Generator, folder: Path) -> str:
    wanted, options, kind = None, {}, rng.integers(8)
    if kind <= 2:  # a file: its path, its bytes, a row with them
        suffix, content = a_file(rng)
        path = folder / f"{NAMES[rng.integers(len(NAMES))]}.{suffix}"
        with contextlib.suppress(OSError):
            path.write_bytes(mutated(content, rng))
        given = [str(path), path, path.read_bytes() if path.exists() else b"", {"audio": {"path": str(path)}}][
            rng.integers(4)
        ]
        with contextlib.suppress(Exception), soundfile.SoundFile(os.fsencode(path)) as file:
            wanted = (
                len(resample(np.zeros(file.frames, np.float32), file.samplerate, 16000))
                if file.samplerate >= 1000
                else None
            )
    elif kind <= 5:  # an array, or a row with one
        dtype = rng.choice(["f4", "f8", "i2", ">i2", "u1", "f2", "?", "c8", "i8"])
        tail = [(), (), (2,), (0,), (2000,), (2, 2)][rng.integers(6)]
        given = (0.1 * rng.standard_normal((int(rng.integers(960)), *tail))).astype(dtype)
        if given.dtype.kind == "f" and given.size and rng.random() < 0.3:
            with np.errstate(over="ignore"):
                given.flat[rng.integers(given.size)] = ODD_FLOATS[rng.integers(len(ODD_FLOATS))]
        rate = [16000, 16000, 48000, 8000, 44100, 0, -1, 1, 10**7, 16000.5, float("nan"), None, "x"][rng.integers(13)]
        wanted = len(given) if rate == 16000 else None
        if rng.random() < 0.3:
            given = {"audio": {"array": given, "sampling_rate": rate}}
        else:
            options["sample_rate"] = rate
    elif kind == 6:
        place(rng, folder, rng.choice(["pipe", "socket", "link", "folder"]))
        given = str(next(folder.iterdir(), folder))
    else:
        given = NONSENSE[rng.integers(len(NONSENSE))]
    if rng.random() < 0.2:
        options["output_path"] = str(folder / "new" / rng.choice(["x.wav", "a b\n.wav", "语.wav"]))
    try:
        pcm = models.pipeline(given, **options)["output_pcm"]
    except (ValueError, OSError) as error:
        reason = str(error)
        assert reason
        assert "output_path" not in options or not Path(options["output_path"]).exists()
        return outcome(reason, given if isinstance(given, (str, Path)) and str(given) else folder)
    assert len(pcm) % 2 == 0
    assert wanted is None or len(pcm) // 2 == wanted, (len(pcm) // 2, wanted)
    if "output_path" in options:
        assert counted(Path(options["output_path"])) == len(pcm) // 2
    return "done"


# Campaigns

DOORS = {"files": files, "command": command, "processes": processes, "stream": stream, "pipeline": pipeline}
#: How a campaign is shared out; processes take seconds each.
SHARES = {"arrays": 0.3, "files": 0.3, "command": 0.14, "processes": 0.01, "stream": 0.1, "pipeline": 0.15}


@contextlib.contextmanager
def patience():
    """Whoever hangs, in C too, is killed with a traceback."""
    faulthandler.dump_traceback_later(PATIENCE_S, exit=True, file=sys.__stderr__)
    yield
    faulthandler.cancel_dump_traceback_later()


def send(door: str, models: Models, number: int, start: int = 0) -> str:
    """What came of the input of a number."""
    with tempfile.TemporaryDirectory() as folder, patience():
        before = Path.cwd()
        os.chdir(folder)  # sockets have short names
        try:
            return DOORS[door](models, np.random.default_rng((start, number)), Path(folder))
        finally:
            os.chdir(before)


def campaign() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=1000, help="inputs, of all doors together or of one [1000]")
    parser.add_argument("--seed", type=int, default=0, help="[0]")
    parser.add_argument("--door", choices=["arrays", *DOORS], help="one only")
    parser.add_argument("--first", type=int, default=0, help="number of the first input [0]")
    args = parser.parse_args()
    torch.set_num_threads(1)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE, resource.RLIM_INFINITY))
    failed, work = 0, Path(tempfile.mkdtemp())
    models = Models(work)
    for door, share in {args.door: 1.0}.items() if args.door else SHARES.items():
        seen, start, count = Counter(), time.monotonic(), round(args.count * share)
        if door == "arrays":
            array_campaign(models, count, args.seed, seen)
        for number in range(args.first, args.first + count) if door != "arrays" else ():
            print(f"\r{door} {number} ", end="", file=sys.stderr, flush=True)  # the last one before a crash
            try:
                seen[send(door, models, number, args.seed)] += 1
            except Exception as error:
                failed += 1
                print(f"\n{door} --seed {args.seed} --first {number}: {type(error).__name__}: {error}", flush=True)
        print(f"\n{door}: {sum(seen.values())} inputs in {time.monotonic() - start:.0f} s")
        for reason, times in seen.most_common():
            print(f"  {times:6d} {reason!r}", flush=True)
    shutil.rmtree(work)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(campaign())
