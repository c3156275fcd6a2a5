"""Run the model in the package in a ModelScope pipeline.

python examples/pipeline.py examples/noisy.wav denoised.wav
"""

import sys

from modelscope.pipelines import pipeline
from modelscope.utils.constant import Tasks

import modelscope_ext  # noqa: F401 (registers the pipeline)
from modelscope_ext.pretrained import DEFAULT


def main(source: str, target: str) -> None:
    ans = pipeline(Tasks.acoustic_noise_suppression, model=str(DEFAULT))
    result = ans(source, output_path=target)
    print(f"{len(result['output_pcm']) // 2} samples at 16 kHz")


if __name__ == "__main__":
    main(*sys.argv[1:])
