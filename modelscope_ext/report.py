"""One HTML page of files before and after denoising: players, spectrograms, levels and figures.

The page embeds everything it shows and loads nothing.
"""

import base64
import math
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import jinja2
import numpy as np

from modelscope_ext.atomic import atomic_write
from modelscope_ext.audio import AudioError, ProblemsError, audio_files, open_audio, read_mono
from modelscope_ext.data.pairs import match_pairs
from modelscope_ext.inference.denoiser import Denoiser
from modelscope_ext.metrics import SAMPLE_RATE, require, scores
from modelscope_ext.players import SCRIPT, templates, write_opus
from modelscope_ext.plots import draw_spectrograms
from modelscope_ext.text import printable

__all__ = ["Source", "collect", "estimated_snr", "frame_powers", "write_page"]

#: Seconds of a file in its players.
PLAYER_S = 60
#: Points of a curve over time.
POINTS = 1000
#: Length of a frame in seconds.
FRAME_S = 0.02
ESTIMATED_SNR = "SNR, estimated, dB"
#: Metric with a clean reference → heading, digits.
METRICS = {"wb_pesq": ("WB-PESQ", 2), "stoi": ("STOI %", 1), "si_sdr": ("SI-SDR dB", 1)}


class Source(NamedTuple):
    """A file for the page and its clean reference if there is one."""

    name: str
    noisy: Path
    clean: Path | None = None


def collect(
    given: str | Path, reference: str | Path | None = None, problems: dict[str, str] | None = None
) -> list[Source]:
    """Return the files of a page.

    Args:
        given: an audio file or a folder of them.
        reference: the clean file or the folder of clean files; see `match_pairs`.
        problems: gets the reason for each folder or file that cannot be used, by its path. None raises.

    Raises:
        AudioError: there is no audio, or there are such files and no `problems`.
    """
    given, reference = Path(given), None if reference is None else Path(reference)
    if reference is not None and not reference.exists():
        raise AudioError(f"{reference}: no such file or folder")
    if not given.is_dir():
        if reference is not None and reference.is_dir():
            raise AudioError(f"{reference}: is a folder; the reference of a file is a file")
        return [Source(printable(given.name), given, reference)]
    if reference is None:
        files = audio_files(given, found := {})
        sources = [Source(printable(path.relative_to(given).as_posix()), path) for path in files]
        if not sources and not found:
            raise AudioError(f"{given}: no audio files in this folder")
    else:
        pairs, found = match_pairs(given, reference)
        sources = [Source(printable(pair.names[0]), pair.noisy, pair.clean) for pair in pairs]
    if found and (problems is None or not sources):
        raise ProblemsError(f"{given}: {len(found)} problem(s); nothing was written", found)
    if problems is not None:
        problems |= found
    return sources


def write_page(
    page: str | Path,
    sources: Iterable[Source],
    denoiser: Denoiser,
    model: str,
    problems: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, str]:
    """Denoise files and write the page; memory does not grow with their number or length.

    Args:
        page: the file; it appears complete or not at all.
        sources: the files.
        denoiser: the denoiser of the files.
        model: name of the model on the page.
        problems: reason for each file that could not be used before.

    Returns:
        File → why it could not be used, with `problems`; the page lists these too.

    Raises:
        ModuleNotFoundError: matplotlib is missing.
        AudioError: no file could be used or `page` is a folder; there is no page.
        OSError: the page cannot be written.
    """
    page = Path(page)
    if page.is_dir():
        raise AudioError(f"{page}: is a folder, but the page is a file")
    failed = {printable(name): printable(reason) for name, reason in problems.items()}
    entries: list[_Entry] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, source in enumerate(sources, 1):
            try:
                entries.append(_process(source, denoiser, Path(folder), f"file{number}"))
            except (AudioError, ValueError) as error:
                failed[source.name] = printable(str(error).removeprefix(f"{source.noisy}: "))
        if not entries:
            raise AudioError("; ".join(f"{name}: {reason}" for name, reason in failed.items()))
        headings = list(dict.fromkeys(heading for entry in entries for heading in entry.figures))
        stream = _template().stream(
            model=printable(model),
            entries=entries,
            failed=failed,
            headings=headings,
            estimated=ESTIMATED_SNR in headings,
        )
        with atomic_write(page) as temp, temp.open("w", encoding="utf-8", errors="backslashreplace") as out:
            out.writelines(stream)
    return failed


def _template() -> jinja2.Template:
    environment = templates()
    environment.globals["base64"] = lambda path: base64.b64encode(path.read_bytes()).decode()
    environment.globals["script"] = SCRIPT
    environment.globals["source"] = lambda path: "data:audio/ogg;base64," + base64.b64encode(path.read_bytes()).decode()
    return environment.get_template("report.html")


# Figures


class Powers(NamedTuple):
    """Mean squares over frames of 20 ms, (frames,) each, averaged over channels.

    before, after: of the two files; speech, noise: of the network's split of the first file.
    """

    before: np.ndarray
    after: np.ndarray
    speech: np.ndarray
    noise: np.ndarray


def frame_powers(before: str | Path, after: str | Path, noisy_share: float = 0.0) -> Powers:
    """Return the powers of two files of one rate and length. They are read block by block.

    Args:
        before: the noisy file.
        after: the denoised file.
        noisy_share: gain of the input in the denoised file in 0 … 1 (exclusive).
    """
    rows = [np.zeros((4, 0))]
    with open_audio(before, warn=False) as first, open_audio(after) as second:
        size = max(1, round(FRAME_S * first.sample_rate))
        seconds = 500 * size / first.sample_rate  # whole frames
        for x, y in zip(first.blocks(seconds), second.blocks(seconds), strict=True):
            noise = (x - y) / (1 - noisy_share)
            signals = np.stack((x, y, x - noise, noise))  # (4, n, channels)
            power = np.square(signals, dtype=np.float64).mean(2)
            starts = np.arange(0, power.shape[1], size)
            counts = np.minimum(size, power.shape[1] - starts)
            rows.append(np.add.reduceat(power, starts, axis=1) / counts)
    return Powers(*np.concatenate(rows, 1))


def estimated_snr(powers: Powers) -> float:
    """Return the SNR of the noisy file in dB without a reference, NaN without speech or noise.

    Speech is the kept part over the frames at most 40 dB below its loudest. Noise is the removed part over all frames.
    The model in this package has a mean error of 1.5 dB, below 3.3 dB in nine of ten, on 300 mixtures of validation
    speech and noise at -5 … 15 dB. At 15 … 25 dB it is 3.8 dB, mostly too low, because the network removes a little
    speech too (150 mixtures, benchmarks/snr.py).
    """
    if not powers.speech.size or not powers.speech.max() > 1e-12 or not powers.noise.mean() > 1e-12:
        return math.nan
    active = powers.speech[powers.speech >= powers.speech.max() * 1e-4].mean()
    return 10 * math.log10(active / powers.noise.mean())


def _db(power: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.maximum(power, 1e-10))


def _curve(power: np.ndarray) -> np.ndarray:
    """Return at most 1,000 levels in dBFS, means of equal parts."""
    return _db(np.array([part.mean() for part in np.array_split(power, min(POINTS, len(power)))]))


# Entries


@dataclass
class _Entry:
    """The section of a file; figures: heading → "before → after"."""

    name: str
    anchor: str
    seconds: float
    layout: str
    picture: Path
    figures: dict[str, str] = field(default_factory=dict)
    players: dict[str, Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, heading: str, before: float, after: float = math.nan, digits: int = 1) -> None:
        values = [f"{value:.{digits}f}".replace("-", "−") for value in (before, after) if not math.isnan(value)]
        self.figures[heading] = " → ".join(values) or "–"


def _process(source: Source, denoiser: Denoiser, folder: Path, anchor: str) -> _Entry:
    """Denoise a file; return its section, with sounds and picture in `folder`."""
    denoised = folder / "denoised.wav"
    denoiser.file(source.noisy, denoised)
    with open_audio(denoised) as file:
        seconds = file.seconds
        layout = f"{seconds:.1f} s, {file.sample_rate} Hz, {file.channels} channel{'s' * (file.channels > 1)}"
    if not seconds:
        raise ValueError("has no samples")
    entry = _Entry(source.name, anchor, seconds, layout, folder / f"{anchor}.png")
    powers = frame_powers(source.noisy, denoised, denoiser.dry_gain)
    if source.clean is None:
        entry.add(ESTIMATED_SNR, estimated_snr(powers))
    else:
        _add_scores(entry, source.noisy, denoised, source.clean)
    quiet = [float(np.quantile(_db(power), 0.1)) for power in (powers.before, powers.after)]
    entry.add("level of the quietest tenth, dBFS", *quiet)
    entry.add("level, dBFS", _db(powers.before.mean()), _db(powers.after.mean()))
    if seconds > PLAYER_S:
        entry.notes.append(f"The players hold the first {PLAYER_S} s; picture and figures are of the whole file.")
    draw_spectrograms(source.noisy, denoised, entry.picture, np.stack((_curve(powers.before), _curve(powers.after))))
    for title, path in {"before": source.noisy, "after": denoised, "clean reference": source.clean}.items():
        if path is not None:
            entry.players[title] = folder / f"{anchor} {title}.ogg"
            write_opus(path, entry.players[title], PLAYER_S)
    return entry


def _add_scores(entry: _Entry, noisy: Path, denoised: Path, clean: Path) -> None:
    names = list(METRICS)
    try:
        require(names)
    except ModuleNotFoundError as error:
        names = ["si_sdr"]
        entry.notes.append(f"WB-PESQ and STOI are left out: {error}")
    before, after, reference = (read_mono(path, SAMPLE_RATE) for path in (noisy, denoised, clean))
    if len(before) != len(reference):
        seconds = [f"{len(audio) / SAMPLE_RATE:.4f} s" for audio in (before, reference)]
        raise ValueError(f"is {seconds[0]} long, its clean file {clean} {seconds[1]}")
    old, new = (scores(audio, reference, names) for audio in (before, after))
    for name in names:
        heading, digits = METRICS[name]
        entry.add(heading, old[name], new[name], digits)
