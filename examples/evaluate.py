"""Score the model in the package and the noisy recordings on pairs.

python examples/evaluate.py PAIRS [METRIC …]

PAIRS holds the folders noisy and clean. It needs `pip install 'modelscope-ext[metrics]'`.
"""

import sys

from modelscope_ext import Denoiser
from modelscope_ext.evaluation import COLUMNS, evaluate, regression_gate, to_markdown


def main(pairs: str, *metrics: str) -> None:
    metrics = metrics or tuple(COLUMNS)
    before = evaluate(pairs, metrics=metrics, name="noisy")
    after = evaluate(pairs, Denoiser(), metrics, name="denoised")
    print(to_markdown([before, after]))
    for reason in regression_gate(before, after):
        print("worse than before:", reason)


if __name__ == "__main__":
    main(*sys.argv[1:])
