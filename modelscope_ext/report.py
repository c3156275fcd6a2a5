"""Pictures of what was done: spectrograms before and after."""

from pathlib import Path

import numpy as np

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


def draw_spectrograms(before: str | Path, after: str | Path, picture: str | Path) -> None:
    """Draws two files' spectrograms, one above the other, on one colour scale, into a PNG.

    Raises:
        ModuleNotFoundError: matplotlib is missing; it comes with `pip install 'modelscope-ext[demo]'`.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("a picture needs matplotlib: pip install 'modelscope-ext[demo]'") from error
    figure = Figure(figsize=(10, 6), dpi=110, layout="constrained")
    axes = figure.subplots(2, 1, sharex=True, sharey=True)
    top = None
    for axis, path, title in zip(axes, (before, after), ("before", "after"), strict=True):
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
    axes[1].set_xlabel("seconds")
    figure.colorbar(drawn, ax=axes, label="dB")
    figure.savefig(picture, format="png")
