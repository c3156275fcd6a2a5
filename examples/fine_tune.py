"""Train a model on your own pairs and keep the result only if it is no worse on other pairs.

python examples/fine_tune.py MODEL TRAIN TEST WORK [EPOCHS [ITERATIONS]]

MODEL is a model folder or an id of ModelScope's hub; TRAIN and TEST hold the folders noisy and clean. The result is
WORK/run/output, a model folder for `Denoiser`, `pipeline` and `modelscope-ext denoise --model`. Started again, it
resumes. Needs `pip install 'modelscope-ext[train]'`.
"""

import sys
from pathlib import Path

from modelscope_ext.data.prepare import prepare_pairs
from modelscope_ext.plugin.fine_tuning import fine_tune


def main(model: str, train: str, test: str, work: str, epochs: str = "10", iterations: str = "200") -> None:
    data = Path(work) / "data"
    for split, pairs in (("train", Path(train)), ("test", Path(test))):
        prepare_pairs(pairs / "noisy", pairs / "clean", data, split)
    scores = fine_tune(
        model,
        data,
        Path(work) / "run",
        epochs=int(epochs),
        iterations=int(iterations),
        batch=4,
        learning_rate=1e-4,  # larger ones soon damage good weights
        gate_pairs=test,
    )
    print(", ".join(f"{name} {value:.4g}" for name, value in scores.items()))


if __name__ == "__main__":
    main(*sys.argv[1:])
