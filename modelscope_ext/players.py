"""Players for pages: one switch between recordings, all at the same instant."""

import itertools
from pathlib import Path

import jinja2
import numpy as np
import soundfile

from modelscope_ext.audio import StreamResampler, open_audio
from modelscope_ext.inference.meter import float_gain

__all__ = ["SCRIPT", "templates", "write_opus"]

OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
#: JavaScript of the function `connectPlayers(element)` for the element that `players.html` makes.
SCRIPT = (Path(__file__).parent / "templates" / "players.js").read_text(encoding="utf-8")


def templates() -> jinja2.Environment:
    """Return the templates of pages.

    `players.html` takes `sounds`, title → recording, before and after first; `source`, a function that returns the
    address of a recording; `group`, a name that is unique in the page; and `label`.
    """
    return jinja2.Environment(
        loader=jinja2.PackageLoader("modelscope_ext"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )


def write_opus(path: Path, target: Path, seconds: int | None = None) -> None:
    """Write a file as Ogg Opus, which every browser plays: mono or stereo, its first `seconds` or all of it.

    Samples far above full scale, as floats in ±32768, are scaled.
    """
    with open_audio(path, warn=False) as file:
        gain = np.float32(float_gain(file)[1])
        rate, channels = file.sample_rate, file.channels if file.channels < 3 else 1
        target_rate = rate if rate in OPUS_RATES else 48000
        resampler = StreamResampler(rate, target_rate, channels) if rate != target_rate else None
        with soundfile.SoundFile(target, "w", target_rate, channels, "OPUS", format="OGG") as out:
            for block in itertools.islice(file.blocks(1.0), seconds):  # libsndfile may crash on long writes
                audio = gain * (block if channels == block.shape[1] else block.mean(1, keepdims=True))
                out.write(np.clip(resampler.feed(audio) if resampler else audio, -1, 1))
            if resampler:
                out.write(np.clip(resampler.flush(), -1, 1))
