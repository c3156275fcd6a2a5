"""Pack a training on mixtures for a machine that takes few megabytes; `gpu_round.sh` says how to use it.

Clips are cut into pieces of at most ten seconds and coded as Opus. Each corpus gets bytes in proportion to its share of
the mixtures, and in a corpus the speakers take turns. Shares stay as they were: where fewer minutes of a corpus are
packed, its weight rises. Rooms, simulated ones too, become FLAC of 12 bits.
"""

import argparse
import io
import itertools
import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from modelscope_ext.audio import SAMPLE_RATE
from modelscope_ext.data.corpus import Corpus, load_corpus
from modelscope_ext.data.rooms import load_rooms, simulate_rooms
from modelscope_ext.data.speakers import cap_speakers, speaker_names
from modelscope_ext.training.config import DataConfig, corpus_options, load_config

PIECE_S = 10
NOISE_SHARE, VALID_SHARE = 0.4, 0.03  # at most: of the training audio; of all, for each side of the validation
ROOM_PEAK = 1 / 16  # 12 of 16 bits: the error is 74 dB below the direct sound


def pieces(corpus: Corpus, speakers: list[str], share: float, rng: np.random.Generator) -> Iterator[tuple]:
    """Yield (how late to pack it, its name, begin, end) for each piece; the speakers take turns."""
    cuts = []
    for speaker, name, begin, end in zip(speakers, corpus.names, corpus.starts, corpus.starts[1:], strict=False):
        edges = np.linspace(begin, end, 1 + math.ceil((end - begin) / (PIECE_S * SAMPLE_RATE))).astype(int).tolist()
        cuts += [(speaker, f"{name}.{i}", *ends) for i, ends in enumerate(itertools.pairwise(edges))]
    turns: Counter = Counter()
    ordered = []
    for i in rng.permutation(len(cuts)):
        speaker, *cut = cuts[i]
        ordered.append((turns[speaker], len(ordered), cut))
        turns[speaker] += 1
    before = 0
    for _, _, (name, begin, end) in sorted(ordered):
        yield before / max(share, 1e-9), name, begin, end
        before += end - begin


def pack(
    corpora: dict[Path, Corpus], speakers: list[list[str]], shares: list[float], budget: float, kbps: float
) -> list[float]:
    """Write pieces of the corpora below their new folders until the bytes are spent; return the samples of each.

    Raises:
        ValueError: the budget does not suffice for one piece of each corpus.
    """
    rng, queue, packed = np.random.default_rng(0), [], [0.0] * len(corpora)
    for number, (corpus, names, share) in enumerate(zip(corpora.values(), speakers, shares, strict=True)):
        queue += [(late, number, *piece) for late, *piece in pieces(corpus, names, share, rng)]
    folders, sources = list(corpora), list(corpora.values())
    for _, number, name, begin, end in sorted(queue):
        coded = io.BytesIO()
        level = 1 - (kbps - 6) / 250  # libsndfile: 256 to 6 kbit/s
        audio = sources[number].pcm[begin:end].astype(np.float32) / 32768
        soundfile.write(coded, audio, SAMPLE_RATE, format="OGG", subtype="OPUS", compression_level=level)
        budget -= len(coded.getvalue())
        if budget < 0:
            break
        path = folders[number] / f"{name}.ogg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(coded.getvalue())
        packed[number] += end - begin
    if not all(packed):
        raise ValueError("the budget is too small for one piece of each corpus")
    return packed


def pack_rooms(data: DataConfig, seed: int, data_dir: Path, cache: Path, out: Path, count: int) -> None:
    kept, count = cache / f"rooms-{data.rooms}-{seed}.npz", min(count, data.rooms)
    rooms = load_rooms(kept)[:count] if kept.exists() else simulate_rooms(np.random.default_rng(seed), count)
    if data.room_folder:
        rooms += load_rooms(data_dir / data.room_folder, leave_out=data.rooms_left_out)
    out.mkdir(parents=True)
    for i, room in enumerate(rooms):
        for j, response in enumerate(room):
            scaled = response * (ROOM_PEAK / np.abs(response).max())
            soundfile.write(out / f"room_{i:04d}_pos{j}.flac", scaled, SAMPLE_RATE, compression_level=1.0)


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True, help="decoded audio, as a run's cache/")
    parser.add_argument("--out", type=Path, required=True, help="the pack; what it has already, wheels/ say, counts")
    parser.add_argument("--megabytes", type=float, default=50.0)
    parser.add_argument("--kbps", type=float, default=24.0)
    parser.add_argument("--rooms", type=int, default=200, help="simulated rooms, at most")
    args = parser.parse_args(arguments)
    config, found = load_config(args.config), json.loads(args.config.read_text(encoding="utf-8-sig"))
    data = args.out / "data"
    shutil.rmtree(data, ignore_errors=True)
    if config.start and Path(config.start).is_dir():
        shutil.copytree(config.start, args.out / "start", dirs_exist_ok=True)
    if config.data.rooms or config.data.room_folder:
        pack_rooms(config.data, config.seed, args.data_dir, args.cache, data / "rir", args.rooms)
        found["data"] |= {"rooms": 0, "room_folder": "rir", "rooms_left_out": []}

    def put(side: str, options: dict[str, dict], budget: float, most: float = 0.0) -> None:
        """Pack the corpora of one side and set their weights."""
        sources = [load_corpus(args.data_dir / folder, args.cache) for folder in options]
        rules = [each.get("speaker", "one" if side == "speech" else "file") for each in options.values()]
        weighted = [(corpus, each["weight"]) for corpus, each in zip(sources, options.values(), strict=True)]
        capped = cap_speakers(weighted, rules, most) if most else weighted
        shares = [float(np.sum(corpus.lengths * weight)) for corpus, weight in capped]
        speakers = [speaker_names(corpus, rule) for corpus, rule in zip(sources, rules, strict=True)]
        packed = pack({data / f: c for f, c in zip(options, sources, strict=True)}, speakers, shares, budget, args.kbps)
        for each, corpus, samples in zip(options.values(), sources, packed, strict=True):
            each["weight"] *= float(corpus.starts[-1]) / samples
        print(f"{side}: {sum(packed) / SAMPLE_RATE / 60:.1f} of {sum(c.seconds for c in sources) / 60:.1f} min")

    total = args.megabytes * 1e6
    put("valid_speech", {config.validation.speech: {"weight": 1.0, "speaker": "name"}}, VALID_SHARE * total)
    put("valid_noise", {config.validation.noise: {"weight": 1.0}}, VALID_SHARE * total)
    end = total - 2 * len(json.dumps(found))  # the new weights have more digits
    for side, share in (("noise", NOISE_SHARE), ("speech", 1.0)):
        options = {folder: dict(each) for folder, each in corpus_options(getattr(config.data, side)).items()}
        put(side, options, share * (end - size(args.out)), config.data.max_speaker_share if side == "speech" else 0.0)
        found["data"][side] = options
    (args.out / "config.json").write_text(json.dumps(found))
    print(f"{size(args.out) / 1e6:.2f} MB in {args.out}")


if __name__ == "__main__":
    main()
