"""The page of `modelscope-ext report`, its figures and pictures."""

import base64
import io
import os
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile
from conftest import EXAMPLES, RATE, SHARED
from listening import check_switch
from PIL import Image

from modelscope_ext import metrics
from modelscope_ext.audio import audio_files, read_mono
from modelscope_ext.cli import main
from modelscope_ext.data.mixing import active_rms
from modelscope_ext.players import write_opus
from modelscope_ext.plots import draw_spectrograms
from modelscope_ext.report import PLAYER_S, estimated_snr, frame_powers

pytest.importorskip("matplotlib")


def report(*arguments):
    return main(["report", "-q", *map(str, arguments)])


class Page(HTMLParser):
    """The contents of a page and all its references."""

    def __init__(self, path):
        super().__init__()
        self.references, self.sounds, self.pictures, self.cells, self.ids = [], [], [], [], []
        self.text, self.tags = "", []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "srcset", "action", "data", "poster"):
                self.references.append(value)
            if name == "id":
                self.ids.append(value)
        found = {"audio": self.sounds, "img": self.pictures}.get(tag)
        if found is not None:
            kind, _, content = dict(attributes)["src"].partition(";base64,")
            found.append((kind, base64.b64decode(content)))

    def handle_data(self, data):
        self.text += data
        if self.tags[-1:] in (["td"], ["th"]):
            self.cells.append(data.strip())


@pytest.fixture
def folder(tmp_path, noisy, clean):
    for name, audio in (("noisy", noisy), ("clean", clean)):
        (tmp_path / name / "deep").mkdir(parents=True)
        soundfile.write(tmp_path / name / "a <b> & 'c'.wav", audio[:32000], RATE)
        soundfile.write(tmp_path / name / "deep" / "d.flac", np.stack([audio[:48000]] * 2, 1), 44100)
    return tmp_path


def test_a_name_outside_utf_8_costs_nothing(tmp_path, noisy):
    name = "a\udcff.wav"
    try:
        (tmp_path / name).touch()
    except OSError:
        pytest.skip("this disk has only names of UTF-8")
    soundfile.write(os.fsencode(tmp_path / name), noisy[:16000], RATE)
    assert report(tmp_path / name, "-o", tmp_path / "page.html") == 0
    assert "a\\udcff.wav" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_file(tmp_path, noisy, denoiser):
    assert report(EXAMPLES / "noisy.wav", "-o", tmp_path / "new" / "page.html") == 0
    page = Page(tmp_path / "new" / "page.html")
    (kind, before), (_, after) = page.sounds
    assert kind == "data:audio/ogg"
    for sound, expected in ((before, noisy), (after, denoiser(noisy, RATE))):
        audio, rate = soundfile.read(io.BytesIO(sound), dtype="float32")
        assert (rate, len(audio)) == (RATE, len(noisy))
        assert np.corrcoef(audio, expected)[0, 1] > 0.9
    ((kind, picture),) = page.pictures
    assert kind == "data:image/png"
    assert Image.open(io.BytesIO(picture)).width >= 800
    assert "estimated" in page.text


def test_the_page_is_self_contained(folder):
    assert report(folder / "noisy", "-o", folder / "page.html") == 0
    page = Page(folder / "page.html")
    assert len(page.sounds) == 4
    assert all(reference.startswith(("data:", "#")) for reference in page.references)
    assert {reference[1:] for reference in page.references if reference.startswith("#")} <= set(page.ids)
    assert not {"link", "iframe", "object"} & set(page.tags)
    text = (folder / "page.html").read_text()
    assert "default-src 'none'; script-src 'unsafe-inline'; img-src data:; media-src data:" in text
    assert "url(" not in text
    assert "@import" not in text
    assert "a <b> & 'c'.wav" in page.text  # escaped: otherwise <b> would be a tag
    assert "b" not in page.tags


@pytest.mark.slow
def test_the_switch_changes_to_the_same_instant(tmp_path, browser):
    assert report(EXAMPLES / "noisy.wav", "-o", tmp_path / "page.html") == 0
    browser.get((tmp_path / "page.html").as_uri())
    before, after = browser.find_elements("css selector", "audio")
    assert (before.is_displayed(), after.is_displayed()) == (False, True)
    check_switch(browser)
    assert (before.is_displayed(), after.is_displayed()) == (True, False)


def test_clean_references_give_scores(folder):
    pytest.importorskip("pesq")
    assert report(folder / "noisy", "--reference", folder / "clean", "-o", folder / "page.html") == 0
    page = Page(folder / "page.html")
    assert len(page.sounds) == 6
    assert "estimated" not in page.text
    place = page.cells.index("WB-PESQ")
    assert page.cells[place : place + 3] == ["WB-PESQ", "STOI %", "SI-SDR dB"]
    scores = [cell.split(" → ") for cell in page.cells[page.cells.index("level, dBFS") + 3 :][:3]]
    noisy, clean = (read_mono(folder / name / "a <b> & 'c'.wav", RATE) for name in ("noisy", "clean"))
    assert scores[0][0] == f"{metrics.pesq(noisy, clean):.2f}"
    assert scores[1][0] == f"{metrics.stoi(noisy, clean):.1f}"
    before, after = (float(value.replace("−", "-")) for value in scores[2])
    assert before == pytest.approx(metrics.si_sdr(noisy, clean), abs=0.06)
    assert after > before


def test_without_the_metrics_packages_only_si_sdr_is_shown(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pesq", None)
    arguments = (folder / "noisy" / "deep" / "d.flac", "--reference", folder / "clean" / "deep" / "d.flac")
    assert report(*arguments, "-o", folder / "page.html") == 0
    page = Page(folder / "page.html")
    assert "SI-SDR dB" in page.cells
    assert "WB-PESQ" not in page.cells
    assert "WB-PESQ and STOI are left out: PESQ needs the package pesq: pip install" in page.text


def test_players_of_a_long_file_hold_its_beginning(tmp_path, noisy):
    long = np.tile(noisy[:RATE], PLAYER_S + 5)
    soundfile.write(tmp_path / "long.wav", long, RATE)
    assert report(tmp_path / "long.wav", "-o", tmp_path / "page.html") == 0
    page = Page(tmp_path / "page.html")
    assert soundfile.info(io.BytesIO(page.sounds[1][1])).frames == PLAYER_S * RATE
    assert f"The players hold the first {PLAYER_S} s" in page.text
    assert "65.0 s" in page.text


def test_players_of_floats_in_the_range_of_integers_are_not_clipped(tmp_path, noisy):
    soundfile.write(tmp_path / "a.wav", 32768 * noisy, RATE, "FLOAT")
    write_opus(tmp_path / "a.wav", tmp_path / "a.ogg")
    audio = read_mono(tmp_path / "a.ogg", RATE)[: len(noisy)]
    assert np.std(audio - noisy) < 0.5 * np.std(noisy)


def test_a_bad_file_is_reported_and_the_others_are_shown(folder, capsys, caplog):
    (folder / "noisy" / "bad.wav").write_text("text")
    soundfile.write(folder / "noisy" / "empty.wav", np.zeros(0), RATE)
    assert report(folder / "noisy", "-o", folder / "page.html") == 1
    assert "2 of 4 files failed" in capsys.readouterr().err
    assert "bad.wav: not readable as audio" in caplog.text
    page = Page(folder / "page.html")
    assert len(page.sounds) == 4
    assert "empty.wav: has no samples" in page.text


@pytest.mark.parametrize("reference", [False, True])
def test_files_that_cannot_be_read_are_named_and_those_without_a_suffix_shown(tmp_path, noisy, reference, capsys):
    for kind in ("noisy", "clean"):
        (tmp_path / kind).mkdir()
        soundfile.write(tmp_path / kind / "voice", noisy[:16000], RATE, format="WAV")
    (tmp_path / "noisy" / "gone.wav").symlink_to("nowhere")
    options = ["--reference", tmp_path / "clean"] if reference else []
    assert report(tmp_path / "noisy", "-o", tmp_path / "page.html", *options) == 1
    assert "1 of 2 files failed" in capsys.readouterr().err
    page = Page(tmp_path / "page.html")
    assert f"{tmp_path}/noisy/gone.wav: is no file" in page.text
    assert len(page.sounds) == 2 + reference


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.wav"], "none.wav: no such file"),
        (["clean/deep/d.flac", "--reference", "none"], "none: no such file or folder"),
        (["clean/deep/d.flac", "--reference", "clean"], "the reference of a file is a file"),
        (["noisy", "--reference", "clean/deep"], "has no clean file"),
        (["noisy", "-o", "clean"], "clean: is a folder, but the page is a file"),
        (["short", "--reference", "noisy/deep"], "is 0.3628 s long, its clean file"),
        (["nothing"], "no audio files in this folder"),
    ],
)
def test_errors(folder, monkeypatch, capsys, clean, arguments, message):
    monkeypatch.chdir(folder)
    (folder / "nothing").mkdir()
    (folder / "short").mkdir()
    soundfile.write(folder / "short" / "d.wav", clean[:16000], 44100)
    assert report(*arguments) == 1
    assert message in capsys.readouterr().err
    assert {path.name for path in folder.iterdir()} == {"noisy", "clean", "nothing", "short"}


def test_a_missing_matplotlib_is_an_error_with_a_hint(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert report(EXAMPLES / "noisy.wav", "-o", tmp_path / "page.html") == 1
    assert "pip install 'modelscope-ext[demo]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# Figures


@pytest.mark.parametrize("channels", [1, 2])
def test_powers_match_the_files(tmp_path, channels):
    rng = np.random.default_rng(0)
    before, after = rng.uniform(-0.5, 0.5, (2, 11 * 16000 + 77, channels))
    for name, audio in (("x", before), ("y", after)):
        soundfile.write(tmp_path / f"{name}.wav", audio, RATE, "FLOAT")
    powers = frame_powers(tmp_path / "x.wav", tmp_path / "y.wav", 0.2)
    noise = (before - after) / 0.8
    for found, signal in (
        (powers.before, before),
        (powers.after, after),
        (powers.noise, noise),
        (powers.speech, before - noise),
    ):
        assert len(found) == 551
        assert found[:550] == pytest.approx(np.square(signal[: 550 * 320]).reshape(550, -1).mean(1), rel=1e-4)
        assert found[550] == pytest.approx(np.square(signal[550 * 320 :]).mean(), rel=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_estimate_is_exact_if_the_parts_are_known(tmp_path, clean, share):
    noise = np.random.default_rng(0).standard_normal(len(clean)) * active_rms(clean) * 10 ** (-7 / 20)
    soundfile.write(tmp_path / "x.wav", clean + noise, RATE, "FLOAT")
    soundfile.write(tmp_path / "y.wav", clean + share * noise, RATE, "FLOAT")
    assert estimated_snr(frame_powers(tmp_path / "x.wav", tmp_path / "y.wav", share)) == pytest.approx(7, abs=0.1)


def test_silence_has_no_estimate(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.zeros(8000), RATE)
    assert np.isnan(estimated_snr(frame_powers(tmp_path / "x.wav", tmp_path / "x.wav")))


@pytest.mark.shared
@pytest.mark.slow
def test_the_error_of_the_estimate_is_as_documented(tmp_path, denoiser):
    """Check 90 mixtures at 0 … 15 dB; the docstring's figures come from 300."""
    speech = [read_mono(path, RATE) for path in audio_files(SHARED / "data" / "valid_speech")]
    speech = [audio[: 4 * RATE] for audio in speech if len(audio) >= 4 * RATE]
    noises = [read_mono(path, RATE) for path in audio_files(SHARED / "data" / "valid_noise")]
    rng, errors = np.random.default_rng(0), []
    for index in range(90):
        voice, noise, snr = speech[index % len(speech)], noises[index % len(noises)], rng.uniform(0, 15)
        noise = np.resize(noise[rng.integers(len(noise)) :], len(voice))
        noise = noise * active_rms(voice) / np.sqrt(np.square(noise).mean() + 1e-12) * 10 ** (-snr / 20)
        mixture = voice + noise
        soundfile.write(tmp_path / "x.wav", mixture / np.abs(mixture).max(), RATE)
        denoiser.file(tmp_path / "x.wav", tmp_path / "y.wav")
        errors.append(estimated_snr(frame_powers(tmp_path / "x.wav", tmp_path / "y.wav", denoiser.dry_gain)) - snr)
    assert np.abs(errors).mean() < 2.5


def test_the_picture_with_levels_is_taller(tmp_path):
    levels = np.linspace(-60, 0, 20).reshape(2, 10)
    draw_spectrograms(EXAMPLES / "noisy.wav", EXAMPLES / "clean.wav", tmp_path / "two.png")
    draw_spectrograms(EXAMPLES / "noisy.wav", EXAMPLES / "clean.wav", tmp_path / "three.png", levels)
    two, three = (Image.open(tmp_path / name) for name in ("two.png", "three.png"))
    assert three.height == pytest.approx(1.5 * two.height, rel=0.02)
