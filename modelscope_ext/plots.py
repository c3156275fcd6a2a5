"""Pictures of what was done: spectrograms before and after."""

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
    """Power in dB, (257, columns), of the first channel of a file, its length in seconds and its rate in Hz.

    A long file's columns are averages, so that neither the picture nor memory grows with its length.
    """
    with open_audio(path) as file:
        rate, total = file.samplerate, file.frames
        frames = max(1, total // (WINDOW // 2))
        width = min(frames, COLUMNS)
        power, count = np.zeros((width, WINDOW // 2 + 1)), np.zeros(width)
        rest, seen = np.zeros(0, np.float32), 0
        window = np.hanning(WINDOW).astype(np.float32)
        for block in read_blocks(file, 10.0):
            rest = np.concatenate((rest, block[:, 0]))
            if len(rest) < WINDOW:
                continue
            views = np.lib.stride_tricks.sliding_window_view(rest, WINDOW)[:: WINDOW // 2]
            columns = np.minimum((seen + np.arange(len(views))) * width // frames, width - 1)
            np.add.at(power, columns, np.abs(np.fft.rfft(views * window)) ** 2)
            np.add.at(count, columns, 1)
            seen += len(views)
            rest = rest[len(views) * (WINDOW // 2) :]
    return 10 * np.log10(power / np.maximum(count, 1)[:, None] + 1e-9).T, total / rate, rate


def draw_spectrograms(
    before: str | Path, after: str | Path, picture: str | Path | BinaryIO, levels: np.ndarray | None = None
) -> None:
    """Draws two files' spectrograms, one above the other, on one colour scale, into a PNG.

    Args:
        before: an audio file.
        after: another.
        picture: a path or a binary file.
        levels: (2, frames) levels of both in dBFS over the same time, drawn below; None leaves them out.

    Raises:
        ModuleNotFoundError: matplotlib is missing; it comes with `pip install 'modelscope-ext[demo]'`.
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
    # A palette makes it a third as large.
    Image.open(drawing).convert("RGB").quantize(256).save(picture, format="png", optimize=True)
