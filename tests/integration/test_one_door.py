"""Every command reads phone memos and videos, and its output fits any console."""

import os
import re
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
import torch
from conftest import EXAMPLES, RATE

from modelscope_ext import Denoiser, build
from modelscope_ext.checkpoint import save_model
from modelscope_ext.data.pairs import find_pairs
from modelscope_ext.data.prepare import prepare_pairs
from modelscope_ext.demo import denoise_for_page
from modelscope_ext.evaluation import evaluate
from modelscope_ext.models import CRUSE_TYPE
from modelscope_ext.report import collect, write_page

NAME = "CRUSE2-8-1xGRU2"
SUFFIXES = ["wav", "m4a", "mp4"]


def write(path, audio):
    """Write 16-bit samples without a loss: ALAC, in an mp4 beside a picture."""
    if path.suffix == ".wav":
        soundfile.write(path, audio, RATE)
        return
    with av.open(str(path), "w", format="ipod" if path.suffix == ".m4a" else "mp4") as out:
        video = path.suffix == ".mp4" and out.add_stream("mpeg4", rate=25, width=64, height=64, pix_fmt="yuv420p")
        sound = out.add_stream("alac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(audio[None], "s16p", "mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        for stream, content in ((sound, frame), (video, av.VideoFrame(64, 64, "yuv420p"))):
            for part in (content, None) if stream else ():
                out.mux(stream.encode(part))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with a model and the same pairs as wav, m4a and mp4."""
    place = tmp_path_factory.mktemp("door")
    torch.manual_seed(0)
    kind = {"type": CRUSE_TYPE}
    described = {"framework": "pytorch", "task": "acoustic-noise-suppression", "pipeline": kind}
    save_model(build(NAME).eval(), place / "model", {**described, "model": {**kind, "name": NAME}})
    for side in ("noisy", "clean"):
        audio = soundfile.read(EXAMPLES / f"{side}.wav", dtype="int16")[0]
        for suffix in SUFFIXES:
            (place / suffix / side).mkdir(parents=True)
            for number in range(2):
                write(place / suffix / side / f"{number}.{suffix}", audio[number * RATE : (number + 3) * RATE])
    return place


def scores(place, suffix, out):
    return list(evaluate(find_pairs(place / suffix), None, ["si_sdr"], progress=False).rows.values())


def prepared(place, suffix, out):
    import pandas

    prepare_pairs(place / suffix / "noisy", place / suffix / "clean", out)
    (shard,) = out.rglob("*.parquet")
    table = pandas.read_parquet(shard)
    return [[cell["array"].tolist() for cell in table[side]] for side in ("noisy", "clean")]


def reported(place, suffix, out):
    sources = collect(place / suffix / "noisy", place / suffix / "clean")
    write_page(out / "page.html", sources, Denoiser(place / "model"), "model")
    page = (out / "page.html").read_text()
    assert page.count(f"0.{suffix}") == page.count(f"1.{suffix}") > 0
    return re.findall(r"-?\d+\.\d+ ?dB|[\d.]+ s\b", page)


def piped(place, suffix, out):
    from modelscope.pipelines import pipeline

    run = pipeline("acoustic-noise-suppression", model=str(place / "model"), device="cpu")
    return run(str(place / suffix / "noisy" / f"0.{suffix}"))["output_pcm"]


def shown(place, suffix, out):
    denoiser = Denoiser(place / "model")
    result = denoise_for_page(place / suffix / "noisy" / f"0.{suffix}", out, denoiser)
    Denoiser(wet=0).file(result.target, out / "plain.wav")
    expected = denoiser(soundfile.read(place / "wav" / "noisy" / "0.wav")[0], RATE)
    assert np.abs(soundfile.read(out / "plain.wav")[0] - expected).max() < 1e-4  # rounded twice
    return len(expected)


@pytest.mark.parametrize("door", [scores, prepared, reported, piped, shown])
def test_the_sound_of_a_memo_or_a_video_is_that_of_a_wav_file(door, place, tmp_path):
    results = []
    for suffix in SUFFIXES:
        (tmp_path / suffix).mkdir()
        results.append(door(place, suffix, tmp_path / suffix))
    assert results[0]
    assert results[1:] == results[:1] * 2


CONSOLES = {
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "C": {"LC_ALL": "C"},
}
COMMANDS = """
import sys
from modelscope_ext.cli import main
model, folder, source = sys.argv[1:]
def run(*arguments):
    print(arguments[0], main([*arguments]))
if __name__ == "__main__":
    for name in "denoise stream report demo evaluate train prepare-data export info doctor".split():
        try:
            main([name, "--help"])
        except SystemExit as end:
            assert not end.code
    options = ["--model", model]
    run("denoise", *options, source, "missing.wav", "-o", "out")
    run("report", *options, source, "-o", "page.html")
    run("evaluate", "--pairs", folder, "--metrics", "si_sdr", "--workers", "1")
    run("info", model)
    run("prepare-data", "--noisy", folder + "/noisy", "--clean", folder + "/clean", "-o", "data")
"""


@pytest.mark.slow
@pytest.mark.parametrize("console", CONSOLES)
def test_consoles_of_other_code_pages_get_every_output(console, place, tmp_path):
    """Names that the code page lacks are written with escapes."""
    for side in ("noisy", "clean"):
        (tmp_path / side).mkdir()
        (tmp_path / side / "Grüße_中文.m4a").write_bytes((place / "m4a" / side / "0.m4a").read_bytes())
    (tmp_path / "commands.py").write_text(COMMANDS)
    source = tmp_path / "noisy" / "Grüße_中文.m4a"
    arguments = ["-m", "commands", place / "model", tmp_path, source]
    environment = {**CONSOLES[console], "PYTHONPATH": f"{tmp_path}:{EXAMPLES.parent}"}
    done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, env=os.environ | environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert b"Traceback" not in done.stderr
    found = done.stdout.decode("latin-1")
    statuses = dict(re.findall(r"^(denoise|report|evaluate|info|prepare-data) (\d)$", found, re.MULTILINE))
    assert statuses == {"denoise": "1", "report": "0", "evaluate": "0", "info": "0", "prepare-data": "0"}
    assert (tmp_path / "out" / source.name).exists()
