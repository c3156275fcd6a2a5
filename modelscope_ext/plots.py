"""Spectrograms of audio files before and after denoising."""

import io
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from modelscope_ext.audio import open_audio, read_blocks

__all__ = ["draw_spectrograms", "spectrogram_db"]

WINDOW = 512
COLUMNS = 1200


def spectrogram_db(path: str | Path) -> tuple[np.ndarray, float, int]:
    """Return the power in dB (257, columns) of a file's first channel, its length in seconds and rate in Hz.

    A long file has averaged columns: picture and memory do not grow with its length.
    """
    with open_audio(path) as file:
        rate, total = file.samplerate, file.frames
        frames = max(1, total // (WINDOW // 2))
        width = min(frames, COLUMNS)
        power, count = np.zeros((width, WINDOW // 2 + 1)), np.zeros(width)
        rest, done = np.zeros(0, np.float32), 0
        window = np.hanning(WINDOW).astype(np.float32)
        for block in read_blocks(file, 10.0):
            rest = np.concatenate((rest, block[:, 0]))
            if len(rest) < WINDOW:
                continue
            views = np.lib.stride_tricks.sliding_window_view(rest, WINDOW)[:: WINDOW // 2]
            columns = np.minimum((done + np.arange(len(views))) * width // frames, width - 1)
            np.add.at(power, columns, np.abs(np.fft.rfft(views * window)) ** 2)
            np.add.at(count, columns, 1)
            done += len(views)
            rest = rest[len(views) * (WINDOW // 2) :]
    return 10 * np.log10(power / np.maximum(count, 1)[:, None] + 1e-9).T, total / rate, rate


def draw_spectrograms(
    before: str | Path, after: str | Path, picture: str | Path | BinaryIO, levels: np.ndarray | None = None
) -> None:
    """Draw the spectrograms of two files on one colour scale into a PNG.

    Args:
        before: audio file of the upper picture.
        after: audio file of the lower picture.
        picture: path or binary file of the PNG.
        levels: levels of both over time in dBFS, (2, frames), for a third picture; None omits it.

    Raises:
        ModuleNotFoundError: matplotlib is missing; `pip install 'modelscope-ext[demo]'` installs it.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("a picture needs matplotlib: pip install 'modelscope-ext[demo]'") from error
    rows = 2 if levels is None else 3
    figure = Figure(figsize=(10, 3 * rows), dpi=90, layout="constrained")
    axes = figure.subplots(rows, 1, sharex=True)
    top = None
    for axis, path, title in zip(axes[:2], (before, after), ("before", "after"), strict=True):
        image, seconds, rate = spectrogram_db(path)
        top = image.max() if top is None else top
        drawn = axis.imshow(
            image,
            origin="lower",
            aspect="auto",
            extent=(0, seconds, 0, rate / 2000),
            vmin=top - 80,
            vmax=top,
            cmap="magma",
        )
        axis.set(title=title, ylabel="kHz")
    figure.colorbar(drawn, ax=axes[:2], label="dB")
    if levels is not None:
        times = (np.arange(levels.shape[1]) + 0.5) * seconds / max(1, levels.shape[1])
        for level, title, colour in zip(levels, ("before", "after"), ("tab:gray", "tab:blue"), strict=True):
            axes[2].plot(times, level, color=colour, linewidth=1, label=title)
        axes[2].set(title="level over time", ylabel="dBFS", xlim=(0, seconds or 1))
        axes[2].legend(loc="lower right")
    axes[-1].set_xlabel("seconds")
    drawing = io.BytesIO()
    figure.savefig(drawing, format="png")
    # a palette reduces the size to a third
    Image.open(drawing).convert("RGB").quantize(256).save(picture, format="png", optimize=True)
