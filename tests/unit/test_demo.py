"""The page of `modelscope-ext demo`: its results, alone and in a browser."""

import io
import math
import runpy
import shutil
import socket
import sys
import urllib.request

import numpy as np
import pytest
import soundfile
from conftest import EXAMPLES, RATE

from modelscope_ext import demo, metrics
from modelscope_ext.cli import main
from modelscope_ext.demo import LIMIT_DB, MAX_S, denoise_for_page

NOISY = EXAMPLES / "noisy.wav"


def test_the_result_of_an_upload(tmp_path, noisy, denoiser):
    target, picture = denoise_for_page(NOISY, tmp_path, None, None, 1.0, 26.0)
    assert (target.name, picture.name) == ("noisy_denoised.wav", "noisy_spectrograms.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert np.abs(soundfile.read(target)[0] - denoiser(noisy, RATE)).max() < 1e-4
    target, _ = denoise_for_page(NOISY, tmp_path, None, None, 0.0, 20.0)
    assert np.abs(soundfile.read(target)[0] - noisy).max() < 1e-4


def test_the_end_of_the_slider_means_no_limit(tmp_path, monkeypatch):
    limits = []

    def denoiser(model, device, *, wet, attenuation_limit_db):
        limits.append(attenuation_limit_db)
        raise ValueError

    monkeypatch.setattr(demo, "Denoiser", denoiser)
    for limit in (0, LIMIT_DB - 1, LIMIT_DB):
        with pytest.raises(ValueError):  # noqa: PT011  # the one above
            denoise_for_page(NOISY, tmp_path, None, None, 1.0, limit)
    assert limits == [0, LIMIT_DB - 1, math.inf]


def test_unusable_uploads_are_errors(tmp_path, monkeypatch):
    def check(path, match, model=None):
        with pytest.raises(ValueError, match=match):
            denoise_for_page(path, tmp_path, model, None, 1.0, 20.0)

    check(None, "Upload or record something first")
    soundfile.write(tmp_path / "long.wav", np.zeros(8000 * (MAX_S + 60)), 8000)
    check(tmp_path / "long.wav", "is 6.0 minutes long, and this page takes 5; the command modelscope-ext denoise")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    check(tmp_path / "empty.wav", "The recording is empty")
    (tmp_path / "text.wav").write_text("text")
    check(tmp_path / "text.wav", "not readable as audio")
    check(NOISY, "a model folder holds", tmp_path)
    monkeypatch.setattr(demo, "MAX_MB", 0.1)
    check(NOISY, r"larger than 0.1 MB; the command modelscope-ext denoise has no limit")


def test_a_missing_gradio_is_an_error_with_a_hint(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo"]) == 1
    assert "the page needs gradio: pip install 'modelscope-ext[demo]'" in capsys.readouterr().err


def test_the_studio_serves_every_network(monkeypatch):
    pytest.importorskip("gradio", reason="gradio is not installed")
    served = []
    monkeypatch.setattr(demo, "launch", lambda page, **options: served.append((page.title, options)))
    runpy.run_path(str(EXAMPLES / "app.py"), run_name="__main__")
    assert served == [("Speech denoising", {"host": "0.0.0.0"})]


# In a browser


@pytest.fixture(scope="module")
def address():
    """Serve a page; fail if it connects to another computer."""
    pytest.importorskip("gradio", reason="gradio is not installed")
    connections, connect = [], socket.socket.connect

    def watched(self, where):
        if isinstance(where, tuple) and not where[0].startswith(("127.", "::1", "localhost")):
            connections.append(where)
        return connect(self, where)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", watched)
        page = demo.build_page(["nowhere"])
        yield demo.launch(page, "127.0.0.1", quiet=True, wait=False)
        page.close()
    assert connections == []


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if not all(programs):
        pytest.skip("there is no browser: apt install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    profile = tmp_path_factory.mktemp("profile")
    for flag in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "autoplay-policy=no-user-gesture-required",
        f"user-data-dir={profile}",
        "window-size=1200,1400",
    ):
        options.add_argument(f"--{flag}")
    with webdriver.Chrome(options, webdriver.ChromeService(programs[1])) as driver:
        yield driver


def wait_for(browser, script, seconds=120):
    """Return the first true value of a script in the page."""
    ui = pytest.importorskip("selenium.webdriver.support.ui")
    return ui.WebDriverWait(browser, seconds).until(lambda page: page.execute_script(f"return {script}"), script)


def upload(browser, address, path):
    browser.get(address)
    wait_for(browser, "document.querySelector('#before input[type=file]')").send_keys(str(path))
    wait_for(browser, "document.querySelector('#before audio')")


LOADED = "performance.getEntriesByType('resource').map(entry => entry.name)"


@pytest.mark.slow
def test_a_recording_is_uploaded_denoised_played_and_shown(browser, address, noisy, clean):
    upload(browser, address, NOISY)
    browser.find_element("id", "denoise").click()
    picture = "document.querySelector('#picture img')"
    assert wait_for(browser, f"{picture} && {picture}.complete && {picture}.naturalWidth") > 500
    result = wait_for(browser, f"{LOADED}.find(name => name.endsWith('/noisy_denoised.wav'))")
    with urllib.request.urlopen(result) as answer:
        denoised, rate = soundfile.read(io.BytesIO(answer.read()))
    assert rate == RATE
    assert metrics.si_sdr(denoised, clean) > metrics.si_sdr(noisy, clean) + 3
    # the player works
    wait_for(browser, "document.querySelector('#after [aria-label=Play]')").click()
    wait_for(browser, "document.querySelector('#after #time').textContent == '0:01'")
    # the button downloads the same file
    browser.execute_script("HTMLAnchorElement.prototype.click = function () { window.downloaded = this.href }")
    browser.find_element("id", "download").click()
    assert wait_for(browser, "window.downloaded") == result
    # nothing is loaded from another server
    assert all(name.startswith((address, "blob:", "data:")) for name in browser.execute_script(f"return {LOADED}"))


@pytest.mark.slow
def test_a_port_in_use_is_an_error(address, capsys):
    port = address.rstrip("/").rpartition(":")[2]
    assert main(["demo", "-q", "--port", port]) == 1
    assert f"port {port} is taken by another program" in capsys.readouterr().err


@pytest.mark.slow
def test_the_page_shows_errors(browser, address, tmp_path):
    soundfile.write(tmp_path / "long.flac", np.zeros(8000 * (MAX_S + 60)), 8000)
    upload(browser, address, tmp_path / "long.flac")
    browser.find_element("id", "denoise").click()
    wait_for(browser, "document.body.innerText.includes('is 6.0 minutes long, and this page takes 5')")
