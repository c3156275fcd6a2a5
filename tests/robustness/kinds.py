"""Files of every container, codec, rate and number of channels, and what comes back of them.

    python tests/robustness/kinds.py             # some 1,200 files, 20 minutes
    python tests/robustness/kinds.py --share 3 10   # every tenth of them from the third on

FFmpeg makes each file; a denoiser that changes nothing writes it again. Printed are files that FFmpeg's program decodes
otherwise, and those whose result has another
length, place, codec, layout, level or size, a changed picture, or a warning. Codecs of few bits do print lines: sizes
of seconds are mostly headers.
"""

import argparse
import itertools
import logging
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import soundfile
from scipy.signal import correlate

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from conftest import speech  # noqa: E402

from modelscope_ext import Denoiser  # noqa: E402
from modelscope_ext.audio import open_audio  # noqa: E402
from modelscope_ext.models import build  # noqa: E402

RATES = [8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 96000]
#: Suffix, encoder, rates, channels, bits per second and channel (None: as many as it takes).
LOSSY = [
    ("mp3", "libmp3lame", RATES[:8], [1, 2], [8, 16, 32, 64, 160]),
    ("m4a", "aac", RATES[:8], [1, 2, 6], [16, 32, 80]),
    ("aac", "aac", RATES[:8], [1, 2], [48]),
    ("wma", "wmav2", RATES[:8], [1, 2], [48]),
    *((suffix, "libopus", [8000, 16000, 48000], [1, 2, 6], [6, 12, 24, 64]) for suffix in ("opus", "webm", "ogg")),
    *((suffix, "libvorbis", RATES[:8], [1, 2], [None]) for suffix in ("ogg", "mkv", "webm")),
    *((suffix, "libopencore_amrnb", [8000], [1], [4.75, 7.4, 12.2]) for suffix in ("amr", "3gp")),
    *((suffix, "ac3", [32000, 44100, 48000], [1, 2, 6], [64, 96]) for suffix in ("ac3", "mkv")),
    ("eac3", "eac3", [32000, 44100, 48000], [1, 2, 6], [64]),
    *((suffix, "mp2", [32000, 44100, 48000], [1, 2], [64, 96]) for suffix in ("mp2", "mpg", "ts")),
]
PLAIN = ["u8", "s16le", "s24le", "s32le", "f32le", "f64le", "mulaw", "alaw"]
LOSSLESS = [
    *(("wav", f"adpcm_{kind}", RATES[:8], [1, 2], [None]) for kind in ("ms", "ima_wav")),
    *(("wav", f"pcm_{kind}", RATES, [1, 2, 6, 8], [None]) for kind in PLAIN),
    *(("w64", f"pcm_{kind}", [16000, 48000], [1, 2, 6], [None]) for kind in PLAIN),
    *((kind, f"pcm_s{bits}be", RATES, [1, 2, 6], [None]) for kind in ("aiff", "caf", "au") for bits in (16, 24)),
    *((suffix, "alac", RATES, [1, 2, 6], [None]) for suffix in ("m4a", "caf")),
    *((kind, kind, RATES, [1, 2, 6], [None]) for kind in ("flac", "tta")),
    ("wv", "wavpack", RATES, [1, 2], [None]),
    ("mka", "flac", RATES, [1, 2], [None]),
    ("mov", "pcm_s16le", RATES[5:], [1, 2], [None]),
    ("avi", "pcm_s16le", RATES[5:], [1, 2], [None]),
]
#: Suffix, encoder of the picture, those of the sound.
VIDEOS = [
    ("mp4", "libx264", ["aac", "libmp3lame", "ac3", "alac", "libopus", "flac"]),
    ("mov", "mpeg4", ["aac", "pcm_s16le", "pcm_s24be", "alac"]),
    ("mkv", "libx264", ["aac", "libopus", "flac", "libvorbis", "pcm_s16le", "ac3", "libmp3lame"]),
    ("webm", "libvpx", ["libopus", "libvorbis"]),
    ("avi", "mpeg4", ["libmp3lame", "pcm_s16le", "ac3"]),
    ("mpg", "mpeg2video", ["mp2"]),
    ("ts", "libx264", ["aac", "mp2", "ac3"]),
    ("m2ts", "libx264", ["aac", "ac3"]),
    ("flv", "flv", ["aac", "libmp3lame"]),
    ("3gp", "h263", ["aac", "libopencore_amrnb"]),
    ("wmv", "wmv2", ["wmav2"]),
    ("ogv", "libtheora", ["libvorbis", "libopus"]),
    ("nut", "mpeg4", ["aac", "pcm_s16le"]),
]
#: Samples by which FFmpeg's program may keep more of the last frame.
PADDING = 2048
#: Codecs whose last block is filled up.
FILLED = ("ac3", "eac3", "amr_nb", "mp2", "aac")


class Case:
    """One file: its name and FFmpeg's command for it, after that for `i.wav`."""

    def __init__(self, suffix: str, codec: str, rate: int, channels: int, *options: str) -> None:
        self.suffix, self.codec, self.rate, self.channels, self.options = suffix, codec, rate, channels, options

    def __str__(self) -> str:
        return " ".join(map(str, (self.suffix, self.codec, self.rate, self.channels, *self.options)))


def cases() -> Iterator[Case]:
    """Yield all files."""
    for suffix, codec, rates, counts, shares in (*LOSSY, *LOSSLESS):
        for rate, channels, kbps in itertools.product(rates, counts, shares):
            yield Case(suffix, codec, rate, channels, *(["-b:a", f"{kbps * channels}k"] if kbps else []))
    for suffix, picture, codecs in VIDEOS:
        for codec, late in itertools.product(codecs, ("0", "0.5", "-0.3")):
            rate = 8000 if "amr" in codec else 44100
            source = ["-f", "lavfi", "-i", "testsrc=size=176x144:rate=25:duration=3", "-itsoffset", late, "-i", "i.wav"]
            coded = ["-map", "1:v", "-map", "2:a", "-c:v", picture, "-pix_fmt", "yuv420p", "-strict", "-2"]
            yield Case(suffix, codec, rate, 1, *source, *coded)


def sound(path: Path) -> tuple[np.ndarray, str, str]:
    """Return all samples of a file, its codec and its layout."""
    with open_audio(path) as file:
        samples = np.concatenate(list(file.blocks(1.0)))
    with av.open(str(path)) as file:
        stream = file.streams.audio[0]
        head, codec = bytes(next(file.demux(stream)))[:2], stream.codec_context.codec.canonical_name
        is_layer_2 = codec == "mp3" and head[0] == 0xFF and head[1] & 6 == 4  # PyAV's name may be that of its decoder
        return samples, "mp2" if is_layer_2 else codec, stream.layout.name


def by_ffmpeg(path: Path, channels: int) -> np.ndarray:
    """Return all samples of a file as FFmpeg's program decodes them, at the rate that our door gives."""
    with open_audio(path) as file:
        form = ["-ar", str(file.sample_rate), "-f", "f32le"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", path, "-map", "a:0", *form, "-"]
    return np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, "<f4").reshape(-1, channels)


def packets(path: Path) -> list[tuple[float, bytes]]:
    """Return time and content of the picture's packets, from the first sample on."""
    with av.open(str(path)) as file:
        start = next(file.decode(file.streams.audio[0])).time
    with av.open(str(path)) as file:
        found = [each for each in file.demux(file.streams.video[0]) if each.size] if file.streams.video else []
        return [
            (float((each.pts if each.pts is not None else each.dts) * each.time_base) - start, bytes(each))
            for each in found
        ]


def differences(case: Case, source: Path, target: Path) -> Iterator[str]:
    """Yield what is not as it was."""
    (before, *kind), (after, *other) = sound(source), sound(target)
    decoded = by_ffmpeg(source, before.shape[1])
    common = slice(min(len(before), len(decoded)))
    same = snr(before[common], decoded[common])
    if abs(len(before) - len(decoded)) > PADDING or same < 20:
        yield f"{len(before)} samples are read, FFmpeg: {len(decoded)}, SNR {same:.0f} dB"
    if kind != other or before.shape[1:] != after.shape[1:]:
        yield f"{kind} → {other}"
    longest = 2048 if kind[0] in FILLED or "adpcm" in kind[0] else 0
    if not 0 <= len(after) - len(before) <= longest:
        yield f"{len(before)} → {len(after)} samples"
    lag = int(np.argmax(correlate(after[:, 0], before[:, 0], method="fft"))) - len(before) + 1
    if abs(lag) > (0 if "pcm" in kind[0] else 6):
        yield f"{lag} samples late"
    level = 20 * np.log10((after[:, 0].std() + 1e-9) / (before[:, 0].std() + 1e-9))
    if abs(level) > 2:
        yield f"level {level:+.1f} dB"
    if not 0.7 < (size := target.stat().st_size / source.stat().st_size) < 1.4:
        yield f"{size:.2f} times the size"
    pictures = packets(source), packets(target)
    if [data for _, data in pictures[0]] != [data for _, data in pictures[1]]:
        yield "another picture"
    elif pictures[0] and max(abs(a - b) for (a, _), (b, _) in zip(*pictures, strict=True)) > 1.1e-3:
        yield "the picture at another time"


def snr(audio: np.ndarray, reference: np.ndarray) -> float:
    """Return the SNR in dB."""
    return float(10 * np.log10(np.sum(reference**2) / (np.sum((audio - reference) ** 2) + 1e-9) + 1e-9))


def check(case: Case, denoiser: Denoiser, folder: Path, warnings: list[str]) -> list[str] | None:
    """Return what is wrong with a result; None if FFmpeg does not make the source."""
    audio = np.repeat(speech(case.rate, 2.0), case.channels, 1) * np.linspace(1, 0.5, case.channels)
    soundfile.write(folder / "i.wav", audio, case.rate, "PCM_24", format="WAVEX")
    source, target = folder / f"s.{case.suffix}", folder / "out" / f"s.{case.suffix}"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-i", "i.wav", *case.options, "-c:a", case.codec]
    if subprocess.run([*command, source.name], cwd=folder, capture_output=True).returncode:
        return None
    warnings.clear()
    try:
        denoiser.file(source, target)
        return [*differences(case, source, target), *warnings]
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]


def main() -> None:
    """Check all files, or a share of them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--share", type=int, nargs=2, default=(0, 1), metavar=("FIRST", "STEP"), help="[0 1]")
    first, step = parser.parse_args().share
    warnings: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: warnings.append(record.getMessage())
    logging.getLogger("modelscope_ext").addHandler(handler)
    denoiser, checked, wrong = Denoiser(build("CRUSE2-8-1xGRU2").eval(), wet=0.0, band="speech"), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for case in itertools.islice(cases(), first, None, step):
            found = check(case, denoiser, Path(folder), warnings)
            checked += found is not None
            wrong += bool(found)
            if found:
                print(f"{case}: {'; '.join(found)}", flush=True)
    print(f"{checked} files, {wrong} to look at")


if __name__ == "__main__":
    main()
