"""A dual-path network as an ONNX graph: one frame or blocks of frames with their state, or whole utterances.

Axes as in the network: frames N = T * B with time first, channels, bands; T is 1 in a step.
"""

import torch
from torch import Tensor, nn

from modelscope_ext.export.graph import (
    FEATURE_FACTORS,
    SCALE,
    Graph,
    blocks_of_frames,
    complex_product,
    frame_of_step,
    frames_of_blocks,
    frames_of_utterance,
    step_of_frame,
    transforms,
    utterance_of_frames,
)
from modelscope_ext.models.dual_path.network import DualPath


def dual_path_graph(net: DualPath, kind: str) -> Graph:
    """Return the graph of a kind of file."""
    return {"step": _Step, "blocks": _Blocks, "utterance": _Utterance}[kind](net).build()


class _Step:
    def __init__(self, net: DualPath) -> None:
        self.net, self.config, self.hop, self.graph = net, net.config, net.hop, Graph()
        self.analysis, self.synthesis = transforms(self.graph, net.window, self.hop)  # without the highest bin

    def build(self) -> Graph:
        graph, net = self.graph, self.net
        spec = self.spectra()  # (N, 2, 256), real and imaginary parts times SCALE
        x, skips = self.features(spec), []
        for i, layer in enumerate(net.encoder):
            weight = layer.weight if i else layer.weight * FEATURE_FACTORS[:, None, None]
            pads = [0, layer.padding[1]] * 2
            x = self.silu(graph("Conv", x, weight, layer.bias, strides=list(layer.stride), pads=pads))
            skips.append(x)
        x = graph("Transpose", graph("Squeeze", x, [2]), perm=[0, 2, 1])  # (N, 64, C)
        x = self.linear(graph("MatMul", net.down.weight, x), net.narrow, net.position)
        for i, block in enumerate(net.blocks):
            x = self.block(i, block, x)
        x = graph("MatMul", net.up.weight, self.linear(x, net.widen))
        x = graph("Unsqueeze", graph("Transpose", x, perm=[0, 2, 1]), [2])
        for merge, layer in zip(net.merges, net.decoder, strict=True):
            joined = graph("Concat", x, skips.pop(), axis=1)
            x = self.silu(graph("Conv", joined, merge.weight, merge.bias))
            pads = [0, layer.padding[1]] * 2
            if isinstance(layer, nn.ConvTranspose2d):
                x = graph("ConvTranspose", x, layer.weight, layer.bias, strides=list(layer.stride), pads=pads)
            else:
                x = self.silu(graph("Conv", x, layer.weight, layer.bias, pads=pads))
        self.audio(self.masked(spec, graph("Squeeze", x, [2])))
        return graph

    def silu(self, x: str) -> str:
        return self.graph("Mul", x, self.graph("Sigmoid", x))

    def linear(self, x: str, layer: nn.Linear, offset: Tensor | float = 0.0) -> str:
        return self.graph("Add", self.graph("MatMul", x, layer.weight.T), layer.bias + offset)

    def block(self, i: int, block: nn.Module, x: str) -> str:
        graph = self.graph
        x = graph(
            "Add", x, self.linear(self.recurrent(i, block, self.norm(block.norms[0], x)), block.recurrent.project)
        )
        return graph("Add", x, self.mixed(block.mixer, self.norm(block.norms[1], x)))

    def norm(self, norm: nn.Module, x: str) -> str:
        if isinstance(norm, nn.Identity):
            return x
        return self.graph("LayerNormalization", x, norm.weight, norm.bias, epsilon=norm.eps, axis=-1)

    def mixed(self, mixer: nn.Module, x: str) -> str:
        graph, heads = self.graph, mixer.heads
        bands, width = self.config.inner_bands, self.config.inner_channels
        if mixer.attention:
            parts = graph("Reshape", self.linear(x, mixer.qkv), [0, bands, 3 * heads, width // heads])
            parts = graph("Transpose", parts, perm=[0, 2, 1, 3])  # (N, 3 * heads, K, C')
            q, k, v = graph("Split", parts, [heads] * 3, outputs=3, axis=1)
            product = graph("MatMul", q, graph("Transpose", k, perm=[0, 1, 3, 2]))
            weights = graph("Softmax", graph("Mul", product, (width // heads) ** -0.5), axis=-1)
            y = graph("Transpose", graph("MatMul", weights, v), perm=[0, 2, 1, 3])
            return self.linear(graph("Reshape", y, [0, bands, width]), mixer.project)
        if heads == 1:
            y = graph("MatMul", mixer.weight[0], x)
        else:
            parts = graph("Transpose", graph("Reshape", x, [0, bands, heads, width // heads]), perm=[0, 2, 1, 3])
            y = graph("Transpose", graph("MatMul", mixer.weight, parts), perm=[0, 2, 1, 3])
            y = graph("Reshape", y, [0, bands, width])
        return self.linear(self.silu(graph("Add", y, mixer.bias)), mixer.project)

    def recurrent(self, i: int, block: nn.Module, x: str) -> str:
        """Add a step of a GRU; all bands are rows of its state."""
        graph, layer, width = self.graph, block.recurrent, self.config.inner_channels
        w_ih, w_hh, b_ih, b_hh = (weight[0] for weight in layer.weights)
        state = graph.state(f"rnn.{i}", [self.config.inner_bands, width])
        of_x = graph("Split", graph("Add", graph("MatMul", x, w_ih.T), b_ih), [2 * width, width], outputs=2, axis=2)
        of_h = graph("Split", graph("Add", graph("MatMul", state, w_hh.T), b_hh), [2 * width, width], outputs=2, axis=2)
        gates = graph("Sigmoid", graph("Add", of_x[0], of_h[0]))
        r, z = graph("Split", gates, [width, width], outputs=2, axis=2)
        n = graph("Tanh", graph("Add", of_x[1], graph("Mul", r, of_h[1])))
        return graph("Add", n, graph("Mul", z, graph("Sub", state, n)), name=f"new_rnn.{i}")

    def spectra(self) -> str:
        graph = self.graph
        spec = graph("MatMul", frame_of_step(graph, self.hop), self.analysis)
        return graph("Reshape", spec, [-1, 2, self.hop])

    def features(self, spec: str) -> str:
        """Return the network's features (N, 3, 1, 256) without `FEATURE_FACTORS`."""
        graph = self.graph
        log_power = graph("Log", graph("Add", graph("ReduceSumSquare", spec, [1], keepdims=1), 1e-8 * SCALE**2))
        compressed = graph("Mul", spec, graph("Exp", graph("Mul", log_power, -0.35)))
        return graph("Unsqueeze", graph("Concat", log_power, compressed, axis=1), [2])

    def masked(self, spec: str, x: str) -> str:
        """Return spectra (N, 2, 256) times the bounded mask of the last layer's output (N, 2, 256)."""
        graph = self.graph
        magnitude = graph("Sqrt", graph("Add", graph("ReduceSumSquare", x, [1], keepdims=1), 1e-8))
        return graph("Mul", complex_product(graph, x, spec), graph("Div", graph("Tanh", magnitude), magnitude))

    def audio(self, spec: str) -> None:
        graph = self.graph
        frame = graph("MatMul", graph("Reshape", spec, [-1, 2 * self.hop]), self.synthesis)
        step_of_frame(graph, frame, self.hop)


class _Utterance(_Step):
    """All frames at once; nothing goes in or out but audio."""

    def spectra(self) -> str:
        graph = self.graph
        spec = graph("Transpose", graph("MatMul", self.frames(), self.analysis), perm=[1, 0, 2])  # (T, B, 2 * 256)
        self.shape = graph("Shape", spec, start=0, end=2)  # (T, B)
        return graph("Reshape", spec, [-1, 2, self.hop])

    def frames(self) -> str:
        frames, self.length = frames_of_utterance(self.graph, self.hop)
        return frames

    def recurrent(self, i: int, block: nn.Module, x: str) -> str:
        graph, layer, config = self.graph, block.recurrent, self.config
        bands, width = config.inner_bands, config.inner_channels
        frames, batch = graph("Split", self.shape, [1, 1], outputs=2, axis=0)
        rows = graph("Concat", frames, graph("Mul", batch, [bands]), [width], axis=0)
        order = [1, 0, 2]  # of the gates, in ONNX
        w_ih, w_hh, b_ih, b_hh = (
            torch.cat([weight.split(width, 1)[gate] for gate in order], 1) for weight in layer.weights
        )
        options = {"direction": "bidirectional"} if config.bidirectional else {}
        biases = torch.cat((b_ih, b_hh), 1)
        inputs = graph("Reshape", x, rows), w_ih, w_hh, biases, "", self.start(i)
        y, end = graph("GRU", *inputs, outputs=2, hidden_size=width, linear_before_reset=1, **options)
        self.keep(i, end)  # y is (T, directions, B * K, C)
        if config.bidirectional:
            y = graph("Transpose", y, perm=[0, 2, 1, 3])
        return graph("Reshape", y, [-1, bands, len(w_ih) * width])

    def start(self, i: int) -> str:
        """Return the state (1, B * K, C) of a block before the first frame; none for zeros."""
        return ""

    def keep(self, i: int, end: str) -> None:
        """Store the state of a block after the last frame."""

    def audio(self, spec: str) -> None:
        graph = self.graph
        spec = graph("Reshape", spec, graph("Concat", self.shape, [2 * self.hop], axis=0))
        self.overlapped(graph("MatMul", graph("Transpose", spec, perm=[1, 0, 2]), self.synthesis))

    def overlapped(self, frames: str) -> None:
        utterance_of_frames(self.graph, frames, self.hop, self.length)


class _Blocks(_Utterance):
    """Any number of frames at once, with their state."""

    def frames(self) -> str:
        return frames_of_blocks(self.graph, self.hop)

    def start(self, i: int) -> str:
        size = [self.config.inner_bands, self.config.inner_channels]
        return self.graph("Reshape", self.graph.state(f"rnn.{i}", size), [1, -1, size[1]])

    def keep(self, i: int, end: str) -> None:
        self.graph("Reshape", end, [-1, self.config.inner_bands, self.config.inner_channels], name=f"new_rnn.{i}")

    def overlapped(self, frames: str) -> None:
        blocks_of_frames(self.graph, frames, self.hop)
