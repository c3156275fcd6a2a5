"""Write a model for the package: the mean of the weights of some model folders, in 8 or 16 bits.

    python benchmarks/release.py runs/file/best runs/other/best --limit 42 \
        --out modelscope_ext/pretrained/speech_cruse_bidirectional_ans_16k

`--bits 8` rounds the matrices of recurrent layers to 8 bits, all else is in 16. The ONNX file comes by
`modelscope-ext export`, the card by hand. The change of the output by rounding is printed, in dB of the output.
"""

import argparse
from pathlib import Path

import numpy as np
import soundfile
import torch

from modelscope_ext import Denoiser
from modelscope_ext.checkpoint import load_model, read_configuration, save_model
from modelscope_ext.pretrained import DEFAULT
from modelscope_ext.tensors import round_to_8_bits

NOISY = Path(__file__).parents[1] / "examples" / "noisy.wav"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--limit", required=True, type=float, help="attenuation limit in dB")
    parser.add_argument("--bits", type=int, choices=[8, 16], default=8)
    args = parser.parse_args()
    torch.set_num_threads(1)
    nets = [load_model(folder) for folder in args.folders]
    states = [net.state_dict() for net in nets]
    nets[0].load_state_dict({name: sum(state[name] for state in states) / len(states) for name in states[0]})
    net, (audio, rate) = nets[0], soundfile.read(NOISY, dtype="float32")
    before = Denoiser(net)(audio, rate)
    net.load_state_dict({name: rounded(name, value, args.bits) for name, value in net.state_dict().items()})
    change = 20 * np.log10(np.linalg.norm(Denoiser(net)(audio, rate) - before) / np.linalg.norm(before))
    print(f"rounding changes {NOISY.name} by {change:.1f} dB")
    configuration = read_configuration(args.folders[0])
    configuration.pop("training", None)
    configuration["train"] = read_configuration(DEFAULT)["train"]  # for fine-tuning
    configuration["inference"] = {"attenuation_limit_db": args.limit}
    save_model(net, args.out, configuration, small=True)
    print(*(f"{path.name}: {path.stat().st_size:,} bytes" for path in sorted(args.out.iterdir())), sep="\n")


def rounded(name: str, value: torch.Tensor, bits: int) -> torch.Tensor:
    matrix = bits == 8 and "rnn.weight" in name
    return round_to_8_bits(value) if matrix else value.half().float()


if __name__ == "__main__":
    main()
