"""The training configuration: a JSON file whose keys are the fields below."""

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from modelscope_ext.data.mixing import MixConfig

__all__ = ["DataConfig", "TrainConfig", "ValidationConfig", "corpus_options", "load_config"]


@dataclass(frozen=True)
class DataConfig:
    """Folders of audio, relative to `--data-dir`, and how they are mixed.

    speech: folder → weight, or folder → {"weight": …, "band_limit_hz": …, "speaker": …}. The speech has nothing above
        its band limit; the rule of `speaker_names` ("name", "file", "one" or a number) is "one" by default.
    noise: folder → weight, or folder → {"weight": …, "kind": "music" or "impact"}.
    max_speaker_share: no speaker has more of the speech than this; 0: no limit.
    rooms: number of simulated rooms, four positions each; room_folder: real impulse responses, used beside them, but
        for the files that match a pattern of rooms_left_out.
    """

    speech: dict[str, Any]
    noise: dict[str, Any]
    max_speaker_share: float = 0.0
    rooms: int = 500
    room_folder: str | None = None
    rooms_left_out: tuple[str, ...] = ()
    mix: MixConfig = field(default_factory=MixConfig)

    def __post_init__(self) -> None:
        for name, known in (("speech", ("weight", "band_limit_hz", "speaker")), ("noise", ("weight", "kind"))):
            for folder, options in corpus_options(getattr(self, name)).items():
                if "weight" not in options or options.keys() - set(known):
                    raise ValueError(f"{name} {folder}: needs a weight, or an object with {', '.join(known)}")


def corpus_options(folders: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the options of each corpus; a number is its weight."""
    return {name: each if isinstance(each, dict) else {"weight": each} for name, each in folders.items()}


@dataclass(frozen=True)
class ValidationConfig:
    """Fixed pairs that no training sample shares a file with."""

    speech: str
    noise: str
    pairs: int = 40
    seconds: float = 5.0
    seed: int = 2021
    every: int = 1000  # steps


@dataclass(frozen=True)
class TrainConfig:
    """One training run. `model` is a name and the options of `build`.

    start: a model folder, or "default" for the model inside this package, whose weights training begins
    with. Its window may be shorter (`Cruse.load_resized`).
    """

    model: dict[str, Any]
    data: DataConfig
    validation: ValidationConfig
    start: str | None = None
    steps: int = 100_000
    batch: int = 12
    learning_rate: float = 1e-3  # of AdamW
    matrix_learning_rate: float = 2e-3  # of Muon, which takes the inner layers' matrices; 0: AdamW takes all
    decay_share: float = 0.3  # last part of the steps, in which both rates fall …
    final_share: float = 0.01  # … to this share
    warmup: int = 500  # steps
    weight_decay: float = 0.1
    clip_norm: float = 5.0
    norm_steps: int = 2000  # after these, batch norm keeps its statistics: the net then trains as it will be used
    ema: float = 0.999  # share of the old average that stays at each step
    compression: float = 0.3
    complex_weight: float = 0.3
    snr_weight: float = 0.0
    loudness_weight: float = 0.0
    under_weight: float = 1.0
    silent_weight: float = 0.0
    seed: int = 0
    workers: int = 1
    threads: int = 1  # of torch, on a CPU
    checkpoint_seconds: float = 120.0


_NESTED = {"data": DataConfig, "mix": MixConfig, "validation": ValidationConfig}


def load_config(path: str | Path) -> TrainConfig:
    """Reads a configuration; an unknown or a missing key is a `ValueError` that names it and the known ones."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error})") from error
    try:
        return _fill(TrainConfig, found, "")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _fill(kind: type, found: Any, where: str):
    known = {f.name: f for f in fields(kind)}
    if not isinstance(found, dict):
        raise ValueError(f"{where or 'the file'} must be an object with {', '.join(known)}")
    if unknown := sorted(found.keys() - known.keys()):
        raise ValueError(f"unknown key {where}{unknown[0]}; known are {', '.join(known)}")
    values = {}
    for name, value in found.items():
        nested = _NESTED.get(name)
        if nested:
            value = _fill(nested, value, f"{where}{name}.")
        values[name] = tuple(value) if isinstance(value, list) else value
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{where or 'the file'}: {str(error).split('() ')[-1]}") from error
