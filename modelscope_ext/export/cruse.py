"""CRUSE as an ONNX graph: one frame or blocks of frames with their state, or whole utterances.

Written by hand and not traced: a frame is about eighty small operations, and their number determines the time. Window
and DFT are one matrix, batch norm and constant factors are part of the weights, and the past and the present frame are
side by side in the channels. Axes as in the network, (B, C, T, F); T is 1 in a step.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modelscope_ext.export.graph import (
    END,
    FEATURE_FACTORS,
    SCALE,
    Graph,
    blocks_of_frames,
    frame_of_step,
    frames_of_blocks,
    frames_of_utterance,
    step_of_frame,
    transforms,
    utterance_of_frames,
)
from modelscope_ext.models.cruse.network import Cruse
from modelscope_ext.models.grouped_rnn import GroupedRNN

#: Names of the states of a recurrent layer.
OF_STATE = {"GRU": ["rnn"], "LSTM": ["rnn", "cell"]}


def cruse_graph(net: Cruse, kind: str, int8: bool) -> Graph:
    """Return the graph of a kind of file; `int8` stores the recurrent matrices of a step in 8 bits."""
    return {"step": _Step, "blocks": _Blocks, "utterance": _Utterance}[kind](net, int8).build()


class _Step:
    def __init__(self, net: Cruse, int8: bool) -> None:
        self.net, self.config, self.int8, self.graph = net, net.config, int8, Graph()
        self.hop, self.bins = net.hop, net.config.freqs[0]
        self.names = {id(value): name for name, value in net.named_parameters()}
        self.analysis, self.synthesis = transforms(self.graph, net.window, self.bins)

    def build(self) -> Graph:
        spec = self.spectra()  # (B, 2, T, F)
        x, skips = self.features(spec), []
        for i, layer in enumerate(self.net.encoder):
            x = self.encoded(i, layer, x)
            skips.append(x)
        x = self.recurrent(x)
        for i in reversed(range(self.config.layers)):
            x = self.decoded(i, self.net.decoder[i], self.with_skip(self.net.skips[i], skips[i], x))
        self.audio(self.masked(spec, x))
        return self.graph

    def encoded(self, i: int, layer: nn.Module, x: str) -> str:
        weight, bias = _folded(layer)  # (C', C, kernel, 3)
        if i == 0:
            weight = weight * FEATURE_FACTORS[: self.config.widths[0], None, None]
        weight = torch.cat(weight.split(1, 2), 1)
        x = self.with_past(x, f"encoder.{i}", self.config.widths[i], self.config.freqs[i])
        pads = [0, self.config.freq_padding] * 2
        return self.activated(layer, self.graph("Conv", x, weight, bias, strides=[1, 2], pads=pads))

    def decoded(self, i: int, layer: nn.Module, x: str) -> str:
        weight, bias = _folded(layer)  # (C, C', kernel, 3), the present frame first
        if i == 0 and self.config.mask == "complex":  # the factor a + ib of a spectrum, and -b + ia
            weight = torch.stack((weight[:, 0], weight[:, 1], -weight[:, 1], weight[:, 0]), 1)
            bias = torch.stack((bias[0], bias[1], -bias[1], bias[0]))
        x = self.with_past(x, f"decoder.{self.config.layers - 1 - i}", len(weight), self.config.freqs[i + 1])
        weight = torch.cat(weight.flip(2).split(1, 2))
        extra = [0, layer.causal.conv.output_padding[1]]
        pads = [0, self.config.freq_padding] * 2
        x = self.graph("ConvTranspose", x, weight, bias, strides=[1, 2], pads=pads, output_padding=extra)
        return self.activated(layer, x)

    def activated(self, layer: nn.Module, x: str) -> str:
        if isinstance(layer.activation, nn.Identity):
            return x
        return self.graph("LeakyRelu", x, alpha=layer.activation.negative_slope)

    def with_skip(self, skip: nn.Module | None, skipped: str, x: str) -> str:
        graph = self.graph
        if skip is None:
            return x
        if self.config.skip == "concat":
            return graph("Concat", x, skipped, axis=1)
        if isinstance(skip, nn.Conv2d):
            skipped = graph("Conv", skipped, skip.weight, skip.bias)
        elif not isinstance(skip, nn.Identity):
            # A depthwise convolution: onnxruntime computes it together with the addition.
            skipped = graph("Conv", skipped, skip.weight[:, None], skip.bias.flatten(), group=len(skip.weight))
        return graph("Add", skipped, x)

    def with_past(self, x: str, name: str, channels: int, freqs: int) -> str:
        """Return (B, 2C, T, F): each frame of (B, C, T, F) after the one before; or x for kernels of one frame."""
        if self.config.time_kernel == 1:
            return x
        return self.graph("Concat", self.past(x, name, channels, freqs), x, axis=1)

    def past(self, x: str, name: str, channels: int, freqs: int) -> str:
        past = self.graph.state(name, [channels, 1, freqs])
        self.graph.rename(x, f"new_{name}")
        return past

    def spectra(self) -> str:
        graph = self.graph
        # For a batch of one matrix onnxruntime takes a kernel that is faster for single rows.
        spec = graph("MatMul", frame_of_step(graph, self.hop), graph("Unsqueeze", self.analysis, [0]))
        return graph("Reshape", spec, [-1, 2, 1, self.bins])

    def features(self, spec: str) -> str:
        """Return the network's features without `FEATURE_FACTORS`."""
        graph = self.graph
        log_power = graph("Log", graph("Add", graph("ReduceSumSquare", spec, [1], keepdims=1), 1e-8 * SCALE**2))
        if self.config.mask == "gain":
            return log_power
        compressed = graph("Mul", spec, graph("Exp", graph("Mul", log_power, -0.35)))
        return graph("Concat", log_power, compressed, axis=1)

    def recurrent(self, x: str) -> str:
        """Add one step of the recurrent layers."""
        graph, rnn = self.graph, self.net.rnn
        products = self.in_8_bits if self.int8 else self.in_32_bits
        size = [rnn.groups, rnn.width] if self.int8 else [rnn.groups * rnn.width, 1, 1]
        x = graph("Reshape", x, [0, *size])
        for layer in range(rnn.layers):
            w_ih, w_hh, b_ih, b_hh = rnn.layer_weights(layer)
            h = graph.state(f"rnn.{layer}", size)
            of_x, of_h = products(x, w_ih, b_ih), products(h, w_hh, b_hh)

            def gate(i: int, activation: str = "Sigmoid") -> str:
                return graph(activation, graph("Add", of_x[i], of_h[i]))  # noqa: B023 (called at once)

            if rnn.kind == "GRU":
                r, z = gate(0), gate(1)
                n = graph("Tanh", graph("Add", of_x[2], graph("Mul", r, of_h[2])))
                x = graph("Add", n, graph("Mul", z, graph("Sub", h, n)))
            else:
                i, f, new, o = gate(0), gate(1), gate(2, "Tanh"), gate(3)
                kept = graph("Mul", f, graph.state(f"cell.{layer}", size))
                cell = graph("Add", kept, graph("Mul", i, new), name=f"new_cell.{layer}")
                x = graph("Mul", o, graph("Tanh", cell))
            graph.rename(x, f"new_rnn.{layer}")
        return graph("Reshape", x, [0, self.config.channels, 1, self.config.freqs[-1]])

    def in_32_bits(self, x: str, weight: Tensor, bias: Tensor) -> list[str]:
        """Return the product of x (B, R, 1, 1) and weights (P, gates * H, H) for each gate.

        They are grouped 1 x 1 convolutions. onnxruntime fuses these with the next operation.
        """
        graph, (groups, outputs, width) = self.graph, weight.shape
        gates = outputs // width
        whole = graph.matrix(self.names[id(weight)], weight)
        parts = graph("Split", whole, [width] * gates, outputs=gates, axis=1)
        kernels = [graph("Reshape", part, [groups * width, width, 1, 1]) for part in parts]
        biases = bias.split(width, 1)
        return [graph("Conv", x, k, b.flatten(), group=groups) for k, b in zip(kernels, biases, strict=True)]

    def in_8_bits(self, x: str, weight: Tensor, bias: Tensor) -> list[str]:
        """Return the same for x (B, P, H) by weights in 8 bits and a scale for each output."""
        graph, (groups, outputs, width) = self.graph, weight.shape
        parts = graph("Split", x, [1] * groups, outputs=groups, axis=1) if groups > 1 else [x]
        products = []
        for part, w, b in zip(parts, weight, bias, strict=True):
            scale = w.abs().amax(1).clamp_min(1e-30) / 127
            whole = (w / scale[:, None]).round().T.to(torch.int8).numpy()
            products.append(graph("DynamicQuantizeMatMul", part, whole, scale, "", b, domain="com.microsoft"))
        product = graph("Concat", *products, axis=1) if groups > 1 else products[0]
        return graph("Split", product, [width] * (outputs // width), outputs=outputs // width, axis=2)

    def masked(self, spec: str, x: str) -> str:
        """Return the spectra times the mask of the last layer."""
        graph = self.graph
        if self.config.mask == "gain":
            return graph("Mul", spec, graph("Sigmoid", x))
        x = graph("Reshape", x, [0, 2, 2, -1, self.bins])  # (a, b) for the real part, (-b, a) for the imaginary one
        product = graph("ReduceSum", graph("Mul", x, graph("Reshape", spec, [0, 2, 1, -1, self.bins])), [1], keepdims=0)
        magnitude = graph("Add", graph("ReduceL2", x, [1], keepdims=0), 1e-9)  # of a + ib, twice
        return graph("Mul", product, graph("Div", graph("Tanh", magnitude), magnitude))

    def audio(self, spec: str) -> None:
        graph = self.graph
        spec = graph("Reshape", spec, [0, 2 * self.bins])
        frame = graph("MatMul", spec, graph("Unsqueeze", self.synthesis, [0]))
        step_of_frame(graph, graph("Reshape", frame, [-1, 2 * self.hop]), self.hop)


class _Utterance(_Step):
    """All frames at once; audio is the only input and output."""

    def past(self, x: str, name: str, channels: int, freqs: int) -> str:
        return self.graph("Pad", x, [0, 0, 1, 0, 0, 0, -1, 0])

    def spectra(self) -> str:
        graph = self.graph
        spec = graph("MatMul", self.frames(), self.analysis)
        return graph("Transpose", graph("Reshape", spec, [0, 0, 2, self.bins]), perm=[0, 2, 1, 3])

    def frames(self) -> str:
        frames, self.length = frames_of_utterance(self.graph, self.hop)
        return frames

    def recurrent(self, x: str) -> str:
        graph, net = self.graph, self.net
        x = graph("Reshape", graph("Transpose", x, perm=[2, 0, 1, 3]), [0, 0, self.config.rnn_width])  # (T, B, R)
        y = self.one_direction(net.rnn, x)
        if self.config.bidirectional:
            other = self.one_direction(net.backward_rnn, x, "reverse")
            y = graph("Add", y, graph("Mul", graph("Sub", other, y), net.backward_share))
        y = graph("Reshape", y, [0, 0, self.config.channels, self.config.freqs[-1]])
        return graph("Transpose", y, perm=[1, 2, 0, 3])

    def one_direction(self, rnn: GroupedRNN, x: str, direction: str = "forward") -> str:
        """Return the output of recurrent layers, (T, B, R) as their input."""
        graph = self.graph
        order = {"GRU": [1, 0, 2], "LSTM": [0, 3, 1, 2]}[rnn.kind]  # of the gates, in ONNX
        options = {"linear_before_reset": 1} if rnn.kind == "GRU" else {}
        parts = self.groups(x)
        for layer in range(rnn.layers):
            *matrices, b_ih, b_hh = rnn.layer_weights(layer)
            w_ih, w_hh = (self.matrix(rnn, each, order) for each in matrices)
            biases = torch.cat([each.split(rnn.width, 1)[gate] for each in (b_ih, b_hh) for gate in order], 1)
            starts = self.starts(layer)
            ends = []
            for p, part in enumerate(parts):
                inputs = part, w_ih[p], w_hh[p], biases[p : p + 1], "", *starts[p]
                outputs = 1 + len(OF_STATE[rnn.kind])
                y, *end = graph(
                    rnn.kind, *inputs, outputs=outputs, hidden_size=rnn.width, direction=direction, **options
                )
                parts[p] = graph("Squeeze", y, [1])  # (T, 1, B, R / P) → (T, B, R / P)
                ends.append(end)
            self.keep(layer, ends)
        return graph("Concat", *parts, axis=2)

    def matrix(self, rnn: GroupedRNN, weight: Tensor, order: Sequence[int]) -> list[str]:
        """Return each group's matrix (1, gates * R / P, R / P) with its gates in another order."""
        graph = self.graph
        rows = [gate * rnn.width + row for gate in order for row in range(rnn.width)]
        whole = graph("Gather", graph.matrix(self.names[id(weight)], weight), rows, axis=1)
        return graph("Split", whole, [1] * rnn.groups, outputs=rnn.groups, axis=0) if rnn.groups > 1 else [whole]

    def groups(self, x: str) -> list[str]:
        """Return each group's part of the last of three axes."""
        rnn = self.net.rnn
        return self.graph("Split", x, [rnn.width] * rnn.groups, outputs=rnn.groups, axis=2) if rnn.groups > 1 else [x]

    def starts(self, layer: int) -> Sequence[Sequence[str]]:
        """Return the states (1, B, R / P) of each group before the first frame, none for zeros."""
        return [()] * self.net.rnn.groups

    def keep(self, layer: int, ends: Sequence[Sequence[str]]) -> None:
        """Store the states of each group after the last frame."""

    def audio(self, spec: str) -> None:
        graph = self.graph
        spec = graph("Reshape", graph("Transpose", spec, perm=[0, 2, 1, 3]), [0, 0, 2 * self.bins])
        self.overlapped(graph("MatMul", spec, self.synthesis))

    def overlapped(self, frames: str) -> None:
        utterance_of_frames(self.graph, frames, self.hop, self.length)


class _Blocks(_Utterance):
    """Any number of frames at once, with their state."""

    def past(self, x: str, name: str, channels: int, freqs: int) -> str:
        graph = self.graph
        frames = graph("Concat", graph.state(name, [channels, 1, freqs]), x, axis=2)
        graph("Slice", frames, [-1], [END], [2], name=f"new_{name}")
        return graph("Slice", frames, [0], [-1], [2])

    def frames(self) -> str:
        return frames_of_blocks(self.graph, self.hop)

    def starts(self, layer: int) -> Sequence[Sequence[str]]:
        graph, rnn = self.graph, self.net.rnn
        states = [graph.state(f"{name}.{layer}", [rnn.groups * rnn.width]) for name in OF_STATE[rnn.kind]]
        return list(zip(*(self.groups(graph("Unsqueeze", each, [0])) for each in states), strict=True))

    def keep(self, layer: int, ends: Sequence[Sequence[str]]) -> None:
        graph = self.graph
        for name, parts in zip(OF_STATE[self.net.rnn.kind], zip(*ends, strict=True), strict=True):
            graph("Squeeze", graph("Concat", *parts, axis=2), [0], name=f"new_{name}.{layer}")

    def overlapped(self, frames: str) -> None:
        blocks_of_frames(self.graph, frames, self.hop)


def _folded(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a layer's (transposed) convolution with its batch norm."""
    conv, norm = layer.causal.conv, layer.norm
    if isinstance(norm, nn.Identity):
        return conv.weight, conv.bias
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    shape = (1, -1, 1, 1) if isinstance(conv, nn.ConvTranspose2d) else (-1, 1, 1, 1)
    return conv.weight * scale.view(shape), torch.addcmul(norm.bias, conv.bias - norm.running_mean, scale)
