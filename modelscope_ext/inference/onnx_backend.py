"""ONNX files of `modelscope-ext export` by onnxruntime or OpenVINO; PyTorch is not needed."""

import functools
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from modelscope_ext.inference.backend import Limits
from modelscope_ext.inference.onnx_file import metadata, read_checked
from modelscope_ext.pretrained import weights_of

#: In the metadata of our files; the number changes with the meaning of inputs, outputs or metadata.
FORMAT = "modelscope_ext 1"
#: Kinds of files; the first two are causal. A block has any number of hops.
STEP, BLOCKS, UTTERANCE = "step", "blocks", "utterance"
#: Most hops at once, all streams together. More need more memory and are no faster.
MOST_HOPS = 128
#: Blocks of fewer hops are processed one by one: memory that is bound once is faster.
FEWEST_HOPS = 4
#: An operator of files in 8 bits, whose rounding depends on the loudest of the signals that it gets at once.
QUANTIZED = b"DynamicQuantizeMatMul"
#: Most numbers of a stream's state.
MOST_STATE = 2**24


class OnnxBackend:
    """A `Backend` for an ONNX file: whole utterances or steps with their state.

    Args:
        path: the file; `modelscope_ext.export` describes its content.
        device: "cpu" or None: onnxruntime. Steps use one thread, since waiting threads would slow down other streams.
            So does the model for files in this package: a second one saves a sixth of the time for two thirds more
            work. Other utterances use all cores or the number in the environment variable OMP_NUM_THREADS. "openvino":
            OpenVINO runs whole utterances on the CPU, in bfloat16 on processors that have it: several times as fast
            with an error of -40 dB or less.

    Raises:
        ValueError: the file is missing, damaged or not from this package, or the device is another one.
        ModuleNotFoundError: onnxruntime or OpenVINO is missing; the message gives the command that installs it.
    """

    def __init__(self, path: str | Path, device: str | None = None) -> None:
        if device not in (None, "cpu", "openvino"):
            raise ValueError(f"cannot use the device {device!r}: ONNX files run on the cpu, or by openvino")
        path = Path(path)
        self._path, self._device = path, device
        if not path.is_file():
            raise ValueError(f"{path}: no such file")
        session = open_session(path)
        found = session.get_modelmeta().custom_metadata_map
        if found.get("format") != FORMAT:
            raise ValueError(f"{path}: not written by this version's `modelscope-ext export`; please export it again")
        try:
            self.name, self.causal = found["name"], found["kind"] in (STEP, BLOCKS)
            numbers = [int(found[key]) for key in ("sample_rate", "hop", "delay", "latency")]
            self.sample_rate, self._hop, delay, latency = numbers
            averages = any(each.name == "own_means" for each in session.get_outputs())  # not in older files
            self.limits = Limits(
                algorithmic_delay=delay,
                latency=latency,
                hop=self._hop,
                attenuation_limit_db=float(found["attenuation_limit_db"]),
                warmup_s=float(found.get("lead_in_s", 0)),  # not in older files
                reference_level=found["reference_level"] == "True",
                chunk_s=7.5 if averages else 15.0,  # FRCRN takes onnxruntime 125 MB a second, twice as much as ours
                needs_statistics=averages,
                excerpt_s=30.0,
            )
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path}: its metadata are damaged ({error})") from error
        fits = 1000 <= numbers[0] <= 1_000_000 and numbers[1] >= 1 and 0 <= min(numbers) <= max(numbers) <= 1_000_000
        if not (fits and 0 <= self.limits.warmup_s <= 3):
            raise ValueError(f"{path}: its metadata are absurd: {str(found)[:300]}")
        state = [each.shape[1:] for each in session.get_inputs() if each.name not in ("audio", "means")]
        if not all(isinstance(length, int) for shape in state for length in shape) or (
            sum(map(math.prod, state)) > MOST_STATE
        ):
            raise ValueError(f"{path}: its state is absurd: {str(state)[:300]}")
        self._most_hops = MOST_HOPS if found["kind"] == BLOCKS else 1
        self._apart = found["kind"] == STEP and QUANTIZED in path.read_bytes()  # each signal on its own
        self._make = functools.partial(_OpenVino if device == "openvino" else open_session, path)
        self._process = os.getpid()
        if device == "openvino":
            if self.causal:
                raise ValueError(f"{path}: a step, which onnxruntime does faster; openvino is for whole utterances")
            self._session = self._make()
            self._session.check(session, self.sample_rate)
        else:
            self._session = session

    def __reduce__(self) -> tuple:
        """Pickle the path: sessions of onnxruntime cannot be pickled."""
        return OnnxBackend, (self._path, self._device)

    def feed(
        self, audio: np.ndarray, state: "_Steps | list[_Steps] | None" = None
    ) -> tuple[np.ndarray, "_Steps | list[_Steps]"]:
        """See `Backend`."""
        with _explained(self._path):
            if not self._apart or len(audio) == 1:
                return self._feed(audio, state)
            states = state or [None] * len(audio)
            fed = [self._feed(row[None], each) for row, each in zip(audio, states, strict=True)]
        return np.concatenate([out for out, _ in fed]), [each for _, each in fed]

    def _feed(self, audio: np.ndarray, state: "_Steps | None") -> tuple[np.ndarray, "_Steps"]:
        state, hop = state or _Steps(self._session, len(audio)), self._hop
        audio = np.concatenate((state.waiting, audio), 1) if state.waiting.shape[1] else audio
        whole = audio.shape[1] // hop * hop
        out = np.empty((len(audio), whole), np.float32)
        start, most = 0, self._most_hops // len(audio)
        while start < whole:
            hops = min((whole - start) // hop, most)
            end = start + hop * (hops if hops >= FEWEST_HOPS else 1)
            out[:, start:end] = state.step(audio[:, start:end])
            start = end
        state.waiting = audio[:, whole:]
        return out, state

    def flush(self, state: "_Steps | list[_Steps]") -> np.ndarray:
        """See `Backend`."""
        signals = len(state) if isinstance(state, list) else len(state.waiting)
        return self.feed(np.zeros((signals, self.limits.latency), np.float32), state)[0]

    def enhance(
        self, audio: np.ndarray, stats: np.ndarray | None = None, more: bool = False
    ) -> tuple[np.ndarray, None]:
        """See `Backend`."""
        given = {} if stats is None else {"means": stats}
        return self._run("enhanced", {"audio": np.ascontiguousarray(audio), **given}), None

    def statistics(self, audio: np.ndarray, parts: int = 1, quick: bool = False) -> np.ndarray:
        """See `Backend`."""
        own = self._run("own_means", {"audio": np.ascontiguousarray(audio)})
        return np.broadcast_to(own, (parts, *own.shape))

    def _run(self, output: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Run whole utterances."""
        if self._process != os.getpid():  # a forked child has none of its parent's threads
            self._session, self._process = self._make(), os.getpid()
        with _explained(self._path):
            return self._session.run([output], inputs)[0]


class _Steps:
    """State of B streams between two steps: samples that wait for a whole hop and the network's state.

    There are two sets of arrays; a step reads one and writes the other. They are bound once, because creating arrays
    for a dozen inputs and outputs takes onnxruntime a good part of a step's time.
    """

    def __init__(self, session: Any, batch: int) -> None:
        self.waiting = np.zeros((batch, 0), np.float32)
        self._run = session.run_with_iobinding
        shapes = {each.name: (batch, *each.shape[1:]) for each in session.get_inputs() if each.name != "audio"}
        sets = [{name: np.zeros(shape, np.float32) for name, shape in shapes.items()} for _ in range(2)]
        self._bindings = [session.io_binding() for _ in sets]
        for binding, before, after in zip(self._bindings, sets, reversed(sets), strict=True):
            for name, array in before.items():
                _bind(binding.bind_input, name, array)
                _bind(binding.bind_output, f"new_{name}", after[name])
        self._sets = sets  # the arrays must exist while their addresses are bound
        self._audio = self._enhanced = np.zeros((batch, 0), np.float32)

    def step(self, audio: np.ndarray) -> np.ndarray:
        """Return the output for (B, whole hops), same shape; the next call overwrites it."""
        if self._audio.shape != audio.shape:
            self._audio, self._enhanced = (np.zeros(audio.shape, np.float32) for _ in range(2))
            for binding in self._bindings:
                _bind(binding.bind_input, "audio", self._audio)
                _bind(binding.bind_output, "enhanced", self._enhanced)
        self._audio[:] = audio
        self._run(self._bindings[0])
        self._bindings.reverse()
        return self._enhanced


def _bind(bind: Callable[..., object], name: str, array: np.ndarray) -> None:
    bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)


class _OpenVino:
    """The same as `open_session`, by OpenVINO."""

    def __init__(self, path: Path) -> None:
        try:
            import openvino
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "the device openvino needs OpenVINO; get it with: pip install 'modelscope-ext[openvino]'"
            ) from error
        self.openvino, self.path, self.version = openvino, path, openvino.__version__
        self.options = {"INFERENCE_NUM_THREADS": threads} if (threads := _threads()) else {}
        self.defaults: dict[str, np.ndarray] = {}
        self.ready = "enhanced", self._compiled("enhanced")

    def _compiled(self, output: str) -> Any:
        """Compile the graph with one output; with both, much of it stays in 32 bits and takes a quarter longer."""
        openvino = self.openvino
        try:
            model = openvino.Core().read_model(self.path)
            for result in [each for each in model.get_results() if output not in each.output(0).get_names()]:
                model.remove_result(result)
            for constant in [op for op in model.get_ops() if op.get_friendly_name() == "means"]:
                # An input with a default; OpenVINO has no such thing.
                parameter = openvino.opset13.parameter(openvino.PartialShape([-1, *constant.shape[1:]]), np.float32)
                parameter.output(0).set_names({"means"})
                self.defaults["means"] = constant.data.copy()
                constant.output(0).replace(parameter.output(0))
                model.add_parameters([parameter])
            return openvino.Core().compile_model(model, "CPU", self.options)
        except RuntimeError as error:
            raise ValueError(f"{self.path}: OpenVINO {self.version} cannot run it ({_first_line(error)})") from error

    def check(self, session: Any, rate: int) -> None:
        """Compare a third of a second with onnxruntime: versions before 2025.3 gave another result."""
        noise = np.random.default_rng(0).standard_normal((1, rate // 3)).astype(np.float32) / 20
        expected, found = (each.run(["enhanced"], {"audio": noise})[0] for each in (session, self))
        if not np.square(found - expected).mean() <= 10**-2.5 * np.square(noise).mean():  # -41 dB and less are usual
            raise ValueError(f"{self.path}: OpenVINO {self.version} and onnxruntime give different results")

    def run(self, outputs: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        [output] = outputs
        known, model = self.ready
        if known != output:  # only one of them holds memory
            self.ready = model = None, None
            model = self._compiled(output)
            self.ready = output, model
        # One request for each call, so that threads may share the back end.
        found = model.create_infer_request().infer({**self.defaults, **inputs})
        return [found[output]]


def open_session(path: Path) -> Any:
    """Return onnxruntime's session for a file, of one thread but for whole utterances; see `OnnxBackend`.

    Raises:
        ValueError: the file is none that is run.
        ModuleNotFoundError: onnxruntime is missing.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{path}: ONNX files need onnxruntime; get it with: pip install onnxruntime"
        ) from error
    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads, options.log_severity_level = 1, 4
    try:
        weights = weights_of(path)
        content = read_checked(path, weights)
        many = metadata(content).get("kind") == UTTERANCE and not weights
        options.intra_op_num_threads = _threads() if many else 1
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's classes have no other base
        raise ValueError(f"{path}: not an ONNX file, or damaged ({_first_line(error)})") from error


def _threads() -> int:
    """Return the number of threads for whole utterances, 0 for all cores."""
    return int(os.environ.get("OMP_NUM_THREADS", "").partition(",")[0] or 0)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Raise ValueError with the name of the file for what onnxruntime raises while a graph runs."""
    try:
        yield
    except Exception as error:  # onnxruntime's classes have no other base; with bound arrays it takes RuntimeError
        if not type(error).__module__.startswith("onnxruntime") and not str(error).startswith("Error in execution"):
            raise
        raise ValueError(f"{path}: onnxruntime cannot run it ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
