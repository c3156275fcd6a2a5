"""The page of `modelscope-ext demo`: its results, alone and in a browser."""

import http.client
import io
import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile
from conftest import EXAMPLES, RATE, ROOT, wait_for
from listening import check_switch
from processes import free_port

from modelscope_ext import demo
from modelscope_ext.cli import main
from modelscope_ext.demo import LIMIT_DB, MAX_S, denoise_for_page, make_denoiser

NOISY = EXAMPLES / "noisy.wav"


def test_the_result_of_an_upload(tmp_path, noisy, denoiser):
    told = []
    result = denoise_for_page(NOISY, tmp_path, denoiser, progress=lambda done, seconds: told.append(done / seconds))
    assert result.target.name == "noisy_denoised.wav"
    assert result.picture.read_bytes().startswith(b"\x89PNG")
    assert np.abs(soundfile.read(result.target)[0] - denoiser(noisy, RATE)).max() < 1e-4
    assert soundfile.info(result.before).duration == soundfile.info(result.after).duration == len(noisy) / RATE
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1)


def test_a_format_that_is_only_read_becomes_a_wav_file(tmp_path, denoiser):
    shutil.copy(NOISY, tmp_path / "talk.ape")
    assert denoise_for_page(tmp_path / "talk.ape", tmp_path, denoiser).target.name == "talk_denoised.wav"


def test_strength_and_limit():
    assert make_denoiser(None, None, 100, LIMIT_DB).dry_gain == 0  # the end of the slider means no limit
    assert make_denoiser(None, None, 100, 20).dry_gain == pytest.approx(0.1)
    assert make_denoiser(None, None, 40, LIMIT_DB).dry_gain == pytest.approx(0.6)
    assert make_denoiser(None, None, 0, 20).dry_gain == 1


def test_only_pages_for_others_limit_files(tmp_path, monkeypatch, denoiser):
    monkeypatch.setattr(demo, "MAX_S", 5)
    assert denoise_for_page(NOISY, tmp_path, denoiser).target.exists()
    with pytest.raises(ValueError, match=r"is 0\.1 minutes long, and this page takes"):
        denoise_for_page(NOISY, tmp_path, denoiser, limited=True)
    monkeypatch.setattr(demo, "MAX_MB", 0.1)
    with pytest.raises(ValueError, match=r"larger than 0.1 MB; the command modelscope-ext denoise has no limit"):
        denoise_for_page(NOISY, tmp_path, denoiser, limited=True)


def test_unusable_uploads_are_errors(tmp_path, denoiser):
    def check(path, match):
        with pytest.raises(ValueError, match=match):
            denoise_for_page(path, tmp_path, denoiser)

    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    check(tmp_path / "empty.wav", "The recording is empty")
    (tmp_path / "text.wav").write_text("text")
    check(tmp_path / "text.wav", "not readable as audio")
    with pytest.raises(ValueError, match="a model folder holds"):
        make_denoiser(str(tmp_path), None, 100, 20)


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
        yield demo.launch(page, "127.0.0.1", wait=False)
        page.close()
    assert connections == []


HOSTS = [("127.0.0.1", 200), ("localhost", 200), ("[::1]", 200), ("evil.example", 400), ("127.0.0.1.evil.example", 400)]


@pytest.mark.parametrize(("host", "code"), HOSTS)
def test_other_names_of_this_computer_are_refused(address, host, code):
    """A page of strangers may give its name this computer's address."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    connection.request("GET", "/config", headers={"Host": f"{host}:{urlsplit(address).port}"})
    assert connection.getresponse().status == code


def send(address, path):
    """Upload a file without a browser; return where the server keeps it."""
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="talk.wav"\r\n\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    body += path.read_bytes() + b"\r\n--x--\r\n"
    request = urllib.request.Request(f"{address}gradio_api/upload", body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return Path(json.loads(answer.read())[0])


def test_uploads_are_deleted_after_a_while(monkeypatch, tmp_path):
    pytest.importorskip("gradio", reason="gradio is not installed")
    monkeypatch.setattr(demo, "KEPT_S", 1)
    page = demo.build_page()
    try:
        kept = send(demo.launch(page, "127.0.0.1", wait=False), NOISY)
        assert kept.is_relative_to(page.work.name)
        until = time.monotonic() + 60
        while kept.exists() and time.monotonic() < until:
            threading.Event().wait(0.1)
        assert not kept.exists()
    finally:
        page.close()


def test_a_page_works_beside_later_ones(address):
    gradio_client = pytest.importorskip("gradio_client", reason="gradio is not installed")
    demo.build_page()
    upload = gradio_client.handle_file(str(NOISY))
    client = gradio_client.Client(address, verbose=False, download_files=False)
    players, _, _ = client.predict(upload, 100, 26, demo.DEFAULT_NAME, api_name="/denoise")
    assert players.count("<audio") == 2


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_when_the_page_ends(tmp_path, number):
    pytest.importorskip("gradio", reason="gradio is not installed")
    (tmp_path / "temp").mkdir()
    port, messages = free_port(), tmp_path / "messages"
    program = "import signal, sys\nfrom modelscope_ext.cli import main\nsignal.signal(2, signal.default_int_handler)\n"
    command = [sys.executable, "-c", f"{program}sys.exit(main(['demo', '--port', '{port}']))"]
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "temp")}
    settings.pop("GRADIO_TEMP_DIR", None)
    with messages.open("w") as file:  # a process of its own, whose end is an ordinary one
        page = subprocess.Popen(command, env=settings, stderr=file, stdout=file)
    try:
        until = time.monotonic() + 200
        while "the page is at" not in messages.read_text() and time.monotonic() < until:
            threading.Event().wait(0.1)
        assert send(f"http://127.0.0.1:{port}/", NOISY).is_relative_to(tmp_path / "temp")
    finally:
        page.send_signal(number)
        page.wait(100)
    assert list((tmp_path / "temp").iterdir()) == []
    assert "Traceback" not in messages.read_text()


def upload(browser, address, path):
    browser.get(address)
    wait_for(browser, "document.querySelector('#source input[type=file]')").send_keys(str(path))
    wait_for(browser, f"document.querySelector('#source').textContent.includes('{path.stem[:4]}')")


LOADED = "performance.getEntriesByType('resource').map(entry => entry.name)"
PLAYERS = "[...document.querySelectorAll('#players audio')]"


@pytest.mark.slow
def test_a_recording_is_uploaded_denoised_played_and_shown(browser, address, noisy, denoiser):
    upload(browser, address, NOISY)
    assert not wait_for(browser, "document.getElementById('download')").is_enabled()
    browser.find_element("id", "denoise").click()
    picture = "document.querySelector('#picture img')"
    assert wait_for(browser, f"{picture} && {picture}.complete && {picture}.naturalWidth") > 500
    # one switch between two players
    assert wait_for(browser, f"{PLAYERS}.length == 2 && {PLAYERS}.every(each => each.duration > 7)")
    check_switch(browser)
    # the button downloads the result
    browser.execute_script("HTMLAnchorElement.prototype.click = function () { window.downloaded = this.href }")
    browser.find_element("id", "download").click()
    result = wait_for(browser, "window.downloaded")
    assert result.endswith("/noisy_denoised.wav")
    with urllib.request.urlopen(result) as answer:
        denoised, rate = soundfile.read(io.BytesIO(answer.read()))
    assert rate == RATE
    assert np.abs(denoised - denoiser(noisy, RATE)).max() < 1e-4  # the sliders begin with the model's own settings
    # nothing is loaded from another server
    assert all(name.startswith((address, "blob:", "data:")) for name in browser.execute_script(f"return {LOADED}"))


@pytest.mark.slow
def test_the_example_and_the_page_in_chinese(browser, address):
    agent = browser.execute_script("return navigator.userAgent")
    browser.execute_cdp_cmd("Network.setUserAgentOverride", {"userAgent": agent, "acceptLanguage": "zh-CN"})
    try:
        browser.get(address)
        wait_for(browser, "document.body.innerText.includes('强度')")
        browser.find_element("id", "denoise").click()
        wait_for(browser, "document.body.innerText.includes('请先选择文件或录音')")
        browser.find_element("id", "example").click()
        wait_for(browser, "document.querySelector('#source').textContent.includes('example')")
        browser.find_element("id", "denoise").click()
        wait_for(browser, "document.querySelector('#players').textContent.includes('处理前')")
    finally:
        browser.execute_cdp_cmd("Network.setUserAgentOverride", {"userAgent": agent, "acceptLanguage": "en-US"})


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
