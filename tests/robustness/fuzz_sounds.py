"""Sound files as libsndfile writes them, with a few faults, and the checks of what becomes of them."""

import contextlib
import functools
import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from fuzz_common import WINDOW, Models, outcome

from modelscope_ext.audio import AudioError, open_audio

KINDS = [
    *(
        ("WAV", kind)
        for kind in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM", "GSM610")
    ),
    *(("AIFF", kind) for kind in ("PCM_S8", "PCM_16", "FLOAT", "IMA_ADPCM", "DWVW_16")),
    *(
        (name, kind)
        for name in ("WAVEX", "AU", "W64", "RF64", "CAF")
        for kind in ("PCM_16", "FLOAT", "DOUBLE", "PCM_24")
    ),
    *(("FLAC", kind) for kind in ("PCM_S8", "PCM_16", "PCM_24")),
    *(("CAF", "ALAC_16"), ("CAF", "ALAC_32"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")),
    *((name, "PCM_16") for name in ("NIST", "VOC", "IRCAM", "PAF", "SVX", "MAT4", "MAT5", "PVF", "HTK", "SDS", "AVR")),
    *(("XI", "DPCM_16"), ("WVE", "ALAW"), ("MPC2K", "PCM_16"), ("VOC", "ULAW"), ("AU", "G721_32")),
]
SUFFIX = {"WAVEX": "wav", "MAT4": "mat", "MAT5": "mat", "SVX": "iff", "IRCAM": "sf"}
INTERESTING = [0, 1, 2, 3, 4, 8, 16, 127, 128, 255, 256, 999, 1000, 1024, 1025, 32767, 65535, 10**6, 10**6 + 3, 2**24]
INTERESTING += [2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**48, 2**63 - 1, 2**63, 2**64 - 1]
ODD_FLOATS = [np.nan, np.inf, -np.inf, 1e-45, 1e-39, 3e38, -3e38, 1e10, 1.5, -1.0]


@functools.lru_cache(512)
def seed_file(kind: tuple[str, str], rate: int, channels: int, length: int) -> bytes | None:
    """Return a sound file as libsndfile writes it, or None if it does not."""
    samples = 0.1 * np.random.default_rng(length).standard_normal((length, channels))
    file = io.BytesIO()
    try:
        soundfile.write(file, samples, rate, kind[1], format=kind[0])
    except (soundfile.LibsndfileError, ValueError):
        return None
    return file.getvalue()


def a_file(rng: np.random.Generator) -> tuple[str, bytes]:
    """Return the suffix and the bytes of a whole file."""
    while True:
        kind = KINDS[rng.integers(len(KINDS))]
        length = int(rng.choice([0, 1, 159, 160, 161, WINDOW, 2 * WINDOW, 3 * WINDOW, 2000, rng.integers(960)]))
        rate, channels = (int(rng.choice(some)) for some in ((8000, 16000, 44100, 48000), (1, 1, 2, 5)))
        if content := seed_file(kind, rate, channels, length):
            return SUFFIX.get(kind[0], kind[0].lower()), content


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Return the content with a few faults, most of them near its beginning."""
    data = bytearray(content)
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3, 8])):
        near = max(1, len(data) if rng.random() < 0.3 else min(len(data), 128))
        at, what = int(rng.integers(near)), rng.integers(10)
        if what == 0:
            del data[at:]
        elif what == 1:
            del data[at : at + int(rng.integers(1, 64))]
        elif what == 2:
            data[at:at] = rng.bytes(int(rng.integers(1, 64)))
        elif what <= 5 and data:  # a number that claims something
            size = int(rng.choice([1, 2, 4, 8]))
            order = "little" if rng.random() < 0.6 else "big"
            data[at : at + size] = (INTERESTING[rng.integers(len(INTERESTING))] % 256**size).to_bytes(size, order)
        elif what == 6 and data:
            data[at % len(data)] ^= 1 << int(rng.integers(8))
        elif what == 7:  # samples that are none
            kind = rng.choice(["<f4", ">f4", "<f8", ">f8"])
            value = np.array(ODD_FLOATS[rng.integers(len(ODD_FLOATS))], kind).tobytes()
            at = len(data) - len(value) * int(rng.integers(1, 9))
            data[max(at, 0) : at + len(value)] = value
        elif what == 8:  # wild metadata, in the tongue of RIFF, AIFF, FLAC or ID3
            said = int(rng.choice([0, 5, 64, 2**31 - 1, 2**32 - 1]))
            start = [b"LIST", b"bext", b"id3 ", b"smpl", b"cue ", b"SSND", b"COMM", b"INFO", b"fact", b"ID3\4"][
                rng.integers(10)
            ]
            data[at:at] = start + said.to_bytes(4, "little") + rng.bytes(int(rng.integers(64)))
        else:
            data += data[: at + 1] if rng.random() < 0.5 else a_file(rng)[1]
    return bytes(data)


def check_file(denoise: Callable[[Path, Path], object], source: Path, target: Path) -> str:
    """Check that the target is whole and as long as the source, or missing and the error names one of them."""
    before = set(os.listdir(target.parent))
    try:
        denoise(source, target)
    except AudioError as error:
        reason = str(error)
        assert str(source) in reason or str(target) in reason, f"names no file: {reason}"
        left = set(os.listdir(target.parent)) - before
        assert not left, f"left over: {left}"
        return outcome(reason, source, target)
    assert set(os.listdir(target.parent)) - before == {target.name}
    wanted, length = samples(source), counted(target)
    blocks = soundfile.info(os.fsencode(target)).subtype.startswith(("IMA", "MS_", "GSM", "G72"))
    assert wanted <= length <= wanted + (4096 if blocks else 0), f"{length} samples of {wanted}"
    if source.suffix not in (".w64", ".voc"):  # whose later chunks libsndfile takes for samples
        with contextlib.suppress(soundfile.LibsndfileError):  # an independent decoder, which stops early at some faults
            assert length >= counted(source)
    return "done"


def samples(path: Path) -> int:
    """Return the number of samples that the package reads."""
    with open_audio(path, warn=False) as file:
        return sum(map(len, file.blocks(60)))


class _Forwards(soundfile.SoundFile):
    """A file without soundfile's seek after each read, which some formats cannot do."""

    def seekable(self) -> bool:
        return False


def counted(path: Path) -> int:
    """Return the number of samples of a file; fail if one is not finite."""
    total = 0
    with _Forwards(os.fsencode(path)) as file:
        while len(block := file.read(65536, always_2d=True)):
            assert np.isfinite(block).all()
            total += len(block)
    return total


def files(models: Models, rng: np.random.Generator, folder: Path) -> str:
    suffix, content = a_file(rng)
    content = mutated(content, rng) if rng.random() < 0.97 else rng.bytes(int(rng.integers(200)))
    source = folder / f"in.{suffix}"
    source.write_bytes(content)
    target = (
        folder / f"out.{suffix if rng.random() < 0.7 else rng.choice(['wav', 'flac', 'ogg', 'mp3', 'opus', 'xyz', ''])}"
    )
    return check_file((models.by_onnx if rng.random() < 0.2 else models.denoiser).file, source, target)
