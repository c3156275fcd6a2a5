"""The page of `examples/browser`: files and the microphone in Chromium, compared with Python."""

import functools
import http.server
import runpy
import shutil
import threading
from contextlib import contextmanager
from fractions import Fraction

import numpy as np
import pytest
import soundfile
from conftest import EXAMPLES, RATE, ROOT, speech, wait_for
from listening import place, record, recorded

from modelscope_ext import Denoiser
from modelscope_ext.audio import resample

pytestmark = pytest.mark.slow

LANGUAGE = "document.documentElement.lang"
STATUS = "document.getElementById('status').textContent"
READY = "document.getElementById('working').hidden && document.getElementById('status').textContent"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("onnx", reason="onnx is not installed")
    if not shutil.which("npm"):
        pytest.skip("there is no npm")
    out = tmp_path_factory.mktemp("site")
    runpy.run_path(str(EXAMPLES / "browser" / "build.py"))["build"](out)
    return out


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@contextmanager
def served(site):
    handler = functools.partial(Quiet, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def page(browser, site):
    with served(site) as address:
        browser.get(address)
        wait_for(browser, "document.title")
        if browser.execute_script(f"return {LANGUAGE}") != "en":
            browser.find_element("id", "language").click()
        yield browser


def give(page, *paths):
    """Give the page files; return what it says at the end."""
    page.find_element("id", "file").send_keys("\n".join(map(str, paths)))
    return wait_for(page, READY, 300)


def downloaded(page, folder, link="download"):
    """Return samples and rate of the result."""
    page.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
    page.find_element("css selector", f"#{link}").click()
    name = page.find_element("css selector", f"#{link}").get_attribute("download")
    pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait(page, 60).until(
        lambda _: (folder / name).exists(), name
    )
    return soundfile.read(folder / name)


def difference_db(found, expected):
    return 20 * np.log10(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("rate", [16000, 48000, 44100])
def test_a_file_has_the_result_of_python(page, tmp_path, noisy, rate):
    audio = resample(np.tile(noisy, 2)[: 10 * RATE], RATE, rate)
    if rate == 48000:
        audio = np.stack((audio, audio[::-1]), 1)
    soundfile.write(tmp_path / "talk.wav", audio, rate)
    assert give(page, tmp_path / "talk.wav").startswith("Done: 0:10 in ")
    found, found_rate = downloaded(page, tmp_path)
    Denoiser("stream").file(tmp_path / "talk.wav", tmp_path / "expected.wav")
    expected = soundfile.read(tmp_path / "expected.wav")[0]
    assert (found_rate, found.shape) == (rate, audio.shape)
    assert difference_db(found, expected) < -60


def drop(page, *paths):
    """Drag files into the page and drop them; return what the page says at the end."""
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    page.execute_script("document.getElementById('status').textContent = ''")
    for kind in ("dragEnter", "dragOver", "drop"):
        page.execute_cdp_cmd("Input.dispatchDragEvent", {"type": kind, "x": 600, "y": 600, "data": data})
    return wait_for(page, READY, 300)


def write_video(path, picture, sound, audio):
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as out:
        streams = (
            out.add_stream(picture, rate=10, width=64, height=64),
            out.add_stream(sound, rate=48000, layout="mono"),
        )
        for i in range(10 * len(audio) // 48000):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 8 * i, np.uint8), "rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 10)
            out.mux(streams[0].encode(frame))
        for start in range(0, len(audio), 960):
            frame = av.AudioFrame.from_ndarray(audio[None, start : start + 960], "fltp", "mono")
            frame.pts, frame.sample_rate, frame.time_base = start, 48000, Fraction(1, 48000)
            out.mux(streams[1].encode(frame))
        for stream in streams:
            out.mux(stream.encode(None))


@pytest.mark.parametrize(("name", "codecs"), [("a.webm", ("libvpx", "libopus")), ("a.mp4", ("libx264", "aac"))])
def test_a_video_that_is_dropped_is_denoised(page, tmp_path, name, codecs):
    write_video(tmp_path / name, *codecs, speech(48000)[:, 0])
    assert drop(page, tmp_path / name).startswith("Done: 0:03 in ")
    found, rate = downloaded(page, tmp_path)
    Denoiser("stream").file(tmp_path / name, tmp_path / "expected.wav")
    expected = soundfile.read(tmp_path / "expected.wav")[0]
    length = min(len(found), len(expected))
    assert rate == 48000
    assert abs(len(found) - len(expected)) < 960
    assert difference_db(found[:length], expected[:length]) < -30  # by another decoder


def test_the_switch_changes_to_the_same_instant_and_level(page, tmp_path, noisy):
    soundfile.write(tmp_path / "talk.wav", noisy, RATE)
    give(page, tmp_path / "talk.wav")
    for name in ("before", "after"):
        assert page.execute_script(f"return document.getElementById('{name}').width") > 200
    record(page)
    page.find_element("id", "play").click()
    switch, places = page.find_element("id", "denoised"), []
    for recording in (downloaded(page, tmp_path)[0], noisy):
        start, part = recorded(page, RATE // 2)
        found, gain, distance = place(part, recording)
        places.append(found - start)
        assert gain == pytest.approx(1, abs=1e-3)
        assert distance < 1e-3
        switch.click()
    assert places[0] == places[1]
    assert switch.get_attribute("aria-checked") == "true"
    position = page.execute_script("return Number(document.getElementById('position').value)")
    page.find_element("id", "play").click()
    page.find_element("id", "position").send_keys("\ue014")  # the arrow to the right
    assert page.execute_script("return Number(document.getElementById('position').value)") > position + 0.07
    assert page.find_element("id", "play").text == "Play"


@pytest.mark.parametrize(("name", "subtype"), [("a.wav", "PCM_16"), ("a.ogg", "VORBIS"), ("b.ogg", "OPUS")])
def test_a_recording_that_is_cut_off_gives_what_is_there(page, tmp_path, noisy, name, subtype):
    soundfile.write(tmp_path / name, noisy, RATE, subtype)
    whole = (tmp_path / name).read_bytes()
    assert "cut off" not in give(page, tmp_path / name)
    (tmp_path / name).write_bytes(whole[:-1])
    assert "The file is cut off: its end is missing" in give(page, tmp_path / name)
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    assert "cut off" in give(page, tmp_path / name)
    found, rate = downloaded(page, tmp_path)
    assert rate == (48000 if subtype == "OPUS" else RATE)
    found = found[:: rate // RATE]
    assert 2 * RATE < len(found) < 6 * RATE
    assert np.corrcoef(found, noisy[: len(found)])[0, 1] > 0.5


@pytest.mark.parametrize("sizes", [(0, 0), (36, 0), (0xFFFFFFFF, 0xFFFFFFFF)])
def test_a_wav_file_of_a_recorder_that_was_switched_off_is_read_to_its_end(page, tmp_path, noisy, sizes):
    soundfile.write(tmp_path / "a.wav", noisy[:RATE], RATE)
    header = bytearray((tmp_path / "a.wav").read_bytes())
    header[4:8], header[40:44] = (size.to_bytes(4, "little") for size in sizes)
    (tmp_path / "a.wav").write_bytes(header)
    said = give(page, tmp_path / "a.wav")
    assert said.startswith("Done: 0:01")
    assert "cut off" not in said
    found, rate = downloaded(page, tmp_path)
    assert (rate, len(found)) == (RATE, RATE)


def test_unusable_files_have_plain_messages(page, tmp_path):
    (tmp_path / "broken.wav").write_text("text" * 1000)
    assert "cannot read this file" in give(page, tmp_path / "broken.wav")
    whole = (ROOT / "modelscope_ext" / "templates" / "example.mp3").read_bytes()
    (tmp_path / "cut.mp3").write_bytes(whole[: len(whole) // 2])
    assert "The file should be 0:08 long" in give(page, tmp_path / "cut.mp3")
    (tmp_path / "cut.mp4").write_bytes(bytes.fromhex("00000014667479706d703432000000006d70343200004000") + b"mdat")
    assert "cannot read this file" in give(page, tmp_path / "cut.mp4")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    assert "it is empty" in give(page, tmp_path / "empty.wav")
    soundfile.write(tmp_path / "odd.wav", np.full(RATE, np.nan), RATE, "FLOAT")
    assert "no numbers" in give(page, tmp_path / "odd.wav")
    for rate in (100, 2_000_000_000):
        soundfile.write(tmp_path / "odd.wav", np.zeros(200), rate)
        assert "from 3 to 768 kHz" in give(page, tmp_path / "odd.wav")
    soundfile.write(tmp_path / "long.wav", np.zeros(8), 8000)
    size = 8000 * 2 * 3601 * 3
    header = bytearray((tmp_path / "long.wav").read_bytes())
    header[4:8], header[40:44] = (36 + size).to_bytes(4, "little"), size.to_bytes(4, "little")
    with (tmp_path / "long.wav").open("wb") as file:
        file.write(header[:44])
        file.truncate(44 + size)  # takes no room on the disk
    assert "longer than 3 hours" in give(page, tmp_path / "long.wav")


@pytest.mark.parametrize("way", [give, drop])
def test_several_files_are_denoised_in_turn(page, tmp_path, noisy, way):
    for seconds in (1, 2):
        soundfile.write(tmp_path / f"{seconds}.wav", noisy[: seconds * RATE], RATE)
    (tmp_path / "bad.wav").write_text("text" * 1000)
    assert way(page, tmp_path / "1.wav", tmp_path / "bad.wav", tmp_path / "2.wav") == "2 of 3 files are done."
    states = [state.text for state in page.find_elements("css selector", "#list span")]
    expected = ("Done: 0:01 in", "The browser cannot read this file", "Done: 0:02 in")
    assert all(map(str.startswith, states, expected)), states
    assert page.find_element("id", "time").text == "0:00 / 0:01"
    first, bad, last = page.find_elements("css selector", "#list button")
    assert not bad.is_enabled()
    last.click()
    assert [each.get_attribute("aria-pressed") for each in (first, bad, last)] == ["false", "false", "true"]
    assert page.find_element("id", "time").text == "0:00 / 0:02"
    assert len(downloaded(page, tmp_path, "download")[0]) == 2 * RATE
    assert len(downloaded(page, tmp_path, "list a")[0]) == RATE


def test_a_file_that_comes_while_another_is_denoised_waits(page, tmp_path, noisy):
    soundfile.write(tmp_path / "long.wav", np.zeros(3600 * RATE, np.int16), RATE)
    soundfile.write(tmp_path / "talk.wav", noisy[:RATE], RATE)
    page.find_element("id", "file").send_keys(str(tmp_path / "long.wav"))
    wait_for(page, f"{STATUS}.includes(' left')")
    page.find_element("id", "file").send_keys(str(tmp_path / "talk.wav"))
    states = page.find_elements("css selector", "#list span")
    assert states[0].text.endswith(" left")
    assert states[1].text == "Waiting"
    page.find_element("id", "cancel").click()
    assert [state.text for state in states] == ["Cancelled.", "Cancelled."]
    assert give(page, tmp_path / "talk.wav").startswith("Done: 0:01")
    assert not page.find_element("id", "list").is_displayed()


def test_a_file_can_be_cancelled(page, tmp_path):
    soundfile.write(tmp_path / "talk.wav", np.zeros(3600 * RATE, np.int16), RATE)
    page.find_element("id", "file").send_keys(str(tmp_path / "talk.wav"))
    wait_for(page, f"{STATUS}.includes(' left')")
    page.find_element("id", "cancel").click()
    assert page.execute_script(f"return {STATUS}") == "Cancelled."
    assert not page.find_element("id", "working").is_displayed()


def test_the_decoding_of_a_whole_file_can_be_cancelled(page, tmp_path):
    (tmp_path / "odd.wav").write_text("text" * 1000)
    page.execute_script(
        "window.decode = BaseAudioContext.prototype.decodeAudioData;"
        "BaseAudioContext.prototype.decodeAudioData = () => new Promise(resolve => window.finish = resolve)"
    )
    page.find_element("id", "file").send_keys(str(tmp_path / "odd.wav"))
    wait_for(page, "window.finish !== undefined")
    page.find_element("id", "cancel").click()
    page.execute_async_script(
        "finish(new AudioBuffer({length: 8000, sampleRate: 8000})); setTimeout(arguments[0]);"
        "BaseAudioContext.prototype.decodeAudioData = window.decode"
    )
    assert page.execute_script(f"return {STATUS}") == "Cancelled."
    assert not page.find_element("id", "working").is_displayed()


def test_the_microphone_is_denoised(page):
    page.find_element("id", "microphone").click()
    wait_for(page, "document.getElementById('live').textContent.startsWith('Latency ')")
    levels = [f"document.getElementById('level-{name}').value" for name in ("before", "after")]
    wait_for(page, f"{levels[0]} > -60 && {levels[1]} > -60")
    assert page.find_element("id", "microphone").text == "Stop"
    page.find_element("id", "live-denoised").click()
    assert page.find_element("id", "live-denoised").get_attribute("aria-checked") == "false"
    page.find_element("id", "microphone").click()
    assert page.find_element("id", "microphone").text == "Start"
    page.find_element("id", "example").click()  # by the same worker
    assert wait_for(page, READY).startswith("Done: 0:08")


def test_all_that_can_be_used_has_a_name_in_both_languages(page, tmp_path, noisy):
    soundfile.write(tmp_path / "talk.wav", noisy[:RATE], RATE)
    give(page, tmp_path / "talk.wav")
    names = []
    for _ in range(2):
        elements = page.find_elements("css selector", "button, input, meter, canvas, progress, a")
        names.append([element.accessible_name for element in elements if element.is_displayed()])
        page.find_element("id", "language").click()
    assert all(names[0] + names[1])
    assert "Denoised" in names[0]
    assert "降噪" in names[1]


def test_the_page_fits_a_phone(page):
    size = {"width": 320, "height": 640, "deviceScaleFactor": 2, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        assert wait_for(page, "innerWidth") == 320
        assert page.execute_script("return document.documentElement.scrollWidth") <= 320
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_page_works_without_a_network_after_the_first_load(browser, site):
    with served(site) as address:
        browser.get(address)
        cached = "caches.open((await caches.keys())[0]).then(cache => cache.keys()).then(keys => keys.length)"
        browser.set_script_timeout(60)
        count = browser.execute_async_script(
            "const done = arguments[0]; navigator.serviceWorker.ready.then(async () => done(await " + cached + "))"
        )
        assert count == len(list(site.iterdir()))  # "./" instead of offline.js
        loaded = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
        assert all(name.startswith((address, "data:")) for name in loaded)
    browser.get(address)
    browser.find_element("id", "example").click()
    wait_for(browser, f"/^(Done: 0:08|完成：0:08)/.test({STATUS})", 300)


def test_what_the_page_loads_is_small(site):
    runtime = ["ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"]
    assert sum(path.stat().st_size for path in site.iterdir() if path.name not in runtime) < 2e6
