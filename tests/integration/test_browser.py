"""The page of `examples/browser`: files and the microphone in Chromium, compared with Python."""

import numpy as np
import pytest
import soundfile
from browsing import READY, downloaded, drop, give, write_video
from conftest import RATE, ROOT, served, speech, wait_for
from listening import place, record, recorded

from modelscope_ext import Denoiser
from modelscope_ext.audio import resample

pytestmark = pytest.mark.slow

STATUS = "document.getElementById('status').textContent"


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


def test_unusable_files_have_plain_messages(page, tmp_path):
    (tmp_path / "broken.wav").write_text("text" * 1000)
    assert "cannot read this file" in give(page, tmp_path / "broken.wav")
    whole = (ROOT / "modelscope_ext" / "templates" / "example.mp3").read_bytes()
    (tmp_path / "cut.mp3").write_bytes(whole[: len(whole) // 2])
    assert "The file should be 0:08 long" in give(page, tmp_path / "cut.mp3")
    (tmp_path / "cut.mp4").write_bytes(bytes.fromhex("00000014667479706d703432000000006d70343200004000") + b"mdat")
    assert "cannot read this file" in give(page, tmp_path / "cut.mp4")
    soundfile.write(tmp_path / "packed.wav", np.zeros(RATE), RATE, "IMA_ADPCM")
    assert "of the kind IMA ADPCM" in give(page, tmp_path / "packed.wav")
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
