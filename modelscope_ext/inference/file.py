"""A file denoised into another one, in blocks."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np

from modelscope_ext.audio import (
    AudioError,
    AudioFile,
    at_loudness,
    check_loudness,
    open_audio,
    output_form,
    write_like,
)
from modelscope_ext.inference.meter import BLOCK_S, FLOATS, NoiseMeter, float_gain

logger = logging.getLogger(__name__)

Blocks = Iterable[np.ndarray]
#: Function of blocks, rate, channels and a function that gives the same blocks again. It gives the denoised blocks.
Denoise = Callable[[Blocks, int, int, Callable[[], Blocks]], Iterator[np.ndarray]]


class FileReport(NamedTuple):
    """A denoised file: its length in s, and the dB by which the noise level fell (None if it is too short)."""

    seconds: float
    noise_fell_db: float | None


def denoise_file(
    denoise: Denoise,
    source: Path,
    target: Path,
    progress: Callable[[float], object] | None,
    track: int | None,
    loudness: float | None,
) -> FileReport:
    """Denoise a file as `Denoiser.file` describes."""
    check_loudness(loudness)
    if os.path.exists(target) and os.path.exists(source) and target.samefile(source):
        raise AudioError(f"{target}: would overwrite its own input")
    with ExitStack() as stack:
        files = [stack.enter_context(open_audio(source, track or 0))]
        form = output_form(files[0], target)
        if track is None and files[0].tracks > 1:
            files += _other_tracks(files[0], stack) if form.tracks else []
            if not form.tracks:
                logger.warning("%s: has %d audio tracks; only track 0 is read", source, files[0].tracks)
        meters = [(NoiseMeter(file.sample_rate), NoiseMeter(file.sample_rate)) for file in files]
        streams = [
            _denoised(denoise, file, pair, progress if file is files[0] else None)
            for file, pair in zip(files, meters, strict=True)
        ]
        gain = _gain_for(files[0], form.subtype, form.same)
        if gain != 1:
            streams = [(block * np.float32(gain) for block in stream) for stream in streams]
        if loudness is not None:
            streams = [at_loudness(*each, loudness, target, form) for each in zip(streams, files, strict=True)]
        out = stack.enter_context(write_like(files, target, form))
        samples = 0
        for blocks in zip_longest(*streams):
            for file, block in zip(files, blocks, strict=True):
                if block is not None:
                    out.write(block, file.track)
                    samples += len(block) if file is files[0] else 0
    before, after = (meter.level_db for meter in meters[0])
    fell = None if before is None or after is None else before - after
    return FileReport(samples / files[0].sample_rate, fell)


def _gain_for(file: AudioFile, subtype: str | None, same: bool) -> float:
    """Return the gain that keeps a file of floating-point samples within what its result can hold."""
    holds_floats = subtype in FLOATS or (same and file.format is None)  # the second: FFmpeg keeps container and codec
    peak, gain = (0.0, 1.0) if holds_floats else float_gain(file)
    if gain != 1:
        logger.warning("%s: its samples reach %.5g, and the result holds ±1: it is 1/%.5g", file.name, peak, 1 / gain)
    return gain


def _denoised(
    denoise: Denoise,
    file: AudioFile,
    meters: tuple[NoiseMeter, NoiseMeter],
    progress: Callable[[float], object] | None,
) -> Iterator[np.ndarray]:
    """Yield the denoised (n, channels) blocks of a track; the meters get those of the input and of the output."""
    before, after = meters

    def again() -> Iterator[np.ndarray]:
        with open_audio(file.name, file.track, warn=False) as other:  # `file` warns
            yield from other.blocks(BLOCK_S)

    def measured() -> Iterator[np.ndarray]:
        for block in file.blocks(BLOCK_S):
            before.add(block)
            yield block
            if progress:
                progress(len(block) / file.sample_rate)

    try:
        for block in denoise(measured(), file.sample_rate, file.channels, again):
            block = block.reshape(-1, file.channels)
            after.add(block)
            yield block
    except AudioError as error:
        raise AudioError(str(error) if file.name in str(error) else f"{file.name}: {error}") from error


def _other_tracks(first: AudioFile, stack: ExitStack) -> list[AudioFile]:
    """Return the further tracks of a file that can be read; the writer copies the others."""
    files = []
    for track in range(1, first.tracks):
        try:
            files.append(stack.enter_context(open_audio(first.name, track)))
        except AudioError as error:
            logger.warning("%s: track %d is copied as it is", error, track)
    return files
