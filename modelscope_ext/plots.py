"""Spectrograms of audio files before and after denoising."""

import io
from pathlib import Path
from typing import BinaryIO

import numpy as np

from modelscope_ext.audio import open_audio

__all__ = ["draw_spectrograms"]

WINDOW = 512
COLUMNS = 1200


def _spectrogram_db(path: str | Path) -> tuple[np.ndarray, float, int]:
    """Return the power (257, columns) of a file's first channel in dB and its seconds and rate in Hz.

    A long file has averaged columns: picture and memory do not grow with its length.
    """
    columns, merged, done = np.zeros((0, WINDOW // 2 + 1)), 1, 0  # a column has the mean of `merged` frames
    rest, frames = np.zeros(0, np.float32), np.zeros((0, WINDOW // 2 + 1))
    window = np.hanning(WINDOW).astype(np.float32)
    with open_audio(path, warn=False) as file:
        for block in file.blocks(10.0):
            done += len(block)
            rest = np.concatenate((rest, block[:, 0]))
            if len(rest) < WINDOW:
                continue
            views = np.lib.stride_tricks.sliding_window_view(rest, WINDOW)[:: WINDOW // 2]
            frames = np.concatenate((frames, np.abs(np.fft.rfft(views * window)) ** 2))
            rest = rest[len(views) * (WINDOW // 2) :]
            whole = len(frames) // merged * merged
            columns, frames = np.concatenate((columns, _means(frames[:whole], merged))), frames[whole:]
            while len(columns) >= 2 * COLUMNS:
                even = len(columns) // 2 * 2
                frames = np.concatenate((np.repeat(columns[even:], merged, 0), frames))
                columns, merged = _means(columns[:even], 2), 2 * merged
    if len(frames) or not len(columns):
        columns = np.concatenate((columns, (frames if len(frames) else np.zeros((1, WINDOW // 2 + 1))).mean(0)[None]))
    return 10 * np.log10(columns + 1e-9).T, done / file.sample_rate, file.sample_rate


def _means(rows: np.ndarray, count: int) -> np.ndarray:
    """Return the means of every `count` rows."""
    return rows.reshape(-1, count, rows.shape[1]).mean(1)


def draw_spectrograms(
    before: str | Path, after: str | Path, picture: str | Path | BinaryIO, levels: np.ndarray | None = None
) -> None:
    """Draw the spectrograms of two files on one colour scale into a PNG.

    Args:
        before: audio file of the upper picture.
        after: audio file of the lower picture.
        picture: path or binary file of the PNG.
        levels: levels (2, frames) of both over time in dBFS for a third picture. None omits it.

    Raises:
        ModuleNotFoundError: matplotlib is missing; `pip install 'modelscope-ext[demo]'` installs it.
    """
    try:
        from matplotlib.figure import Figure
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("a picture needs matplotlib: pip install 'modelscope-ext[demo]'") from error
    rows = 2 if levels is None else 3
    figure = Figure(figsize=(10, 3 * rows), dpi=90, layout="constrained")
    axes = figure.subplots(rows, 1, sharex=True)
    top = None
    for axis, path, title in zip(axes[:2], (before, after), ("before", "after"), strict=True):
        image, seconds, rate = _spectrogram_db(path)
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
