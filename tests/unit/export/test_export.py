"""ONNX files give the output of PyTorch and run without it; others are not written."""

import itertools
import json
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile
import torch
from conftest import EXAMPLES, ROOT, SHARED, streamed
from processes import python

from modelscope_ext import Denoiser, build
from modelscope_ext.checkpoint import load_model, save_model
from modelscope_ext.cli import main
from modelscope_ext.export import ExportError, export_onnx
from modelscope_ext.export.parity import TOLERANCE
from modelscope_ext.inference.chunking import ChunkedInference
from modelscope_ext.inference.onnx_backend import OnnxBackend
from modelscope_ext.inference.torch_backend import TorchBackend
from modelscope_ext.pretrained import DEFAULT, MODELS, graph_of
from modelscope_ext.tensors import round_to_8_bits

#: A representative of every option of `CruseConfig`.
VARIANTS = {
    "complex mask": ("CRUSE4-64-1xGRU4", {"mask": "complex", "batch_norm": False}),
    "long windows": ("CRUSE3-16-1xGRU2", {"mask": "complex", "window": 512}),
    "gain, scaled skips": ("CRUSE4-32-1xGRU4", {}),
    "one frame, 1x1 skips, one group": ("CRUSE4-24-1xGRU1-1D", {"skip": "add_conv1x1"}),
    "two layers of LSTMs, concatenated skips": ("CRUSE3-16-2xLSTM2", {"skip": "concat", "mask": "complex"}),
    "five layers, no padding, no skips": ("CRUSE5-32-2xGRU4", {"skip": "none"}),
    "one layer, plain skips": ("CRUSE1-8-1xLSTM8", {"skip": "add"}),
}
#: Those that need whole utterances.
BOTH_DIRECTIONS = {
    "GRU in both directions": ("CRUSE3-16-1xGRU2", {"bidirectional": True, "mask": "complex"}),
    "two layers of LSTMs in both directions": ("CRUSE2-16-2xLSTM1", {"bidirectional": True}),
}


def random_net(name, **options):
    """Return a network whose batch norms and skips have an effect."""
    torch.manual_seed(0)
    net = build(name, **options).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.2)
        elif type(module).__name__ == "_ChannelScale":
            torch.nn.init.normal_(module.weight)
            torch.nn.init.normal_(module.bias)
    if getattr(net.config, "bidirectional", False):
        torch.nn.init.uniform_(net.backward_share)
    return net


def level_db(audio):
    return 10 * np.log10(np.square(audio, dtype=np.float64).mean() + 1e-30)


@pytest.fixture(scope="module")
def step(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "step.onnx"
    export_onnx("stream", path)
    return path


@pytest.fixture(scope="module")
def denoiser():
    """Run the model in the package by PyTorch; `Denoiser()` runs its ONNX file."""
    return Denoiser(load_model(DEFAULT))


@pytest.fixture(scope="module")
def utterance(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "utterance.onnx"
    export_onnx("stream", path, utterance=True)
    return path


@pytest.mark.parametrize(
    ("kind", "variant"),
    [*itertools.product(["step", "blocks"], VARIANTS), *(("utterance", each) for each in VARIANTS | BOTH_DIRECTIONS)],
)
def test_every_cruse_exports(variant, kind, tmp_path):
    """Compare many frames of real audio in a batch with PyTorch; ONNX's checker accepts the graph."""
    import onnx

    name, options = (VARIANTS | BOTH_DIRECTIONS)[variant]
    net = random_net(name, **options)
    export_onnx(net, tmp_path / "net.onnx", kind == "utterance", blocks=kind == "blocks")
    onnx.checker.check_model(tmp_path / "net.onnx", full_check=True)
    noisy = soundfile.read(EXAMPLES / "noisy.wav", frames=33_000, dtype="float32")[0]
    audio = np.stack((noisy, noisy[::-1] * 0.1, noisy * 3))
    ours, theirs = TorchBackend(net), OnnxBackend(tmp_path / "net.onnx")
    if kind == "utterance":
        assert np.abs(theirs.enhance(audio)[0] - ours.enhance(audio)[0]).max() < 1e-5
        return
    expected, expected_state = ours.feed(audio)
    found, state = [], None
    for chunk in np.split(audio, [900, 901, 2000, 3000, 11_000, 12_000], axis=1):
        out, state = theirs.feed(chunk, state)
        found.append(out)
    found = np.concatenate(found, 1)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-5
    assert np.abs(theirs.flush(state) - ours.flush(expected_state)).max() < 1e-5


@pytest.mark.parametrize("variant", VARIANTS)
def test_steps_of_every_cruse_in_8_bits(variant, tmp_path):
    """Compare with PyTorch; the checker accepts the graph, and streams side by side are independent."""
    import onnx

    name, options = VARIANTS[variant]
    net = random_net(name, **options)
    export_onnx(net, tmp_path / "net.onnx", int8=True)
    onnx.checker.check_model(tmp_path / "net.onnx")
    ours, theirs = TorchBackend(net), OnnxBackend(tmp_path / "net.onnx")
    noisy = soundfile.read(EXAMPLES / "noisy.wav", frames=33_000, dtype="float32")[0]
    audio = np.stack((noisy, noisy[::-1] * 0.1))
    expected, found = ours.feed(audio)[0], theirs.feed(audio)[0]
    assert level_db(found - expected) < level_db(expected) - 35
    assert np.abs(found - expected).max() > 0  # these are other numbers
    assert level_db(theirs.feed(audio[1:])[0] - found[1:]) < level_db(found[1:]) - 35


def test_8_bits_are_small_and_change_nothing_audible(tmp_path, step, denoiser, noisy):
    assert main(["export", "-q", "--int8", "-o", str(tmp_path / "int8.onnx")]) == 0
    assert (tmp_path / "int8.onnx").stat().st_size < 0.75 * step.stat().st_size
    small = Denoiser(tmp_path / "int8.onnx")
    expected = denoiser(noisy, 16000)
    assert level_db(small(noisy, 16000) - expected) < level_db(expected) - 36
    one, many = small.stream(16000), small.stream(16000)
    pieces = [many.feed(noisy[start : start + 333]) for start in range(0, 19_980, 333)]
    np.testing.assert_array_equal(one.feed(noisy[:19_980]), np.concatenate(pieces))


@pytest.mark.slow
@pytest.mark.parametrize(("causal", "utterance"), [(False, True), (True, False), (True, True)])
def test_frcrn_exports(causal, utterance, noisy, tmp_path):
    net = random_net("FRCRN", causal=causal)
    export_onnx(net, tmp_path / "net.onnx", utterance)
    ours, theirs = TorchBackend(net), OnnxBackend(tmp_path / "net.onnx")
    audio = np.stack((noisy[8000:11001], noisy[16000:19001]))
    assert theirs.limits.needs_statistics == (not causal)
    if not causal:  # chunks of a long file use the statistics of all of it
        (means,) = 10 * ours.statistics(audio[:, ::2])
        backends = ours, theirs, OnnxBackend(tmp_path / "net.onnx", "openvino")
        found = [backend.enhance(audio, means)[0] for backend in backends]
        assert np.abs(10 * theirs.statistics(audio[:, ::2])[0] - means).max() < 1e-4 * np.abs(means).max()
        assert np.abs(found[1] - found[0]).max() < 1e-5
        assert level_db(found[2] - found[1]) < level_db(found[1]) - 30
        assert level_db(found[1] - theirs.enhance(audio)[0]) > level_db(found[2] - found[1]) + 10
    if utterance:
        assert np.abs(theirs.enhance(audio)[0] - ours.enhance(audio)[0]).max() < 1e-5
    else:
        assert np.abs(theirs.feed(audio)[0] - ours.feed(audio)[0]).max() < 1e-5


@pytest.mark.shared
@pytest.mark.slow
def test_recordings_come_out_the_same(step, utterance, denoiser):
    paths = sorted((SHARED / "data" / "pairs" / "noisy").iterdir())[:3]
    assert paths
    for path in paths:
        audio, rate = soundfile.read(path, dtype="float32")
        expected = denoiser(audio, rate)
        for file in (step, utterance):
            assert np.abs(Denoiser(file)(audio, rate) - expected).max() < TOLERANCE


@pytest.mark.parametrize("rate", [16000, 44100])
def test_a_denoiser_takes_files(step, utterance, denoiser, noisy, rate):
    audio = np.stack((noisy[: 2 * rate], noisy[:-1][-2 * rate :]), 1)
    expected = denoiser(audio, rate)
    for file in (step, str(utterance)):
        other = Denoiser(file)
        assert other.backend.limits.attenuation_limit_db == denoiser.backend.limits.attenuation_limit_db == 42
        out = other(audio, rate)
        assert out.shape == audio.shape
        # Whole utterances end with their last sample; the filter of other rates meets silence there.
        inner = slice(None, -rate // 500 if rate > 16000 else None)
        assert np.abs(out - expected)[inner].max() < 1e-5
    with pytest.raises(ValueError, match=r"CRUSE4-64-1xGRU4 needs a whole utterance .* cannot stream"):
        Denoiser(utterance).stream(rate)


def test_the_chunks_of_a_long_file_are_warmed_up(utterance, denoiser, noisy):
    """Each begins 2 s early: without that, the second one would have an error 9 dB higher at its beginning."""
    audio = np.tile(noisy, 4)[: 30 * 16000]
    expected = denoiser(audio, 16000)
    error = np.square(Denoiser(utterance)(audio, 16000) - expected).reshape(-1, 16000).mean(1)
    assert error[:9].max() < 1e-10
    assert 0 < error.max() < 10**-2.5 * np.square(expected).mean()


def test_openvino_runs_whole_utterances(utterance, noisy, tmp_path):
    """The difference is rounding of bfloat16: in threads, in other processes and by the command."""
    ours, theirs = Denoiser(utterance), Denoiser(utterance, device="openvino")
    with ThreadPoolExecutor(2) as pool:
        outs = list(pool.map(lambda audio: theirs(audio, 16000), (noisy[:40_000], noisy[20_000:50_000])))
    for audio, out in zip((noisy[:40_000], noisy[20_000:50_000]), outs, strict=True):
        expected = ours(audio, 16000)
        assert level_db(out - expected) < level_db(expected) - 30
        assert not np.array_equal(out, expected)  # another library
    again = pickle.loads(pickle.dumps(theirs))
    assert np.array_equal(again(noisy[:40_000], 16000), outs[0])
    stereo = np.stack((noisy[:44_100], noisy[44_100:88_200]), 1)
    assert level_db(theirs(stereo, 44_100) - ours(stereo, 44_100)) < level_db(stereo) - 40
    soundfile.write(tmp_path / "a.wav", noisy[:40_000], 16000, "FLOAT")
    command = ["denoise", "-q", "--device", "openvino", "--model", str(utterance), str(tmp_path / "a.wav"), "-o"]
    assert main([*command, str(tmp_path / "out.wav")]) == 0
    found = soundfile.read(tmp_path / "out.wav", dtype="float32")[0]
    assert level_db(found - outs[0]) < level_db(outs[0]) - 60


def test_what_openvino_cannot_do_is_reported(step, utterance, monkeypatch):
    with pytest.raises(ValueError, match=r"step\.onnx: a step, which onnxruntime does faster"):
        Denoiser(step, device="openvino")
    with pytest.raises(ValueError, match=r"write one by `modelscope-ext export --utterance`"):
        Denoiser(device="openvino")
    import openvino

    def fail(*args):
        raise RuntimeError("no such operator\nin file x.cpp")

    with monkeypatch.context() as patch:
        patch.setattr(openvino.Core, "compile_model", fail)
        with pytest.raises(ValueError, match=r"utterance\.onnx: OpenVINO 20.* cannot run it \(no such operator\)"):
            Denoiser(utterance, device="openvino")
    infer = openvino.InferRequest.infer

    def wrong(self, inputs):
        return {"enhanced": infer(self, inputs)["enhanced"] + inputs["audio"] / 10}

    monkeypatch.setattr(openvino.InferRequest, "infer", wrong)
    with pytest.raises(ValueError, match=r"utterance\.onnx: OpenVINO 20.* and onnxruntime give different results"):
        Denoiser(utterance, device="openvino")


@pytest.mark.parametrize("chunk", [1, 160, 997, 20_000])
@pytest.mark.parametrize("packaged", [False, True])
def test_a_stream_equals_that_of_pytorch(step, denoiser, noisy, chunk, packaged):
    audio = noisy[: 4000 if chunk == 1 else 30_000]
    streams = denoiser.stream(16000), Denoiser(None if packaged else step).stream(16000)
    assert streams[0].latency_ms == streams[1].latency_ms == 32
    for start in range(0, len(audio), chunk):
        ours, theirs = (stream.feed(audio[start : start + chunk]) for stream in streams)
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max(initial=0) < 1e-5
    assert np.abs(streams[0].flush() - streams[1].flush()).max() < 1e-5


@pytest.mark.parametrize(
    "folder", sorted(path.parent for path in DEFAULT.parent.glob("*/configuration.json")), ids=lambda path: path.name
)
def test_the_files_in_the_package_are_those_of_its_weights(folder, noisy):
    """Whoever replaces the weights makes the file again: `modelscope-ext export`."""
    noisy = noisy[:48_000]
    ours, theirs = Denoiser(load_model(folder)), Denoiser(folder)
    assert isinstance(theirs.backend, OnnxBackend)
    for audio, rate in ((noisy, 16000), (np.stack((noisy, noisy[::-1]), 1), 44100), (noisy[:300], 48000)):
        assert np.abs(ours(audio, rate) - theirs(audio, rate)).max() < 1e-5
    assert ours.dry_gain == theirs.dry_gain
    assert graph_of(folder.parent.parent / "elsewhere") is None


@pytest.mark.parametrize(
    "folder", sorted(path.parent for path in DEFAULT.parent.glob("*/configuration.json")), ids=lambda path: path.name
)
def test_the_package_has_each_matrix_once(folder, tmp_path, noisy):
    graph = graph_of(folder)
    assert graph.stat().st_size < 300_000
    shutil.copy(graph, tmp_path / "alone.onnx")
    with pytest.raises(ValueError, match=r"alone\.onnx: "):  # elsewhere weights are not looked for
        OnnxBackend(tmp_path / "alone.onnx")
    shutil.copy(folder / "model.safetensors", tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"alone\.onnx: "):
        OnnxBackend(tmp_path / "alone.onnx")
    whole = tmp_path / "whole.onnx"
    export_onnx(folder, whole)
    assert np.array_equal(Denoiser(whole)(noisy[:20_000], 16000), Denoiser(folder)(noisy[:20_000], 16000))


@pytest.mark.parametrize("content", [b"", b"\x08", b"\xff" * 8 + b"{}", b"\x02" + bytes(7) + b"[]", bytes(100)])
def test_damaged_weights_of_the_package_are_named(tmp_path, monkeypatch, content):
    folder = shutil.copytree(DEFAULT, tmp_path / "model")
    monkeypatch.setattr("modelscope_ext.pretrained.DEFAULT", folder)
    Denoiser(folder / "model.onnx")
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.onnx: (its weights model\.safetensors are damaged|not an ONNX file)"):
        OnnxBackend(folder / "model.onnx")


def test_matrices_that_8_bits_hold_take_8(tmp_path, noisy):
    net = build("CRUSE3-16-1xGRU2", bidirectional=True).eval()
    export_onnx(net, tmp_path / "32.onnx")
    with torch.no_grad():
        for name, value in net.named_parameters():
            value.copy_(round_to_8_bits(value) if "rnn.weight" in name else value)
    export_onnx(net, tmp_path / "8.onnx")  # which compares both outputs
    large = sum(value.numel() for name, value in net.named_parameters() if "rnn.weight" in name)
    sizes = [(tmp_path / name).stat().st_size for name in ("32.onnx", "8.onnx")]
    assert sizes[0] - sizes[1] > 2.9 * large


def test_streams_do_not_disturb_each_other(step, noisy):
    denoiser = Denoiser(step)
    alone = streamed(denoiser, noisy[:8000], 16000)
    one, other = denoiser.stream(16000), denoiser.stream(16000)
    outs = []
    for start in range(0, 8000, 500):
        outs.append(one.feed(noisy[start : start + 500]))
        other.feed(noisy[-500:] * 3)
    assert np.array_equal(np.concatenate((*outs, one.flush())), alone)


def test_several_threads_share_a_denoiser(step, noisy):
    denoiser = Denoiser(step)
    expected = denoiser(noisy[:16_000], 16000)
    with ThreadPoolExecutor(4) as pool:
        outs = pool.map(lambda _: denoiser(noisy[:16_000], 16000), range(8))
        assert all(np.array_equal(out, expected) for out in outs)


def test_a_denoiser_goes_to_other_processes(step, noisy):
    denoiser = Denoiser(step)
    again = pickle.loads(pickle.dumps(denoiser))
    assert np.array_equal(again(noisy[:8000], 16000), denoiser(noisy[:8000], 16000))


def test_utterances_keep_their_level(utterance, noisy):
    """Only FRCRN needs the reference level."""
    backend, quiet = OnnxBackend(utterance), noisy[None, :32_000] * np.float32(0.01)
    assert not backend.limits.reference_level
    out, state = ChunkedInference(backend).feed(quiet)
    assert np.array_equal(np.concatenate((out, ChunkedInference(backend).flush(state)), 1), backend.enhance(quiet)[0])


WITHOUT_TORCH = """
import importlib.abc, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in ("torch", "safetensors", "onnx", "modelscope", "scipy", "pandas"):
            raise ImportError(f"{name} is not there")
sys.meta_path.insert(0, Block())
import numpy as np
from modelscope_ext import Denoiser
from modelscope_ext.cli import main
model, source, target = sys.argv[1] or None, *sys.argv[2:]
denoiser = Denoiser(model)
assert denoiser(np.zeros((300, 2), np.int16), 48000).shape == (300, 2)
if denoiser.backend.causal:
    stream = denoiser.stream(16000)
    assert len(stream.feed(np.zeros(333))) + len(stream.flush()) == 333
denoiser.file(source, target + ".wav")
assert main(["denoise", "-q", *(["--model", model] if model else []), source, "-o", target]) == 0
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize("kind", ["step", "utterance", "that in the package"])
def test_files_run_without_torch(kind, request, tmp_path, denoiser):
    model = "" if kind == "that in the package" else request.getfixturevalue(kind)
    source, target = EXAMPLES / "noisy.wav", tmp_path / "out.wav"
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, model, source, target], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    denoiser = denoiser if model else Denoiser(load_model(MODELS["file"]))
    denoiser.file(source, tmp_path / "ours.wav")
    ours, theirs = (soundfile.read(tmp_path / name)[0] for name in ("ours.wav", "out.wav"))
    assert np.abs(ours - theirs).max() < TOLERANCE


def test_a_file_is_described(step):
    """Names and shapes are public: every state has an output."""
    import onnx

    model = onnx.load(step)
    shapes = [
        {each.name: [d.dim_param or d.dim_value for d in each.type.tensor_type.shape.dim] for each in group}
        for group in (model.graph.input, model.graph.output)
    ]
    inputs, outputs = shapes
    assert inputs.pop("audio") == outputs.pop("enhanced") == ["batch", 256]
    assert {f"new_{name}": shape for name, shape in inputs.items()} == outputs
    assert inputs["rnn.0"] == ["batch", 1088, 1, 1]
    assert {"past", "tail", *(f"{part}.{i}" for part in ("encoder", "decoder") for i in range(4))} < inputs.keys()
    metadata = {each.key: each.value for each in model.metadata_props}
    assert metadata["name"] == "CRUSE4-64-1xGRU4"
    assert (metadata["kind"], metadata["sample_rate"], metadata["latency"]) == ("step", "16000", "512")


def test_what_differs_is_refused(monkeypatch, tmp_path):
    """A network that differs from its graph is an error, and an older file stays."""
    from modelscope_ext.models.cruse.network import Cruse

    path = tmp_path / "net.onnx"
    path.write_bytes(b"before")
    net = random_net("CRUSE3-16-1xGRU2")
    forward = Cruse.forward
    monkeypatch.setattr(Cruse, "forward", lambda *args: (lambda out, state: (out + 2e-4, state))(*forward(*args)))
    with pytest.raises(ExportError, match=r"net\.onnx: not written; onnxruntime and PyTorch differ by 0\.0002 on"):
        export_onnx(net, path)
    monkeypatch.setattr(Cruse, "forward", lambda *args: (lambda out, state: (out * np.nan, state))(*forward(*args)))
    with pytest.raises(ExportError, match="differ by nan"):
        export_onnx(net, path)
    assert path.read_bytes() == b"before"
    assert [each.name for each in tmp_path.iterdir()] == ["net.onnx"]
    monkeypatch.setattr(Cruse, "forward", lambda *args: (lambda out, state: (out * 1.2, state))(*forward(*args)))
    with pytest.raises(ExportError, match=r"net\.onnx: not written; 8 bits change .* by -16 dB of its level"):
        export_onnx(net, path, int8=True)
    assert path.read_bytes() == b"before"
    monkeypatch.undo()
    export_onnx(net, path)
    assert OnnxBackend(path).name == "CRUSE3-16-1xGRU2"


def test_what_cannot_be_exported_is_reported(tmp_path):
    with pytest.raises(ValueError, match="there is no step to export"):
        export_onnx(build("FRCRN").eval(), tmp_path / "a.onnx", utterance=False)
    with pytest.raises(ValueError, match="training mode"):
        export_onnx(build("CRUSE3-16-1xGRU2"), tmp_path / "a.onnx")
    with pytest.raises(ValueError, match="blocks are for CRUSE and dual-path networks only"):
        export_onnx(build("FRCRN", causal=True).eval(), tmp_path / "a.onnx", blocks=True)
    with pytest.raises(ValueError, match="either blocks or whole utterances"):
        export_onnx(None, tmp_path / "a.onnx", utterance=True, blocks=True)
    for name, utterance in (("FRCRN", None), ("CRUSE3-16-1xGRU2", True)):
        with pytest.raises(ValueError, match="8 bits are for the step of a CRUSE only"):
            export_onnx(build(name).eval(), tmp_path / "a.onnx", utterance, int8=True)
    assert not list(tmp_path.iterdir())


def test_files_that_are_none_of_ours_are_reported(tmp_path, step):
    import onnx

    with pytest.raises(ValueError, match=r"none\.onnx: no such file"):
        Denoiser(tmp_path / "none.onnx")
    (tmp_path / "cut.onnx").write_bytes(step.read_bytes()[:1_000_000])
    with pytest.raises(ValueError, match=r"cut\.onnx: not an ONNX file, or damaged"):
        Denoiser(tmp_path / "cut.onnx")
    foreign = onnx.load(step)
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(ValueError, match=r"foreign\.onnx: not written by this version's `modelscope-ext export`"):
        Denoiser(tmp_path / "foreign.onnx")
    with pytest.raises(ValueError, match="cannot use the device 'cuda'"):
        Denoiser(step, device="cuda")


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime", "openvino"])
def test_a_missing_package_is_reported(missing, step, utterance, tmp_path):
    code = f"import sys; sys.modules['{missing}'] = None; from modelscope_ext.cli import main; sys.exit(main())"
    commands = {
        "onnx": ["export", "-q", "-o", tmp_path / "a.onnx"],
        "onnxruntime": ["denoise", "-q", "--model", step, EXAMPLES / "noisy.wav", "-o", tmp_path],
        "openvino": ["denoise", "--device", "openvino", "--model", utterance, EXAMPLES / "noisy.wav", "-o", tmp_path],
    }
    done = subprocess.run([sys.executable, "-c", code, *commands[missing]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    package = missing if missing == "onnxruntime" else f"'modelscope-ext[{missing}]'"
    assert f"pip install {package}" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command(tmp_path, capsys):
    net = random_net("CRUSE3-16-1xGRU2")
    model = {"type": "speech_cruse_ans_16k", "name": net.config.name}
    configuration = {"model": model, "inference": {"attenuation_limit_db": 15}}
    save_model(net, tmp_path / "model", json.loads(json.dumps(configuration)))
    command = ["export", "-q", "--model", str(tmp_path / "model"), "--format", "onnx", "-o"]
    assert main([*command, str(tmp_path / "deep" / "net.onnx")]) == 0
    assert Denoiser(tmp_path / "deep" / "net.onnx").backend.limits.attenuation_limit_db == 15
    assert main([*command, str(tmp_path / "whole.onnx"), "--utterance"]) == 0
    assert not Denoiser(tmp_path / "whole.onnx").backend.causal
    for _ in range(2):  # an old graph in the model's folder is replaced, its weights are not
        assert main([*command, str(tmp_path / "model" / "model.onnx")]) == 0
    (tmp_path / "weights.onnx").symlink_to(tmp_path / "model" / "model.safetensors")
    assert main([*command, str(tmp_path / "weights.onnx")]) == 1
    assert "is read by this command and would be overwritten" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "net.bin")]) == 1
    assert capsys.readouterr().err.endswith("net.bin: the name of an ONNX file ends in .onnx\n")


EXPORTER = """
import os, sys
import modelscope_ext
from modelscope.exporters import Exporter
from modelscope.models import Model
model, out = sys.argv[1:]
files = Exporter.from_model(Model.from_pretrained(model)).export_onnx(output_dir=out)
small = Exporter.from_model(model).export_onnx(out + "/small", int8=True)
assert 3 * os.path.getsize(small["model"]) < 2 * os.path.getsize(files["model"])
again = Exporter.from_model(model).export_onnx(out, utterance=True)
assert files == again == {"model": out + "/model.onnx"}, files
assert not modelscope_ext.Denoiser(files["model"]).backend.causal
"""


def test_modelscopes_exporter(tmp_path):
    python("-c", EXPORTER, DEFAULT, tmp_path)
