"""FRCRN as an ONNX graph: whole utterances, and one frame with its state for a causal network.

The graph makes one weight of each pair of real weights, so that the file holds each number once; onnxruntime computes
it when it loads the file. Axes as in the network: (B, 2C, F, T), C real parts and C imaginary ones.
"""

import math

import torch
from torch import Tensor, nn

from modelscope_ext.export.graph import (
    Graph,
    complex_product,
    frame_of_step,
    frames_of_utterance,
    step_of_frame,
    utterance_of_frames,
)
from modelscope_ext.models.frcrn.config import (
    BINS,
    CHANNELS,
    DECODER,
    ENCODER,
    FSMN_ORDER,
    HOP,
    SLOPE,
    SQUEEZES,
    STRIDE,
)
from modelscope_ext.models.frcrn.network import FrcrnBase
from modelscope_ext.stft import analysis_matrix, synthesis_matrix


def frcrn_graph(net: FrcrnBase, utterance: bool) -> Graph:
    """Return the graph of whole utterances or of a step of a causal network.

    A network that is not causal also has the output own_means (B, 22, 256): the values of `Frcrn.squeeze_means`. The
    optional input means (B, 22, 256) replaces them where it is not NaN.
    """
    return (_Step if not utterance else _CausalUtterance if net.causal else _Utterance)(net).build()


class _Utterance:
    """The network as released: convolutions use a frame before and one after, squeezes average over all frames."""

    #: Frames of padding before and after for a convolution; frames that a transposed one loses.
    pads, crops = (1, 1), (1, 1)

    def __init__(self, net: FrcrnBase) -> None:
        self.net, self.graph = net, Graph()
        self.own: list[str] = []  # squeeze means, (B, 256, 1, 1) each

    def build(self) -> Graph:
        graph = self.graph
        if not self.net.causal:
            shape = (2 * SQUEEZES, CHANNELS)
            graph.input("means", ["means_batch", *shape], torch.full((1, *shape), math.nan))
        spec = self.spectra()  # (B, 2, F, T)
        first = self.unet("unet", spec)
        second = self.unet("unet2", first)
        mask = graph("Add", graph("Tanh", first), graph("Tanh", second))
        self.audio(complex_product(graph, spec, mask))
        if self.own:
            rows = [graph("Reshape", mean, [0, 1, CHANNELS]) for mean in self.own]
            graph("Concat", *rows, axis=1, name="own_means")
            graph.output("own_means", ["batch", len(rows), CHANNELS])
        return graph

    def unet(self, name: str, x: str) -> str:
        graph, net = self.graph, getattr(self.net, name)
        self.name, self.squeezes, skips = name, 0, []
        for i, stage in enumerate(net.encoder_stages):
            x = x if stage.fsmn is None else self.fsmn(stage.fsmn, x)
            x = graph("LeakyRelu", self.conv(stage.conv.conv, stage.conv.bn, x, i), alpha=SLOPE)
            if stage.squeeze is not None:
                skips.append(self.excited(stage.squeeze, x))
        for layer in (1, 2):
            x = self.complex_memory(net.fsmn, layer, x, along_time=True)
        for i, stage in enumerate(net.decoder_stages):
            if stage.fsmn is not None:
                x = self.fsmn(stage.fsmn, x)
                x = x if stage.squeeze is None else self.excited(stage.squeeze, x)
                x = graph("Concat", x, skips.pop(), axis=1)
            x = graph("LeakyRelu", self.transposed(stage.conv.transconv, stage.conv.bn, x, i), alpha=SLOPE)
        weight, bias = self.folded(net.linear, None)
        return graph("Conv", x, weight, bias)

    def folded(self, conv: nn.Module, norm: nn.Module | None) -> tuple[str, Tensor]:
        """Return real weight and bias of a complex (transposed) convolution and batch norm."""
        graph, outputs = self.graph, conv.outputs
        columns = []
        for a, b in zip(*(weight.chunk(conv.parts, 1 - outputs) for weight in conv.weights), strict=True):
            a, b = graph.constant(a), graph.constant(b)
            columns.append(graph("Concat", a, b, axis=outputs))
            columns.append(graph("Concat", graph("Neg", b), a, axis=outputs))
        weight = graph("Concat", *columns, axis=1 - outputs)
        if norm is None:
            return weight, conv.bias
        scale, shift = norm.scale_and_shift()
        return graph("Mul", weight, scale.view(-1, *(1,) * (3 - outputs))), torch.addcmul(shift, conv.bias, scale)

    def conv(self, conv: nn.Module, norm: nn.Module, x: str, i: int) -> str:
        weight, bias = self.folded(conv, norm)
        before, after = self.pads
        return self.graph("Conv", x, weight, bias, strides=STRIDE, pads=[0, before, 0, after])

    def transposed(self, conv: nn.Module, norm: nn.Module, x: str, i: int) -> str:
        weight, bias = self.folded(conv, norm)
        before, after = self.crops
        return self.graph("ConvTranspose", x, weight, bias, strides=STRIDE, pads=[0, before, 0, after])

    def excited(self, module: nn.Module, x: str) -> str:
        """Add squeeze and excitation; grouped convolutions compute all four pairs of a network and a part at once."""
        graph, nets = self.graph, (module.fc_r, module.fc_i)
        hidden = graph("Conv", self.mean(x), *_by_group([net[0] for net in nets] * 2), group=2)
        gains = graph("Conv", graph("Relu", hidden), *_by_group([net[2] for net in nets] * 2), group=4)
        width = module.fc_r[2].out_features
        self.squeezes += 1
        rr, ir, ri, ii = graph("Split", graph("Sigmoid", gains), [width] * 4, outputs=4, axis=1)
        return graph("Mul", x, graph("Concat", graph("Sub", rr, ii), graph("Add", ri, ir), axis=1))

    def mean(self, x: str) -> str:
        graph = self.graph
        own = graph("ReduceMean", x, [2, 3], keepdims=1)
        self.own.append(own)
        known = graph("Gather", "means", [len(self.own) - 1], axis=1)  # (B, 1, 256)
        known = graph("Reshape", known, [0, CHANNELS, 1, 1])
        return graph("Where", graph("IsNaN", known), own, known)

    def fsmn(self, module: nn.Module, x: str) -> str:
        return self.complex_memory(module, 1, x, along_time=False)

    def complex_memory(self, module: nn.Module, layer: int, x: str, along_time: bool) -> str:
        """Map a + ib to f(a + ib) + i g(a + ib). f adds the memory `re` to its input and g the memory `im`."""
        graph = self.graph
        re, im = (getattr(module, f"fsmn_{part}_L{layer}") for part in ("re", "im"))
        width = re.linear.in_features
        swapped = graph("Concat", *reversed(graph("Split", x, [width] * 2, outputs=2, axis=1)), axis=1)
        signs = torch.tensor([-1.0, 1.0]).repeat_interleave(width).view(-1, 1, 1)
        of_re = self.memory(re, x, abs(signs), along_time, 2 * layer - 2)
        of_im = self.memory(im, swapped, signs, along_time, 2 * layer - 1)
        rotated = graph("Mul", swapped, signs)
        return graph("Add", graph("Add", x, of_re), graph("Add", rotated, of_im))

    def memory(self, module: nn.Module, x: str, signs: Tensor, along_time: bool, i: int) -> str:
        graph = self.graph
        hidden = graph("Relu", graph("Conv", x, *_by_group([module.linear] * 2), group=2))
        p = graph("Conv", hidden, *_by_group([module.project] * 2), group=2)
        taps = module.taps.repeat(2, 1, 1, 1) * signs[..., None]
        if along_time:
            return self.fir_in_time(p, taps.transpose(2, 3), i)
        return graph("Conv", p, taps, group=len(taps), pads=[FSMN_ORDER - 1, 0, 0, 0])

    def fir_in_time(self, p: str, taps: Tensor, i: int) -> str:
        return self.graph("Conv", p, taps, group=len(taps), pads=[0, FSMN_ORDER - 1, 0, 0])

    def spectra(self) -> str:
        graph = self.graph
        frames, self.length = frames_of_utterance(graph, HOP)
        spec = graph("MatMul", frames, analysis_matrix(self.net.window))  # (B, T, 2F)
        return graph("Reshape", graph("Transpose", spec, perm=[0, 2, 1]), [0, 2, BINS, -1])

    def audio(self, spec: str) -> None:
        graph = self.graph
        spec = graph("Transpose", graph("Reshape", spec, [0, 2 * BINS, -1]), perm=[0, 2, 1])
        utterance_of_frames(graph, graph("MatMul", spec, synthesis_matrix(self.net.window)), HOP, self.length)


class _CausalUtterance(_Utterance):
    pads, crops = (1, 0), (0, 1)

    def spectra(self) -> str:
        graph = self.graph
        spec = super().spectra()
        ones = graph("ReduceMax", graph("Mul", spec, 0.0), [0, 1, 2], keepdims=1)
        self.count = graph("CumSum", graph("Add", ones, 1.0), [3])  # (1, 1, 1, T): 1, 2 …
        return spec

    def mean(self, x: str) -> str:
        graph = self.graph
        total = graph("CumSum", graph("ReduceMean", x, [2], keepdims=1), [3])
        return graph("Div", total, self.count)


class _Step(_Utterance):
    """One frame: T = 1. Earlier frames come in as states."""

    def conv(self, conv: nn.Module, norm: nn.Module, x: str, i: int) -> str:
        graph, re = self.graph, conv.conv_re
        weight, bias = self.folded(conv, norm)
        past = graph.state(f"{self.name}.encoders.{i}", [2 * re.in_channels, ENCODER[i].freqs, 1])
        x = graph("Concat", past, graph.rename(x, f"new_{self.name}.encoders.{i}"), axis=3)
        return graph("Conv", x, weight, bias, strides=STRIDE)

    def transposed(self, conv: nn.Module, norm: nn.Module, x: str, i: int) -> str:
        graph, re = self.graph, conv.tconv_re
        weight, bias = self.folded(conv, norm)
        past = graph.state(f"{self.name}.decoders.{i}", [2 * re.in_channels, DECODER[i].freqs, 1])
        x = graph("Concat", past, graph.rename(x, f"new_{self.name}.decoders.{i}"), axis=1)
        weight = graph("Concat", *reversed(graph("Split", weight, [1, 1], outputs=2, axis=3)), axis=0)
        return graph("ConvTranspose", x, weight, bias, strides=STRIDE)

    def mean(self, x: str) -> str:
        """Return the mean over all frames so far; the state is the mean over those before and their number."""
        graph = self.graph
        now = graph("ReduceMean", x, [2], keepdims=1)
        name = f"{self.name}.means.{self.squeezes}"
        total = graph("Add", graph("Mul", graph.state(name, [CHANNELS, 1, 1]), "count"), now)
        return graph("Div", total, "new_count", name=f"new_{name}")

    def fir_in_time(self, p: str, taps: Tensor, i: int) -> str:
        graph, name = self.graph, f"{self.name}.memory.{i}"
        p = graph("Concat", graph.state(name, [len(taps), 1, FSMN_ORDER - 1]), p, axis=3)
        graph("Slice", p, [1], [FSMN_ORDER], [3], name=f"new_{name}")
        return graph("Conv", p, taps, group=len(taps))

    def spectra(self) -> str:
        graph = self.graph
        graph("Add", graph.state("count", [1, 1, 1]), 1.0, name="new_count")
        spec = graph("MatMul", frame_of_step(graph, HOP), analysis_matrix(self.net.window))
        return graph("Reshape", spec, [0, 2, BINS, 1])

    def audio(self, spec: str) -> None:
        graph = self.graph
        frame = graph("MatMul", graph("Reshape", spec, [0, 2 * BINS]), synthesis_matrix(self.net.window))
        step_of_frame(graph, frame, HOP)


def _by_group(layers: list[nn.Linear]) -> list[Tensor]:
    """Return weight and any bias of a grouped 1 x 1 convolution for linear layers side by side."""
    weight = torch.cat([layer.weight for layer in layers])[:, :, None, None]
    return [weight] if layers[0].bias is None else [weight, torch.cat([layer.bias for layer in layers])]
