"""Configurations of training. The fields of `TrainConfig` are the keys of its JSON file."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from modelscope_ext.data.mixing import MixConfig

#: Hooks of ModelScope's trainers whose work the training does without them.
HOOKS = (
    "BestCkptSaverHook",
    "CheckpointHook",
    "DDPHook",
    "EvaluationHook",
    "IterTimerHook",
    "LrSchedulerHook",
    "OptimizerHook",
    "PlateauLrSchedulerHook",
    "TensorboardHook",
    "TextLoggerHook",
)


@dataclass(frozen=True)
class DataConfig:
    """Folders of audio, relative to `--data-dir`, and how they are mixed.

    speech: folder → weight or folder → {"weight": …, "band_limit_hz": …, "speaker": …}. The speech has nothing above
        its band limit; the rule of `speaker_names` ("name", "file", "one" or a number) is "one" by default.
    noise: folder → weight or folder → {"weight": …, "kind": "music" or "impact"}.
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
    """Fixed pairs of files that are not in the training data."""

    speech: str
    noise: str
    pairs: int = 40
    seconds: float = 5.0
    seed: int = 2021
    every: int = 1000  # steps


@dataclass(frozen=True)
class TrainConfig:
    """A run of `MixtureRecipe`. `model` is a name and the options of `build`.

    start: a model as `hub.model_folder` takes it; "default" is "stream" or, in both directions, "file". Training begins
        with its weights. Its window may be shorter and it may have one direction of two (`load_resized`).
    """

    free = ("steps", "threads", "workers", "checkpoint_seconds", "validation")  # may change within a run

    model: dict[str, Any]
    data: DataConfig
    validation: ValidationConfig
    start: str | None = None
    steps: int = 100_000
    batch: int = 12
    learning_rate: float = 1e-3  # of AdamW
    matrix_learning_rate: float = 2e-3  # of Muon for the matrices of inner layers; 0: AdamW for all
    decay_share: float = 0.3  # part of the steps at the end in which both rates fall …
    final_share: float = 0.01  # … to this share
    warmup: int = 500  # steps
    weight_decay: float = 0.1
    clip_norm: float = 5.0
    norm_steps: int = 2000  # after these, batch norm keeps its statistics, as in inference
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


@dataclass(frozen=True)
class SegmentConfig:
    """A run of `SegmentRecipe`. Batches are those of one process: n processes use n times as many rows a step."""

    free = ("epochs", "workers", "eval_every", "eval_iterations", "eval_batch", "eval_workers", "keep",
            "checkpoint_seconds", "silent_rows", "minutes", "patience")  # may change within a run  # fmt: skip
    epochs: int = 200
    iterations: int = 2000  # an epoch; rows are repeated if there are fewer
    batch: int = 12
    workers: int = 0
    seed: int = 20
    optimizer: str = "Adam"
    optimizer_options: dict[str, Any] | None = None  # lr, weight_decay …
    clip_norm: float | None = 10.0
    scheduler: str | None = "ReduceLROnPlateau"
    scheduler_options: dict[str, Any] | None = None
    scheduler_metric: str = "avg_loss"
    eval_every: int = 1  # epochs
    eval_iterations: int | None = 200
    eval_batch: int = 12
    eval_workers: int = 0
    keep: int | None = None  # checkpoints; None: all
    checkpoint_seconds: float = 600.0
    silent_rows: str = "skip"  # or "refuse"
    minutes: float | None = None  # of training, over all runs; None: all epochs
    patience: int | None = None  # evaluations without a better one that end the run

    def __post_init__(self) -> None:
        if self.silent_rows not in ("skip", "refuse"):
            raise ValueError(f"silent_rows must be skip or refuse, got {self.silent_rows!r}")
        for name in ("epochs", "iterations", "batch", "eval_batch", "eval_every"):
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= 1):
                raise ValueError(f"{name} must be a whole number of at least 1, got {getattr(self, name)!r}")

    @property
    def steps(self) -> int:
        """Return the number of steps."""
        return self.epochs * self.iterations

    @classmethod
    def from_configuration(cls, configuration: dict[str, Any]) -> "SegmentConfig":
        """Return the sections "train" and "evaluation" of a `configuration.json`.

        Settings are those of the released model if the sections have none and ignored if torch no longer has them.

        Raises:
            ValueError: a section or a value has a wrong type, or a hook is unknown.
        """
        try:
            train, evaluation = configuration.get("train", {}), configuration.get("evaluation", {})
            optimizer, scheduler = dict(train.get("optimizer", {})), dict(train.get("lr_scheduler", {}))
            for name in ("options", "verbose"):
                scheduler.pop(name, None)
            hooks = _hooks(train.get("hooks", []))
            metric = train.get("lr_scheduler_hook", hooks["PlateauLrSchedulerHook"]).get("metric_key")
            kept = train.get("checkpoint", {}).get("period", hooks["CheckpointHook"]).get("max_checkpoint_num")
            values = {
                "epochs": train.get("max_epochs"),
                "iterations": train.get("train_iters_per_epoch"),
                "batch": train.get("dataloader", {}).get("batch_size_per_gpu"),
                "workers": train.get("dataloader", {}).get("workers_per_gpu"),
                "seed": train.get("seed"),
                "clip_norm": optimizer.pop("options", {}).get("grad_clip", {}).get("max_norm"),
                "optimizer": optimizer.pop("type", None),
                "optimizer_options": optimizer or None,
                "scheduler": scheduler.pop("type", None),
                "scheduler_options": scheduler or None,
                "scheduler_metric": metric,
                "eval_every": hooks["EvaluationHook"].get("interval"),
                "eval_iterations": evaluation.get("val_iters_per_epoch"),
                "eval_batch": evaluation.get("dataloader", {}).get("batch_size_per_gpu"),
                "eval_workers": evaluation.get("dataloader", {}).get("workers_per_gpu"),
                "silent_rows": train.get("silent_rows"),
                "minutes": train.get("max_minutes"),
                "patience": train.get("patience"),
                "keep": kept,
            }
            return cls(**{name: value for name, value in values.items() if value is not None})
        except (AttributeError, TypeError) as error:
            raise ValueError(f'the sections "train" and "evaluation" do not have the released form: {error}') from error


def _hooks(described: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the options of all known hooks; raise ValueError for a hook whose work the training does not do."""
    hooks: dict[str, dict[str, Any]] = {name: {} for name in HOOKS}
    for hook in described:
        name = hook.get("type")
        if name not in HOOKS:
            raise ValueError(f"train.hooks: this trainer has no {name}; it does the work of {', '.join(HOOKS)}")
        if not hook.get("by_epoch", True):
            raise ValueError(f"train.hooks: {name} works by epoch here, not with by_epoch false")
        hooks[name] = hook
    return hooks


_NESTED = {"data": DataConfig, "mix": MixConfig, "validation": ValidationConfig}


def load_config(path: str | Path) -> TrainConfig:
    """Read a `TrainConfig`.

    Raises:
        ValueError: a key is unknown or missing. The message names it and the known ones.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error})") from error
    try:
        return _fill(TrainConfig, found, "")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def to_json(config: TrainConfig | SegmentConfig) -> str:
    """Return the settings that must not change within a run."""
    return json.dumps({key: value for key, value in asdict(config).items() if key not in config.free})


def check_unchanged(before: str, config: TrainConfig | SegmentConfig, name: str) -> None:
    """Raise ValueError if `config` differs from the settings `before` of the checkpoint `name`.

    Settings that are newer than the checkpoint had their defaults.
    """
    free = {key: value for key, value in json.loads(json.dumps(asdict(config))).items() if key in config.free}
    try:
        old, new = (json.loads(to_json(each)) for each in (_fill(type(config), free | json.loads(before), ""), config))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: has damaged settings, or those of another version ({error})") from error
    if changed := [key for key, value in new.items() if value != old[key]]:
        raise ValueError(
            f"{name} belongs to a run with another configuration ({', '.join(changed)} differ); "
            "choose another --work-dir, or remove that file"
        )


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
