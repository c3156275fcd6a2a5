"""Train a model on your own pairs and keep the result only if it is no worse on other pairs.

python examples/fine_tune.py MODEL TRAIN TEST WORK [EPOCHS [ITERATIONS]]

MODEL is a model folder or an id of ModelScope's hub; TRAIN and TEST hold the folders noisy and clean. The result is
WORK/run/output, a model folder for `Denoiser`, `pipeline` and `modelscope-ext denoise --model`. Started again, it
resumes. Needs `pip install 'modelscope-ext[train]'`.
"""

import sys
from pathlib import Path

from modelscope_ext import Denoiser
from modelscope_ext.data.prepare import prepare_pairs
from modelscope_ext.evaluation import evaluate, regression_gate
from modelscope_ext.hub import model_folder
from modelscope_ext.training.fine_tuning import fine_tune

METRICS = ("wb_pesq", "stoi", "si_sdr")


def main(model: str, train: str, test: str, work: str, epochs: str = "10", iterations: str = "200") -> None:
    data, folder = Path(work) / "data", model_folder(model)
    for split, pairs in (("train", Path(train)), ("test", Path(test))):
        prepare_pairs(pairs / "noisy", pairs / "clean", data, split)
    before = evaluate(test, Denoiser(folder), METRICS, name="before")
    options = {
        "train.max_epochs": int(epochs),
        "train.train_iters_per_epoch": int(iterations),
        "train.dataloader.batch_size_per_gpu": 4,
        "evaluation.dataloader.batch_size_per_gpu": 4,
        "train.optimizer.lr": 1e-4,  # larger rates soon spoil weights that are good
    }
    scores = fine_tune(
        folder,
        data,
        Path(work) / "run",
        options,
        gate=lambda result: regression_gate(before, evaluate(test, Denoiser(result), METRICS, name="after")),
    )
    print(", ".join(f"{name} {value:.4g}" for name, value in scores.items()))


if __name__ == "__main__":
    main(*sys.argv[1:])
