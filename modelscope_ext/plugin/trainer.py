"""Training and evaluation by `modelscope.trainers.build_trainer`."""

import importlib.util
import os
from typing import Any

from modelscope.metrics.builder import build_metric
from modelscope.msdatasets import MsDataset
from modelscope.trainers.base import BaseTrainer
from modelscope.trainers.builder import TRAINERS

from modelscope_ext.checkpoint import CONFIGURATION, load_weights
from modelscope_ext.hub import model_folder
from modelscope_ext.plugin.model import CruseModel, FrcrnModel
from modelscope_ext.plugin.names import CRUSE_TYPE, FRCRN_TYPE
from modelscope_ext.training.config import SegmentConfig
from modelscope_ext.training.distributed import rank
from modelscope_ext.training.fine_tuning import write_output
from modelscope_ext.training.loop import TrainingLoop
from modelscope_ext.training.segments import SegmentRecipe

MODELS = {FRCRN_TYPE: FrcrnModel, CRUSE_TYPE: CruseModel}
OPTIONS = ("cfg_file", "cfg_modify_fn", "cfg_options", "model_revision", "seed", "max_epochs", "train_iters_per_epoch",
           "val_iters_per_epoch", "device", "launcher")  # fmt: skip
#: Arguments that ModelScope adds. Any other unknown argument is a mistake.
IGNORED = ("trust_remote_code", "device_map")


@TRAINERS.register_module(module_name=CRUSE_TYPE)
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
        utterances = eval_dataset is not None and len(eval_dataset) and isinstance(eval_dataset[0].get("noisy"), dict)
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
        self.loop = TrainingLoop(recipe, resume=False)

    def train(self, checkpoint_path: str | None = None, load_all_state: bool = True, *args, **kwargs) -> None:
        """Train from the start or exactly from a checkpoint of an earlier run or from its weights alone."""
        if checkpoint_path is not None and load_all_state:
            self.loop.load(checkpoint_path)
        elif checkpoint_path is not None:
            load_weights(self.model.model, checkpoint_path)
        self.metric_values = self.loop.run()
        if self.loop.finished and not rank():
            write_output(self.model_dir, self.loop)

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
