"""The command `report`: one HTML page to hear, see and read what a model does to a file or a folder.

The page holds everything it shows and loads nothing. The command line imports this when it starts; what takes time to
import is imported where it is used.
"""

import argparse
import base64
import html
import io
import itertools
import logging
import math
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from modelscope_ext.inference.denoiser import Denoiser

__all__ = ["Powers", "add_command", "estimated_snr", "frame_powers", "write_page"]

logger = logging.getLogger(__name__)

#: Seconds of a file that its players hold.
PLAYER_S = 60
#: Points of a curve over time.
POINTS = 1000
FRAME_S = 0.02
#: Metric of a clean reference → heading, digits.
METRICS = {"wb_pesq": ("WB-PESQ", 2), "stoi": ("STOI %", 1), "si_sdr": ("SI-SDR dB", 1)}
OPUS_RATES = (8000, 12000, 16000, 24000, 48000)


def add_command(commands: Any, parents: Sequence[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Adds `report` to the sub-commands of a parser; `parents` bring `--quiet` and `--device`."""
    parser = commands.add_parser(
        "report",
        parents=parents,
        help="write a page to hear and see what a model does to files",
        description="Denoises a file or a folder and writes one HTML page with players, spectrograms, levels and "
        "figures. The page holds everything it shows. It needs matplotlib: pip install 'modelscope-ext[demo]'.",
    )
    parser.add_argument("input", type=Path, metavar="INPUT", help="an audio file, or a folder of them")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("report.html"), metavar="HTML", help="the page [report.html]"
    )
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="CLEAN",
        help="the clean file, or a folder of clean files with the same names or the same ..fileid_N: scores instead of "
        "an estimate",
    )
    parser.add_argument("--model", metavar="M", help="model folder, or id of ModelScope's hub [in this package]")
    parser.set_defaults(run=_run)
    return parser


def _run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from modelscope_ext.audio import AudioError
    from modelscope_ext.inference.denoiser import Denoiser

    files = _plan(args.input, args.reference)
    if args.output.is_dir():
        raise AudioError(f"{args.output}: is a folder; -o names the page")
    denoiser = Denoiser(args.model, args.device)
    with tqdm(files, desc="report", unit="file", disable=True if args.quiet else None) as bar:
        failed = write_page(args.output, bar, denoiser, args.model or "the model in modelscope-ext")
    for name, reason in failed.items():
        logger.warning("%s: %s", name, reason)
    if failed:
        raise AudioError(f"{len(failed)} of {len(files)} files failed; {args.output} shows the others")
    logger.info("%s: %d file(s), %.1f MB", args.output, len(files), args.output.stat().st_size / 1e6)
    return 0


def _plan(given: Path, reference: Path | None) -> list[tuple[str, Path, Path | None]]:
    """(name, file, its clean reference) of what is to be shown."""
    from modelscope_ext.audio import AudioError, audio_files
    from modelscope_ext.data.matching import match_pairs

    if reference is not None and not reference.exists():
        raise AudioError(f"{reference}: no such file or folder")
    if not given.is_dir():
        if reference is not None and reference.is_dir():
            raise AudioError(f"{reference}: is a folder; the reference of a file is a file")
        return [(given.name, given, reference)]
    if reference is None:
        if not (found := audio_files(given)):
            raise AudioError(f"{given}: no audio files in this folder")
        return [(path.relative_to(given).as_posix(), path, None) for path in found]
    pairs, problems = match_pairs(given, reference)
    if problems:
        told = [f"{path}: {reason}" for path, reason in problems.items()]
        raise AudioError("\n  ".join([f"{given}: {len(told)} problem(s); nothing was written", *told]))
    return [(pair.names[0], pair.noisy, pair.clean) for pair in pairs]


def write_page(
    page: str | Path, files: Sequence[tuple[str, Path, Path | None]], denoiser: "Denoiser", model: str
) -> dict[str, str]:
    """Denoises files and writes the page, whole or not at all; memory does not grow with their number or length.

    Args:
        page: appears when it is complete.
        files: (name, noisy, clean reference or None).
        denoiser: what denoises them.
        model: what it is called on the page.

    Returns:
        File → why it could not be used; the page says so too.

    Raises:
        ModuleNotFoundError: matplotlib is missing.
        AudioError: none of the files could be used; there is no page.
        OSError: the page cannot be written.
    """
    from modelscope_ext.atomic import atomic_write
    from modelscope_ext.audio import AudioError

    page = Path(page)
    failed: dict[str, str] = {}
    shown: list[_Entry] = []
    with tempfile.TemporaryDirectory() as folder, open(Path(folder) / "sections", "w+", encoding="utf-8") as sections:
        for number, (name, noisy, clean) in enumerate(files, 1):
            try:
                entry = _examine(name, noisy, clean, denoiser, Path(folder), f"file{number}", sections)
            except (AudioError, ValueError) as error:
                failed[name] = str(error).removeprefix(f"{noisy}: ")
                continue
            shown.append(entry)
        if not shown:
            raise AudioError("; ".join(f"{name}: {reason}" for name, reason in failed.items()))
        sections.seek(0)
        with atomic_write(page) as half, half.open("w", encoding="utf-8") as out:
            out.write(_HEAD + _top(model, shown, failed))
            shutil.copyfileobj(sections, out)
            out.write("</main>\n</html>\n")
    return failed


# Figures


@dataclass(frozen=True)
class Powers:
    """Mean squares over frames of 20 ms, (frames,) each, channels averaged.

    before, after: of the two files; speech, noise: of the two parts that the network saw in the first one.
    """

    before: "np.ndarray"
    after: "np.ndarray"
    speech: "np.ndarray"
    noise: "np.ndarray"


def frame_powers(before: str | Path, after: str | Path, noisy_share: float = 0.0) -> Powers:
    """Goes through two files of one rate and length, block by block.

    Args:
        before: the noisy file.
        after: the denoised one.
        noisy_share: how much of the input was left in it on purpose, 0 … 1, exclusive.
    """
    import numpy as np

    from modelscope_ext.audio import open_audio, read_blocks

    rows = []
    with open_audio(before) as first, open_audio(after) as second:
        size = max(1, round(FRAME_S * first.samplerate))
        seconds = 500 * size / first.samplerate  # whole frames
        for x, y in zip(read_blocks(first, seconds), read_blocks(second, seconds), strict=True):
            noise = (x - y) / (1 - noisy_share)
            signals = np.stack((x, y, x - noise, noise))  # (4, n, channels)
            power = np.square(signals, dtype=np.float64).mean(2)
            starts = np.arange(0, power.shape[1], size)
            counts = np.minimum(size, power.shape[1] - starts)
            rows.append(np.add.reduceat(power, starts, axis=1) / counts)
    return Powers(*(np.concatenate(rows, 1) if rows else np.zeros((4, 0))))


def estimated_snr(powers: Powers) -> float:
    """The signal-to-noise ratio of the noisy file in dB, without a reference; NaN where there is no speech or no noise.

    Speech is what the network kept, over the frames at most 40 dB below its loudest one; noise is what it took away,
    over all frames. On 300 mixtures of validation speech and noise at -5 … 15 dB, the model in this package was off by
    1.5 dB on average, and by less than 3.3 dB in nine of ten. On 150 at 15 … 25 dB it was off by 3.8 dB, mostly too
    low, since the network takes a little of the speech away too (benchmarks/snr.py).
    """
    if not powers.speech.size or not powers.speech.max() > 1e-12 or not powers.noise.mean() > 1e-12:
        return math.nan
    active = powers.speech[powers.speech >= powers.speech.max() * 1e-4].mean()
    return 10 * math.log10(active / powers.noise.mean())


def _db(power: Any) -> Any:
    import numpy as np

    return 10 * np.log10(np.maximum(power, 1e-10))


def _curve(power: "np.ndarray") -> "np.ndarray":
    """At most 1,000 levels in dBFS, means of equal parts."""
    import numpy as np

    parts = max(1, min(POINTS, len(power)))
    return _db(np.array([part.mean() if len(part) else 0.0 for part in np.array_split(power, parts)]))


# The page


@dataclass
class _Entry:
    """What the table at the top says of a file; figures: heading → (before, after), after NaN where there is none."""

    name: str
    anchor: str
    seconds: float
    figures: dict[str, tuple[float, float]] = field(default_factory=dict)
    digits: dict[str, int] = field(default_factory=dict)

    def add(self, heading: str, before: float, after: float = math.nan, digits: int = 1) -> None:
        self.figures[heading], self.digits[heading] = (before, after), digits

    def cells(self, headings: Sequence[str]) -> list[str]:
        return [self._cell(heading) for heading in headings]

    def _cell(self, heading: str) -> str:
        values = [value for value in self.figures.get(heading, ()) if not math.isnan(value)]
        return " → ".join(f"{value:.{self.digits[heading]}f}".replace("-", "−") for value in values) or "–"


def _examine(
    name: str, noisy: Path, clean: Path | None, denoiser: "Denoiser", folder: Path, anchor: str, out: IO[str]
) -> _Entry:
    """Denoises a file and writes its section."""
    import numpy as np

    from modelscope_ext.audio import open_audio
    from modelscope_ext.plots import draw_spectrograms

    denoised = folder / "denoised.wav"
    denoiser.file(noisy, denoised)
    with open_audio(noisy) as file:
        entry = _Entry(name, anchor, file.frames / file.samplerate)
        facts = f"{entry.seconds:.1f} s, {file.samplerate} Hz, {file.channels} channel{'s' * (file.channels > 1)}"
    if not entry.seconds:
        raise ValueError("has no samples")
    powers = frame_powers(noisy, denoised, denoiser.noisy_share)
    notes = []
    if clean is None:
        entry.add("SNR, estimated, dB", estimated_snr(powers))
    else:
        notes = _score(entry, noisy, denoised, clean)
    quiet = [np.quantile(_db(power), 0.1) for power in (powers.before, powers.after)]
    entry.add("level of the quietest tenth, dBFS", *quiet)
    entry.add("level, dBFS", _db(powers.before.mean()), _db(powers.after.mean()))
    if entry.seconds > PLAYER_S:
        notes.append(f"The players hold the first {PLAYER_S} s; picture and figures are of the whole file.")
    picture = io.BytesIO()
    draw_spectrograms(noisy, denoised, picture, np.stack((_curve(powers.before), _curve(powers.after))))
    players = {"before": noisy, "after": denoised} | ({"clean reference": clean} if clean else {})
    out.write(f'<section id="{anchor}">\n<h2>{html.escape(name)}</h2>\n<p>{facts}</p>\n<div class="players">\n')
    for title, path in players.items():
        sound = _data("audio/ogg", _opus(path))
        out.write(f'<figure><figcaption>{title}</figcaption><audio controls src="{sound}"></audio></figure>\n')
    out.write("</div>\n" + _table(list(entry.figures), [entry.cells(list(entry.figures))]))
    out.writelines(f'<p class="note">{html.escape(note)}</p>\n' for note in notes)
    alternative = f"Spectrograms of {name} before and after, and levels over time"
    out.write(f'<img alt="{html.escape(alternative)}" src="{_data("image/png", picture.getvalue())}">\n</section>\n')
    return entry


def _score(entry: _Entry, noisy: Path, denoised: Path, clean: Path) -> list[str]:
    """Adds the metrics of a pair; returns what is to be said about them."""
    from modelscope_ext.audio import read_mono
    from modelscope_ext.metrics import require, scores

    names, notes = list(METRICS), []
    try:
        require(names)
    except ModuleNotFoundError as error:
        names, notes = ["si_sdr"], [f"WB-PESQ and STOI are left out: {error}"]
    before, after, reference = (read_mono(path, 16000) for path in (noisy, denoised, clean))
    if len(before) != len(reference):
        seconds = [f"{len(audio) / 16000:.4f} s" for audio in (before, reference)]
        raise ValueError(f"is {seconds[0]} long, its clean file {clean} {seconds[1]}")
    found = [scores(audio, reference, names) for audio in (before, after)]
    for name in names:
        heading, digits = METRICS[name]
        entry.add(heading, found[0][name], found[1][name], digits)
    return notes


def _opus(path: Path) -> bytes:
    """The beginning of a file as Ogg Opus."""
    import numpy as np
    import soundfile

    from modelscope_ext.audio import open_audio, read_blocks, resample

    with open_audio(path) as file:
        rate = file.samplerate
        blocks = list(itertools.islice(read_blocks(file, 1.0), PLAYER_S))
    audio = np.concatenate(blocks)
    if audio.shape[1] > 2:
        audio = audio.mean(1, keepdims=True)
    if rate not in OPUS_RATES:
        audio, rate = resample(audio, rate, 48000), 48000
    memory = io.BytesIO()
    with soundfile.SoundFile(memory, "w", rate, audio.shape[1], "OPUS", format="OGG") as out:
        for start in range(0, len(audio), rate):  # some versions of libsndfile crash on long writes
            out.write(np.clip(audio[start : start + rate], -1, 1))
    return memory.getvalue()


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _top(model: str, shown: Sequence[_Entry], failed: dict[str, str]) -> str:
    from modelscope_ext import __version__

    text = f"<p>Denoised with {html.escape(model)}, modelscope-ext {__version__}. Figures: before → after.</p>\n"
    if any("SNR, estimated, dB" in entry.figures for entry in shown):
        text += (
            '<p class="note">The signal-to-noise ratio before is estimated from what the model keeps and what it takes '
            "away. With the model in modelscope-ext the error is 1.5 dB on average up to 15 dB; above, it reads low."
            "</p>\n"
        )
    for name, reason in failed.items():
        text += f'<p class="failed">{html.escape(name)}: {html.escape(reason)}</p>\n'
    if len(shown) + len(failed) > 1:
        headings = list(dict.fromkeys(heading for entry in shown for heading in entry.figures))
        rows = [
            [f'<a href="#{entry.anchor}">{html.escape(entry.name)}</a>', f"{entry.seconds:.1f}", *entry.cells(headings)]
            for entry in shown
        ]
        text += _table(["file", "seconds", *headings], rows)
    return text


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML."""
    head = "".join(f"<th>{heading}</th>" for heading in headings)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f'<div class="table"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody>\n</table></div>\n'


#: The policy forbids what the page must not do: to load anything.
_HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'">
<title>Before and after denoising</title>
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1rem; }
section { border-top: 1px solid #8888; margin-top: 2rem; }
h2 { overflow-wrap: anywhere; }
.players { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #8884; padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: bottom; }
td { white-space: nowrap; }
img { height: auto; max-width: 100%; }
.note { color: #777; font-size: .9rem; }
.failed { color: #c33; }
</style>
<main>
<h1>Before and after denoising</h1>
"""
