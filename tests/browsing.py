"""Files for the page of `examples/browser`, and what it makes of them."""

from fractions import Fraction

import numpy as np
import pytest
import soundfile
from conftest import wait_for

READY = "document.getElementById('working').hidden && document.getElementById('status').textContent"


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


def drop(page, *paths):
    """Drag files into the page and drop them; return what the page says at the end."""
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    page.execute_script("document.getElementById('status').textContent = ''")
    for kind in ("dragEnter", "dragOver", "drop"):
        page.execute_cdp_cmd("Input.dispatchDragEvent", {"type": kind, "x": 600, "y": 600, "data": data})
    return wait_for(page, READY, 300)


def write_video(path, picture, sound, audio, more=0):
    """Write a video with so many more pictures, 0.1 s each, than the sound has."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as out:
        streams = (
            out.add_stream(picture, rate=10, width=64, height=64),
            out.add_stream(sound, rate=48000, layout="mono"),
        )
        for i in range(10 * len(audio) // 48000 + more):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 5 * i, np.uint8), "rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 10)
            out.mux(streams[0].encode(frame))
        for start in range(0, len(audio), 960):
            frame = av.AudioFrame.from_ndarray(audio[None, start : start + 960], "fltp", "mono")
            frame.pts, frame.sample_rate, frame.time_base = start, 48000, Fraction(1, 48000)
            out.mux(streams[1].encode(frame))
        for stream in streams:
            out.mux(stream.encode(None))


def write_sound(path, codec, rate, audio, options):
    """Write a file without a picture."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w", options=options) as out:
        stream = out.add_stream(codec, rate=rate, layout="mono")
        size = stream.codec_context.frame_size or 1024
        resampler = av.AudioResampler(stream.codec_context.format.name, "mono", rate, size)
        frame = av.AudioFrame.from_ndarray(audio[None].astype(np.float32), "fltp", "mono")
        frame.pts, frame.sample_rate, frame.time_base = 0, rate, Fraction(1, rate)
        for part in (*resampler.resample(frame), *resampler.resample(None), None):
            out.mux(stream.encode(part))
