"""What a page plays, recorded in the browser."""

import numpy as np
from conftest import wait_for
from scipy.signal import correlate

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


#: Chooses the first recording; returns the times of all before and after it, and what the gains are told.
SWITCH = """
const sounds = [...document.querySelectorAll("audio")];
const times = () => sounds.map((sound) => sound.currentTime);
const set = AudioParam.prototype.setTargetAtTime;
const gains = [];
AudioParam.prototype.setTargetAtTime = function (...how) {
  gains.push(how);
  return set.apply(this, how);
};
const before = times();
document.querySelector("input[type=radio]").click();
AudioParam.prototype.setTargetAtTime = set;
return [before, times(), gains, sounds.map((sound) => sound.volume)];
"""


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


def check_switch(browser) -> None:
    """Check that players stay together and that their switch changes neither their time nor their clocks."""
    sounds = "[...document.querySelectorAll('audio')]"
    near = f"{sounds}[0].currentTime > 0.5 && Math.abs({sounds}[0].currentTime - {sounds}[1].currentTime) < 0.01"
    browser.execute_script(f"{sounds}[1].play()")
    wait_for(browser, near)
    before, after, gains, volumes = browser.execute_script(SWITCH)
    assert after == before  # none jumps
    assert [target for target, _, _ in gains] == [1, 0]
    assert gains[0][1:] == gains[1][1:]  # the same instant and pace, so that the gains add up to 1
    assert volumes == [1, 1]
    wait_for(browser, near)
    assert not browser.execute_script(f"return {sounds}.some(each => each.muted)")  # muting shifts a clock
    browser.execute_script(f"{sounds}[0].pause()")
    wait_for(browser, f"{sounds}.every(each => each.paused)")
