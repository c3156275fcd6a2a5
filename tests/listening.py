"""What a page plays, recorded in the browser."""

import numpy as np
import pytest
from conftest import RATE, wait_for
from scipy.signal import correlate

from modelscope_ext.audio import resample

SIZE = 8192  # samples that come at once
RECORD = (
    f"const SIZE = {SIZE};"
    + """
window.heard = [];
const connect = AudioNode.prototype.connect;
AudioNode.prototype.connect = function (target, ...more) {
  const { context } = this;
  if (target === context.destination) {
    if (!context.recorder) {
      context.recorder = context.createScriptProcessor(SIZE, 1, 1);
      context.recorder.onaudioprocess = ({ inputBuffer }) => heard.push(...inputBuffer.getChannelData(0));
      connect.call(context.recorder, target);
    }
    connect.call(this, context.recorder);
  }
  return connect.call(this, target, ...more);
};
"""
)


def record(browser) -> None:
    """Record in the page what goes to the loudspeaker from the next connection on."""
    browser.execute_script(RECORD)


def recorded(browser, samples: int) -> tuple[int, np.ndarray]:
    """Record so many samples that are played from now on; return their place in the whole recording and them."""
    start = browser.execute_script("return heard.length") + 2 * SIZE  # one buffer fills, one is on its way
    wait_for(browser, f"heard.length >= {start + samples}")
    return start, np.array(browser.execute_script(f"return heard.slice({start}, {start + samples})"))


def place(part: np.ndarray, whole: np.ndarray) -> tuple[int, float, float]:
    """Return where a part lies in a recording, its gain there and its relative distance from it."""
    sums = np.cumsum(np.concatenate(([0], whole**2)))
    start = int(np.argmin(sums[len(part) :] - sums[: -len(part)] - 2 * correlate(whole, part, "valid", "fft")))
    there = whole[start : start + len(part)]
    return start, part @ there / (there @ there), np.linalg.norm(part - there) / np.linalg.norm(there)


def check_switch(browser, recordings: list[np.ndarray]) -> None:
    """Check that the switch of players changes from the denoised recording to the same instant of the noisy one.

    Args:
        browser: at a page of players.
        recordings: what the players hold, before and after, at 16 kHz.
    """
    sounds = "[...document.querySelectorAll('audio')]"
    record(browser)
    browser.execute_script(f"{sounds}[1].play()")
    near = f"Math.abs({sounds}[0].currentTime - {sounds}[1].currentTime) < 0.005"
    wait_for(browser, f"{near} && {sounds}[1].currentTime > 0.5")
    rate = browser.execute_script("return audioContext.sampleRate")
    parts, places = [], []
    for _ in recordings:
        parts.append(recorded(browser, rate // 2))
        browser.find_element("css selector", "input[type=radio]").click()
    for (start, part), recording in zip(parts, reversed(recordings), strict=True):
        found, gain, _ = place(part, resample(recording.astype(np.float32), RATE, rate))
        places.append((found - start) / rate)
        assert gain == pytest.approx(1, abs=0.25)  # opus changes soft sounds
    assert places[0] == pytest.approx(places[1], abs=0.01)
    browser.execute_script(f"{sounds}[0].pause()")
    wait_for(browser, f"{sounds}.every(each => each.paused)")
