"""ONNX graphs, built node by node; input and output nodes of all networks."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modelscope_ext.tensors import LARGE, STEPS, in_8_bits

END = 2**62  # of a slice up to the end
#: Factor of spectra in a graph to those in the network. With 100 the logarithm of their power needs no offset.
SCALE = 100.0
#: Factors of the features in the network to those in a graph: log power, compressed real and imaginary part.
FEATURE_FACTORS = torch.tensor([1 / (4 * math.log(10)), SCALE**-0.3, SCALE**-0.3])

Shape = Sequence[int | str]


class Graph:
    """A growing graph: `y = graph("Add", x, 1.0)` adds a node and returns the name of its output.

    Inputs of a node are names or constants. Tensors, arrays and numbers become float32, but arrays of int8 stay; lists
    become int64. Weights that 16 bits hold exactly take 16 in the file: onnxruntime converts them as it loads it.

    matrices: names of the constants that are tensors of the state dict.
    """

    def __init__(self) -> None:
        import onnx

        self._onnx = onnx
        self.nodes, self.constants, self.inputs, self.outputs = [], [], [], []
        self.matrices: set[str] = set()
        self._renamed: dict[str, str] = {}

    def __call__(self, op: str, *inputs: Any, outputs: int = 1, name: str | None = None, **attributes: Any) -> Any:
        """Add a node; return the name of its output or a list of names if `outputs` > 1.

        The attribute `domain` is for onnxruntime's own operators. The input "" is an omitted one.
        """
        names = [f"{op}_{len(self.nodes)}_{i}" for i in range(outputs)]
        names = [name] if name else names
        inputs = [self._renamed.get(each, each) if isinstance(each, str) else self.constant(each) for each in inputs]
        self.nodes.append(self._onnx.helper.make_node(op, inputs, names, **attributes))
        return names[0] if outputs == 1 else names

    def matrix(self, name: str, value: Tensor) -> str:
        """Store a large tensor of the state dict as a weights file has it; return the name of its 32-bit value."""
        self.matrices |= {name, name + STEPS}
        if not (found := in_8_bits(value.detach().cpu())):
            return self.constant(value, name)
        whole, steps = (self.constant(part.numpy(), name + end) for part, end in zip(found, ("", STEPS), strict=True))
        return self("Mul", self("Cast", whole, to=self._onnx.TensorProto.FLOAT), steps)

    def constant(self, value: Tensor | np.ndarray | float | list[int], name: str = "") -> str:
        """Store a value; return its name."""
        name = name or f"constant_{len(self.constants)}"
        if isinstance(value, Tensor):
            value = value.detach().cpu().numpy()
        kept = isinstance(value, np.ndarray) and value.dtype == np.int8
        array = np.array(value, np.int8 if kept else np.int64 if isinstance(value, list) else np.float32, order="C")
        if array.dtype == np.float32 and array.size >= LARGE:
            with np.errstate(over="ignore"):
                half = array.astype(np.float16)
            if np.array_equal(half, array):
                self.constants.append(self._onnx.numpy_helper.from_array(half, name))
                return self("Cast", name, to=self._onnx.TensorProto.FLOAT)
        self.constants.append(self._onnx.numpy_helper.from_array(array, name))
        return name

    def rename(self, old: str, new: str) -> str:
        """Rename the output of a node; the old name stays valid."""
        self._renamed[old] = new
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [new if name == old else name for name in names]
        return new

    def input(self, name: str, shape: Shape, default: Tensor | None = None) -> str:
        """Declare an input; a string in its shape is a variable length. With a default it is optional."""
        if default is not None:
            self.constants.append(self._onnx.numpy_helper.from_array(default.numpy(), name))
        self.inputs.append(self._onnx.helper.make_tensor_value_info(name, self._onnx.TensorProto.FLOAT, shape))
        return name

    def output(self, name: str, shape: Shape) -> None:
        """Declare an output."""
        self.outputs.append(self._onnx.helper.make_tensor_value_info(name, self._onnx.TensorProto.FLOAT, shape))

    def state(self, name: str, shape: Sequence[int]) -> str:
        """Declare an input `name` (B, *shape) and an output `new_name` that is the input of the next step."""
        self.output(f"new_{name}", ["batch", *shape])
        return self.input(name, ["batch", *shape])

    def model(self, opset: int, whole: bool = True) -> Any:
        """Return the finished `onnx.ModelProto`; without its matrices it is not `whole`."""
        helper = self._onnx.helper
        constants = [each for each in self.constants if whole or each.name not in self.matrices]
        graph = helper.make_graph(self.nodes, "modelscope_ext", self.inputs, self.outputs, constants)
        domains = {node.domain for node in self.nodes} - {""}
        opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in sorted(domains))]
        return helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets[:1]))


def complex_product(graph: Graph, a: str, b: str) -> str:
    """Return the product of two complex tensors (B, 2, …)."""
    (a_re, a_im), (b_re, b_im) = (graph("Split", x, [1, 1], outputs=2, axis=1) for x in (a, b))
    re = graph("Sub", graph("Mul", a_re, b_re), graph("Mul", a_im, b_im))
    im = graph("Add", graph("Mul", a_re, b_im), graph("Mul", a_im, b_re))
    return graph("Concat", re, im, axis=1)


def transforms(graph: Graph, window: Tensor, bins: int) -> tuple[str, str]:
    """Add the matrices of analysis (W, 2 * bins), times `SCALE`, and synthesis (2 * bins, W), divided by it.

    They are `stft.analysis_matrix` and `stft.synthesis_matrix` without the bins from `bins` on. The file holds one turn
    of a cosine instead of a megabyte each. onnxruntime computes the matrices once, when it loads the file.
    """
    length = len(window)
    cosine = torch.cos(2 * math.pi / length * torch.arange(length, dtype=torch.float64))
    angles = graph("Mul", [[i] for i in range(length)], list(range(bins)))  # in 1 / W of a turn
    angles = graph("Concat", angles, graph("Add", angles, [length // 4]), axis=1)  # real parts, imaginary parts
    rows = graph("Gather", cosine, graph("Mod", angles, [length]))
    analysis = graph("Mul", rows, window[:, None].double() * SCALE)
    doubled = torch.tensor([1.0 if k in (0, length // 2) else 2.0 for k in range(bins)] * 2)
    synthesis = graph("Mul", graph("Transpose", analysis), doubled[:, None] / (length * SCALE**2))
    return analysis, synthesis


def frames_of_utterance(graph: Graph, hop: int) -> tuple[str, str]:
    """Declare the input audio (B, N); return N (1,) after its ceil(N / hop) + 1 frames (B, T, 2 hops)."""
    audio = graph.input("audio", ["batch", "samples"])
    length = graph("Shape", audio, start=1)
    hops = graph("Div", graph("Add", length, [hop - 1]), [hop])
    missing = graph("Sub", graph("Mul", graph("Add", hops, [1]), [hop]), length)
    padded = graph("Pad", audio, graph("Concat", [0, hop, 0], missing, axis=0))
    hops = graph("Reshape", padded, [0, -1, hop])
    ends = graph("Slice", hops, [0], [-1], [1]), graph("Slice", hops, [1], [END], [1])
    return graph("Concat", *ends, axis=2), length


def utterance_of_frames(graph: Graph, frames: str, hop: int, length: str) -> None:
    """Add overlapping frames (B, T, 2 hops) up to the output enhanced (B, N)."""
    first, second = graph("Split", frames, [hop, hop], outputs=2, axis=2)
    before = graph("Pad", second, [0, 1, 0, 0, -1, 0])  # the second half of the frame before each frame
    audio = graph("Reshape", graph("Add", first, before), [0, -1])
    graph("Slice", audio, [hop], graph("Add", length, [hop]), [1], name="enhanced")
    graph.output("enhanced", ["batch", "samples"])


def frame_of_step(graph: Graph, hop: int) -> str:
    """Declare the input audio (B, hop) and the state `past`; return the frame (B, 2 hops) of both."""
    past, now = graph.state("past", [hop]), graph.input("audio", ["batch", hop])
    graph("Identity", now, name="new_past")
    return graph("Concat", past, now, axis=1)


def step_of_frame(graph: Graph, frame: str, hop: int) -> None:
    """Add the first half of a frame (B, 2 hops) and the state `tail` to the output enhanced (B, hop)."""
    first, second = graph("Split", frame, [hop, hop], outputs=2, axis=1)
    graph.rename(second, "new_tail")
    graph("Add", first, graph.state("tail", [hop]), name="enhanced")
    graph.output("enhanced", ["batch", hop])


def frames_of_blocks(graph: Graph, hop: int) -> str:
    """Declare the input audio (B, T hops) and the state `past`; return the frames (B, T, 2 hops) of both."""
    past, now = graph.state("past", [hop]), graph.input("audio", ["batch", "samples"])
    hops = graph("Reshape", graph("Concat", past, now, axis=1), [0, -1, hop])
    before, after, last = (graph("Slice", hops, [a], [b], [1]) for a, b in ((0, -1), (1, END), (-1, END)))
    graph("Squeeze", last, [1], name="new_past")
    return graph("Concat", before, after, axis=2)


def blocks_of_frames(graph: Graph, frames: str, hop: int) -> None:
    """Add overlapping frames (B, T, 2 hops) and the state `tail` up to the output enhanced (B, T hops)."""
    first, second = graph("Split", frames, [hop, hop], outputs=2, axis=2)
    tails = graph("Concat", graph("Unsqueeze", graph.state("tail", [hop]), [1]), second, axis=1)
    before, last = (graph("Slice", tails, [a], [b], [1]) for a, b in ((0, -1), (-1, END)))
    graph("Squeeze", last, [1], name="new_tail")
    graph("Reshape", graph("Add", first, before), [0, -1], name="enhanced")
    graph.output("enhanced", ["batch", "samples"])
