"""Training and evaluation by `modelscope.trainers.build_trainer`."""

import importlib.util
import os
from typing import Any

from modelscope.metrics.builder import build_metric
from modelscope.msdatasets import MsDataset
from modelscope.trainers.base import BaseTrainer
from modelscope.trainers.builder import TRAINERS
from modelscope.trainers.hooks import Hook
from modelscope.trainers.hooks.priority import get_priority

from modelscope_ext.checkpoint import load_weights
from modelscope_ext.hub import CONFIGURATION, model_folder
from modelscope_ext.models import CRUSE_TYPE, DUAL_PATH_TYPE, FRCRN_TYPE
from modelscope_ext.plugin.model import CruseModel, FrcrnModel
from modelscope_ext.training.batches import Segments
from modelscope_ext.training.config import SegmentConfig
from modelscope_ext.training.distributed import alone_at_work, rank
from modelscope_ext.training.fine_tuning import write_output
from modelscope_ext.training.loop import TrainingLoop
from modelscope_ext.training.segments import SegmentRecipe

MODELS = {FRCRN_TYPE: FrcrnModel, CRUSE_TYPE: CruseModel, DUAL_PATH_TYPE: CruseModel}
OPTIONS = ("cfg_file", "cfg_modify_fn", "cfg_options", "model_revision", "seed", "max_epochs", "train_iters_per_epoch",
           "val_iters_per_epoch", "device", "launcher", "callbacks")  # fmt: skip
#: Arguments that ModelScope adds. Any other unknown argument is a mistake.
IGNORED = ("trust_remote_code", "device_map")
#: What a hook may wait for: `before_train_iter(trainer)` …
STAGES = ("after_init", "before_run", "before_train_epoch", "before_train_iter", "after_train_iter",
          "after_train_epoch", "after_run")  # fmt: skip


@TRAINERS.register_module(module_name=CRUSE_TYPE)
@TRAINERS.register_module(module_name=DUAL_PATH_TYPE)
@TRAINERS.register_module(module_name=FRCRN_TYPE, force=True)
class NoiseSuppressionTrainer(BaseTrainer):
    """`build_trainer(Trainers.speech_frcrn_ans_cirm_16k, default_args=…)`, or `Trainers.speech_cruse_ans_16k`.

    Args:
        model: a model folder or an id. Without weights in it training begins from random ones.
        train_dataset, eval_dataset: an `MsDataset`, a Hugging Face data set or a PyTorch one with columns noisy and
            clean: segments of one length, as `to_segment` makes them. Cells for evaluation may be whole utterances.
        work_dir: folder of the run; see `SegmentRecipe`. `output/` is a model folder with the best weights.
        cfg_file: a configuration instead of the model folder's.
        cfg_modify_fn: takes the configuration and returns the one to use.
        cfg_options: dotted keys of the configuration → values.
        model_revision: of an id.
        seed, max_epochs, train_iters_per_epoch, val_iters_per_epoch: instead of the configuration's.
        device: "cpu", "gpu", "cuda:1" …; None takes a GPU if there is one.
        launcher: "pytorch" is an error unless torchrun started the program. Without it the processes of torchrun
            train together too.
        callbacks: a `modelscope.trainers.hooks.Hook`, or a list of them; see `register_hook`.

    As in ModelScope's trainers `epoch`, `iter` and `inner_iter` count what is done, `max_epochs`, `iters_per_epoch` and
    `max_iters` what there is, and `hooks` lists the registered hooks. ModelScope's own hooks are named in `train.hooks`
    of the configuration. Those whose work this trainer does are accepted, others are an error.

    Raises:
        TypeError: an argument is unknown, or a callback is no hook.
        ValueError: the data, the configuration or a hook cannot be used.
    """

    def __init__(
        self,
        model: str,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        work_dir: str | None = None,
        **options,
    ) -> None:
        given = {name: value for name, value in options.items() if value is not None}
        if unknown := sorted(given.keys() - {*OPTIONS, *IGNORED}):
            raise TypeError(f"this trainer has no use for {', '.join(unknown)}")
        _check_launcher(given.get("launcher"))
        self.model_dir = model_folder(model, given.get("model_revision"))
        super().__init__(given.get("cfg_file", str(self.model_dir / CONFIGURATION)))
        if modify := given.get("cfg_modify_fn"):
            self.cfg = modify(self.cfg)
        self.cfg.merge_from_dict(given.get("cfg_options", {}))
        for section, *names in (
            ("train", "seed", "max_epochs", "train_iters_per_epoch"),
            ("evaluation", "val_iters_per_epoch"),
        ):
            self.cfg.merge_from_dict({f"{section}.{name}": given[name] for name in names if name in given})
        train_dataset, eval_dataset = map(_hugging_face, (train_dataset, eval_dataset))
        utterances = eval_dataset is not None and len(eval_dataset) and Segments(eval_dataset).has_clips()
        if utterances:
            self.cfg.merge_from_dict({"evaluation.dataloader.batch_size_per_gpu": 1})
        configuration = self.cfg.to_dict()
        self.model = MODELS[configuration["model"]["type"]](str(self.model_dir))
        self.work_dir = str(work_dir or configuration.get("train", {}).get("work_dir", "./work_dir"))
        self.metric_values: dict[str, float] = {}
        names = _metrics(configuration.get("evaluation", {}), utterances)
        device = given.get("device")
        recipe = SegmentRecipe(
            self.model,
            SegmentConfig.from_configuration(configuration),
            self.work_dir,
            train_dataset,
            eval_dataset,
            lambda: [build_metric(name) for name in names],
            None if device == "gpu" else device,
        )
        self.loop = TrainingLoop(recipe, resume=False, notify=self._notify)
        self.epoch = self.iter = self.inner_iter = 0
        self.hooks: list[Hook] = []
        callbacks = given.get("callbacks", [])
        for hook in [callbacks] if isinstance(callbacks, Hook) else callbacks:
            self.register_hook(hook)
        self.invoke_hook("after_init")

    @property
    def max_epochs(self) -> int:
        """Return the number of epochs."""
        return self.loop.config.epochs

    @property
    def iters_per_epoch(self) -> int:
        """Return the number of steps in an epoch."""
        return self.loop.config.iterations

    @property
    def max_iters(self) -> int:
        """Return the number of steps."""
        return self.loop.config.steps

    def register_hook(self, hook: Hook) -> None:
        """Let a hook take part in the training, after those with a higher priority.

        Raises:
            TypeError: it is no hook.
            ValueError: it is one of ModelScope's own, which need ModelScope's trainer, or waits for what there is not.
        """
        name = type(hook).__name__
        if not isinstance(hook, Hook):
            raise TypeError(f"{name} is no Hook of modelscope.trainers.hooks")
        if type(hook).__module__.startswith("modelscope."):
            raise ValueError(f"{name} needs ModelScope's own trainer; name it in train.hooks of the configuration")
        if others := [stage for stage in hook.get_triggered_stages() if stage not in STAGES]:
            raise ValueError(f"{name} waits for {', '.join(others)}; this trainer has {', '.join(STAGES)}")
        self.hooks.append(hook)
        self.hooks.sort(key=lambda each: get_priority(each.PRIORITY))

    def invoke_hook(self, stage: str) -> None:
        """Call all hooks."""
        for hook in self.hooks:
            getattr(hook, stage)(self)

    def _notify(self, stage: str) -> None:
        """Call the hooks and count, in the order of ModelScope's trainers."""
        if stage == "before_run":
            self.iter = self.loop.done.step
            self.epoch, self.inner_iter = divmod(self.iter, self.iters_per_epoch)
        elif stage == "before_train_iter":
            self.inner_iter = self.iter % self.iters_per_epoch
            if not self.inner_iter:
                self.invoke_hook("before_train_epoch")
        elif stage == "after_step":
            self.iter += 1
            if self.iter % self.iters_per_epoch == 0:
                self.invoke_hook("after_train_epoch")
                self.epoch, self.inner_iter = self.epoch + 1, 0
            return
        self.invoke_hook(stage)

    def train(self, checkpoint_path: str | None = None, load_all_state: bool = True, *args, **kwargs) -> None:
        """Train from the start or exactly from a checkpoint of an earlier run or from its weights alone."""
        if checkpoint_path is not None and load_all_state:
            self.loop.load(checkpoint_path)
        elif checkpoint_path is not None:
            load_weights(self.model.model, checkpoint_path)
        with alone_at_work(self.work_dir):
            self.metric_values = self.loop.run()
            if self.loop.finished and not rank():
                write_output(self.model_dir, self.loop, self.loop.recipe.work_dir / "output")

    def evaluate(self, checkpoint_path: str | None = None, *args, **kwargs) -> dict[str, float]:
        """Return the metrics over the evaluation data, with the weights of a checkpoint if one is given."""
        if checkpoint_path is not None:
            load_weights(self.model.model, checkpoint_path)
        self.metric_values = self.loop.recipe.evaluate()
        return self.metric_values


def _check_launcher(launcher: str | None) -> None:
    if launcher not in (None, "pytorch") or (launcher and "LOCAL_RANK" not in os.environ):
        raise ValueError(
            f"launcher={launcher!r}: several processes are started by torchrun, as in "
            "`torchrun --nproc-per-node 2 train.py`, with launcher='pytorch'"
        )


def _metrics(evaluation: dict, utterances: bool) -> list:
    """Return the names of the metrics; utterances add PESQ, STOI and SI-SDR if these are installed."""
    names = evaluation.get("metrics", ["audio-noise-metric"])
    names = [names] if isinstance(names, (str, dict)) else list(names)
    installed = all(importlib.util.find_spec(name) for name in ("pesq", "pystoi"))
    return [*names, "speech-quality"] if utterances and installed and "speech-quality" not in names else names


def _hugging_face(dataset: Any) -> Any:
    return dataset.to_hf_dataset() if isinstance(dataset, MsDataset) else dataset
