"""FRCRN's constants, the order of its layers, and its configuration.

Sizes are those of ModelScope's `speech_frcrn_ans_cirm_16k`: 16 kHz audio in windows of 40 ms with a hop of 20 ms.
"""

from dataclasses import dataclass, fields
from typing import NamedTuple

#: Samples.
WINDOW, HOP = 640, 320
#: Frequencies of a spectrum.
BINS = WINDOW // 2 + 1
#: Complex channels of a layer, and the real channels that hold them.
WIDTH, CHANNELS = 128, 256
#: Of convolutions over (F, T). The padding is that of a network that is not causal.
STRIDE, PADDING = (2, 1), (0, 1)
#: Of leaky ReLUs.
SLOPE = 0.01
#: Taps of an FSMN's filter.
FSMN_ORDER = 20


class Layer(NamedTuple):
    """A (transposed) convolution of a U-net and its neighbours.

    Before it comes an FSMN along frequency. Squeeze and excitation comes after an encoder, on the way to the skip
    connection, and between the FSMN and the convolution of a decoder. A decoder also takes a skip if it has an FSMN.
    """

    kernel: tuple[int, int]  # over (F, T)
    freqs: int  # of its input
    fsmn: int | None  # index in `fsmn_enc` or `fsmn_dec`
    squeeze: int | None  # index in `se_layers_enc` or `se_layers_dec`


#: Over time each encoder adds a frame and each decoder removes one; causal networks keep the number.
ENCODER = (
    Layer((5, 2), 321, None, 0),
    Layer((5, 2), 159, 1, 1),
    Layer((5, 2), 78, 2, 2),
    Layer((5, 2), 37, 3, 3),
    Layer((5, 2), 17, 4, 4),
    Layer((5, 2), 7, 5, 5),
    Layer((2, 2), 2, 6, None),
)
DECODER = (
    Layer((2, 2), 1, None, None),
    Layer((5, 2), 2, 0, 0),
    Layer((5, 2), 7, 1, 1),
    Layer((5, 2), 17, 2, 2),
    Layer((6, 2), 37, 3, 3),
    Layer((5, 2), 78, 4, 4),
    Layer((5, 2), 159, 5, None),
)
#: Layers of squeeze and excitation in a U-net, in the order of `ENCODER` and `DECODER`.
SQUEEZES = sum(layer.squeeze is not None for layer in (*ENCODER, *DECODER))


@dataclass(frozen=True)
class FrcrnConfig:
    """The keys of the released configuration's "model" section and `causal`.

    Only `causal` may differ from the released values.
    """

    complex: bool = True
    model_complexity: int = 45
    model_depth: int = 14
    log_amp: bool = False
    padding_mode: str = "zeros"
    win_len: int = WINDOW
    win_inc: int = HOP
    fft_len: int = WINDOW
    win_type: str = "hann"
    causal: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.causal, bool):
            raise ValueError(f"FRCRN: causal must be true or false, got {self.causal!r}")
        values = [(field.name, getattr(self, field.name), field.default) for field in fields(self)[:-1]]
        if wrong := [f"{name} must be {only!r}, got {value!r}" for name, value, only in values if value != only]:
            raise ValueError(f"FRCRN: {'; '.join(wrong)}")
