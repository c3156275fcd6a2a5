"""Weights are data: model folders are refused with a reason or loaded, never run, in bounded memory."""

import json
import math
import os
import resource
import struct
import subprocess
import sys
import zipfile

import numpy as np
import onnx
import pytest
import torch
from conftest import ROOT
from safetensors.torch import save_file

from modelscope_ext import Denoiser
from modelscope_ext.checkpoint import CheckpointError, load_model, save_model
from modelscope_ext.export import export_onnx
from modelscope_ext.models import CRUSE_TYPE, FRCRN_TYPE, build
from modelscope_ext.training.config import SegmentConfig
from modelscope_ext.training.segments import SegmentRecipe

MODEL = {"type": CRUSE_TYPE, "name": "CRUSE2-8-1xGRU2"}
BIAS = "encoder.0.norm.bias"  # (16,)
HUGE = 10**9
#: What a network of this size may take while it is loaded, or refused; bytes beyond what the process has already.
SPARE = 200 * 2**20


@pytest.fixture
def folder(tmp_path):
    """Return a model folder without weights."""
    (tmp_path / "configuration.json").write_text(json.dumps({"model": MODEL}))
    return tmp_path


@pytest.fixture(scope="module")
def tensors():
    return build(MODEL["name"]).state_dict()


@pytest.fixture
def little_memory():
    """Make large allocations fail."""
    used = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")  # noqa: SIM115
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def refused(folder, reason):
    with pytest.raises(CheckpointError, match=reason) as caught:
        load_model(folder)
    assert len(str(caught.value)) < 2000
    assert "\n" not in str(caught.value)


CONFIGURATIONS = {
    "channels": ({**MODEL, "channels": HUGE}, "channels must be 1 to 4096"),
    "channels in the name": ({**MODEL, "name": f"CRUSE4-{HUGE}-1xGRU4"}, "channels must be 1 to 4096"),
    "terabytes of valid channels": ({**MODEL, "name": "CRUSE1-4096-8xLSTM1"}, "recurrent weights are too many"),
    "digits": ({**MODEL, "name": f"CRUSE{'9' * 5000}-8-1xGRU1"}, "no CRUSE is called"),
    "layers": ({**MODEL, "layers": -1}, "layers must be 1 to 7"),
    "a number as text": ({**MODEL, "layers": "4"}, "layers must be a whole number, got '4'"),
    "a fraction": ({**MODEL, "channels": 8.5}, "channels must be a whole number, got 8.5"),
    "NaN": ({**MODEL, "groups": math.nan}, "groups must be a whole number, got nan"),
    "a list": ({**MODEL, "mask": ["gain"]}, "mask must be a text"),
    "a long list": ({**MODEL, "skip": ["none"] * 10_000}, "skip must be a text"),
    "an object": ({**MODEL, "rnn": {"GRU": {}}}, "rnn must be a text"),
    "a truth": ({**MODEL, "batch_norm": "yes"}, "batch_norm must be true or false"),
    "no name": ({"type": CRUSE_TYPE}, "no CRUSE is called None"),
    "an argument of ours": ({**MODEL, "cls": 1}, "unknown CRUSE options cls"),
    "unknown": ({**MODEL, "dropout": 0.1}, "unknown CRUSE options dropout"),
    "FRCRN": ({"type": FRCRN_TYPE, "model_depth": HUGE}, "model_depth must be 14"),
    "FRCRN, unknown": ({"type": FRCRN_TYPE, "width": HUGE}, "unknown FRCRN options width"),
    "type": ({"type": ["speech"]}, "model type .* is unknown"),
}


@pytest.mark.parametrize(("model", "reason"), CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_absurd_configurations_are_refused(folder, little_memory, model, reason):
    (folder / "configuration.json").write_text(json.dumps({"model": model}))
    refused(folder, rf"configuration\.json: .*{reason}")


@pytest.mark.parametrize("limit", ["20", math.nan, -1, [1], True, {}])
def test_absurd_limits_are_refused(folder, limit):
    configuration = {"model": MODEL, "inference": {"attenuation_limit_db": limit}}
    (folder / "configuration.json").write_text(json.dumps(configuration))
    refused(folder, r"configuration\.json: .* attenuation_limit_db of at least 0")
    (folder / "configuration.json").write_text(json.dumps({"model": MODEL, "inference": [limit]}))
    refused(folder, r"configuration\.json: .* attenuation_limit_db of at least 0")


@pytest.mark.parametrize(
    "sections",
    [
        {"train": []},
        {"train": {"optimizer": "Adam"}},
        {"train": {"max_epochs": "many"}},
        {"train": {"hooks": [1]}},
        {"evaluation": {"dataloader": 3}},
        {"train": {"dataloader": {"batch_size_per_gpu": -1}}},
        {"train": {"optimizer": {"type": "Adam", "lr": "fast"}}},
        {"train": {"optimizer": {"type": "Adam", "code": "x"}}},
        {"train": {"optimizer": {"type": "__doc__"}}},
        {"train": {"lr_scheduler": {"type": ["StepLR"]}}},
    ],
)
def test_absurd_settings_of_training_are_refused(tmp_path, sections):
    with pytest.raises(ValueError, match=r"."):
        SegmentRecipe(torch.nn.Linear(1, 1), SegmentConfig.from_configuration(sections), tmp_path, device="cpu")


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"model":' * 100_000, '{"model": {"layers": ' + "9" * 5000 + "}}", "null", "\ud800"],
    ids=["lists", "objects", "digits", "null", "no text"],
)
def test_what_is_no_configuration_is_refused(folder, text):
    (folder / "configuration.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    refused(folder, r"configuration\.json: ")


def test_a_configuration_of_100_megabytes_is_not_read(folder, little_memory):
    with (folder / "configuration.json").open("wb") as file:
        file.truncate(100_000_000)
    refused(folder, r"configuration\.json: longer than 1,000,000 bytes")


def header(content, length=None):
    """Return a safetensors file with this header and this stated length."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text


def entry(shape, end, name=BIAS, kind="F32"):
    return {name: {"dtype": kind, "shape": shape, "data_offsets": [0, end]}}


LIES = {
    "length of the header": header(b"{}", 2**63),
    "length within reason": header(b"{}", 90_000_000),
    "beyond the file": header(entry([HUGE], 4 * HUGE)) + b"1234",
    "product overflows": header(entry([2**62, 2**62], 4)) + b"1234",
    "negative": header(entry([-1], 4)) + b"1234",
    "same bytes twice": header(entry([1], 4) | entry([1], 4, "b")) + b"1234",
    "type": header(entry([1], 4, kind="PY")) + b"1234",
    "nested": header(b'{"a":' * 100_000),
    "no object": header(b"[]"),
    "a long name": header(entry([1], 4, "n" * 100_000)) + b"1234",
    "nothing times much": header(entry([0, 10**15], 0)),
}


@pytest.mark.parametrize("content", LIES.values(), ids=LIES)
def test_safetensors_that_lie_are_refused(folder, little_memory, content):
    (folder / "model.safetensors").write_bytes(content)
    refused(folder, r"model\.safetensors: ")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_file_of_gigabytes_is_not_read(folder, little_memory, name):
    with (folder / name).open("wb") as file:
        file.write(header(entry([25 * HUGE], 100 * HUGE)))
        file.truncate(100 * HUGE)  # a hole, which uses no disk space
    refused(folder, rf"{name}: 100,000,000,000 bytes, where this network has .*; not its weights")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sample_rate", "0"),
        ("hop", "-160"),
        ("latency", str(HUGE)),
        ("delay", "soon"),
        ("lead_in_s", "1e9"),
        ("attenuation_limit_db", None),
    ],
)
def test_absurd_metadata_of_onnx_files_are_refused(exported, key, value):
    model = onnx.load(exported)
    metadata = {each.key: each.value for each in model.metadata_props} | {key: value}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {name: text for name, text in metadata.items() if text is not None})
    path = exported.with_name("changed.onnx")
    onnx.save(model, path)
    with pytest.raises(ValueError, match=r"changed\.onnx: its metadata are (damaged|absurd)"):
        Denoiser(path)


def sparse(graph):
    values = onnx.helper.make_tensor("weights", onnx.TensorProto.FLOAT, [1], [1.0])
    places = onnx.helper.make_tensor("places", onnx.TensorProto.INT64, [1], [0])
    graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, places, [HUGE]))


def external(graph):
    weights = graph.initializer.add(name="weights", data_type=onnx.TensorProto.FLOAT, dims=[HUGE])
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="large.bin")


def in_a_node(graph):
    weights = onnx.helper.make_tensor("weights", onnx.TensorProto.FLOAT, [1], [1.0])
    graph.node.append(onnx.helper.make_node("Constant", [], ["weights"], value=weights))


def computed(operator, *values, doubled=0, **attributes):
    """Return a function that adds what onnxruntime would compute of constants when it loads the file."""

    def add(graph):
        names = [f"given_{number}" for number in range(len(values))]
        graph.initializer.extend(map(onnx.numpy_helper.from_array, map(np.array, values), names))
        results = [*(f"result_{number}" for number in range(doubled)), "weights"]
        for number, result in enumerate(results):
            inputs = [results[number - 1]] * 2 if number else names
            graph.node.append(onnx.helper.make_node(operator, inputs, [result], **attributes))

    return add


COLUMN = np.ones((40_000, 1), np.float32)
COMPUTED = {
    "a sum of a row and a column": (computed("Add", COLUMN, COLUMN.T), "far larger than the file"),
    "a product of them": (computed("MatMul", COLUMN, COLUMN.T), "computes constants by 'MatMul'"),
    "the same twice, again and again": (
        computed("Concat", COLUMN, COLUMN, doubled=20, axis=0),
        "far larger than the file",
    ),
    "a row many times": (computed("Gather", COLUMN.T, np.zeros(40_000, np.int64)), "far larger than the file"),
    "axes without end": (computed("Gather", [[0]], [[0]], doubled=25), "absurd shapes"),
    "a shape": (computed("ConstantOfShape", [HUGE]), "uses the operator 'ConstantOfShape'"),
    "zeros around it": (computed("Pad", [1.0], [0, HUGE]), "computes constants by 'Pad'"),
}


@pytest.mark.parametrize(
    ("add", "reason"),
    [
        (sparse, "has sparse weights"),
        (external, "has weights in another file"),
        (in_a_node, "has tensors or graphs in"),
        *COMPUTED.values(),
    ],
    ids=["sparse", "external", "in a node", *COMPUTED],
)
def test_onnx_weights_take_no_more_than_their_file(exported, little_memory, add, reason):
    model = onnx.load(exported)
    add(model.graph)
    model.graph.node.append(onnx.helper.make_node("ReduceMean", ["weights"], ["mean"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("mean", onnx.TensorProto.FLOAT, None))
    path = exported.with_name("changed.onnx")
    path.write_bytes(model.SerializeToString())
    with path.with_name("large.bin").open("wb") as file:
        file.truncate(4 * HUGE)  # a hole
    with pytest.raises(ValueError, match=rf"changed\.onnx: .*{reason}"):
        Denoiser(path)


def test_a_state_of_gigabytes_is_not_made(exported, little_memory):
    model = onnx.load(exported)
    shape = onnx.helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, ["batch", HUGE])
    model.graph.input.append(shape)
    path = exported.with_name("changed.onnx")
    onnx.save(model, path)
    with pytest.raises(ValueError, match=r"changed\.onnx: its state is absurd"):
        Denoiser(path)


def test_many_small_parts_are_refused(exported, little_memory):
    path = exported.with_name("changed.onnx")
    path.write_bytes(exported.read_bytes() + b"\x3a\x80\xda\xc4\x09" + b"\x0a\x00" * 10_000_000)  # empty nodes
    with pytest.raises(ValueError, match=r"changed\.onnx: has more parts than any exported file"):
        Denoiser(path)


def test_an_onnx_file_of_gigabytes_is_not_read(tmp_path, little_memory):
    path = tmp_path / "large.onnx"
    with path.open("wb") as file:
        file.truncate(100 * HUGE)
    with pytest.raises(ValueError, match=r"large\.onnx: has 100,000,000,000 bytes"):
        Denoiser(path)


@pytest.mark.parametrize("utterance", [False, True])
def test_a_graph_that_fails_while_it_runs_is_an_error_with_its_name(tmp_path, utterance):
    path = tmp_path / "forged.onnx"
    export_onnx(build(MODEL["name"]).eval(), path, utterance)
    model = onnx.load(path)
    (node,) = [node for node in model.graph.node if "enhanced" in node.output]
    node.output[0] = "before"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([7, -1]), "seven"))
    model.graph.node.append(onnx.helper.make_node("Reshape", ["before", "seven"], ["enhanced"]))
    onnx.save(model, path)
    with pytest.raises(ValueError, match=r"forged\.onnx: onnxruntime cannot run it \("):
        Denoiser(path)(np.zeros(16000, np.float32), 16000)


@pytest.mark.parametrize("content", [b"", b"\xff" * 1000, b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x3a\x05\x0a"])
def test_damaged_onnx_files_are_refused(tmp_path, content):
    path = tmp_path / "damaged.onnx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged\.onnx: (has 0 bytes|not an ONNX file, or damaged)"):
        Denoiser(path)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "step.onnx"
    export_onnx(build(MODEL["name"]).eval(), path)
    return path


def archive(path, pickled, **records):
    """Return a file of `torch.save` with our own pickle."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", pickled)
        file.writestr("a/byteorder", "little")
        file.writestr("a/version", "3\n")
        for name, content in records.items():
            file.writestr(f"a/data/{name}", content)


def short(number):
    return b"\x8a\x08" + struct.pack("<q", number)


def pickled_tensor(stored, size, stride, offset=0):
    """Return the pickle of {BIAS: tensor} with `stored` floats, read as one axis of `size`."""
    name = struct.pack("<I", len(BIAS)) + BIAS.encode()
    storage = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0sX\3\0\0\0cpu" + short(stored) + b"tQ"
    numbers = short(offset) + short(size) + b"\x85" + short(stride) + b"\x85"
    return (
        b"\x80\2}(X" + name + b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + numbers + b"\x89ccollections\n"
        b"OrderedDict\n)RtRu."
    )


TENSORS = {
    "more stored than there is": (HUGE, HUGE, 1),
    "a bit more stored than there is": (17, 17, 1),
    "larger than what is stored": (16, 17, 1),
    "far larger than what is stored": (16, HUGE, 1),
    "begins before": (16, 16, 1, -4),
    "begins behind": (16, 16, 1, 20),
    "goes backwards": (16, 16, -1),
    "one number a billion times": (16, HUGE, 0),
}


@pytest.mark.parametrize("tensor", TENSORS.values(), ids=TENSORS)
def test_tensors_that_lie_are_refused(folder, little_memory, tensor):
    archive(folder / "pytorch_model.bin", pickled_tensor(*tensor), s=bytes(64))
    refused(folder, r"pytorch_model\.bin: (not a weights file|.*instead of \(16,\))")


def test_what_the_tests_above_spoil_is_read(folder):
    archive(folder / "pytorch_model.bin", pickled_tensor(16, 16, 1), s=bytes(64))
    refused(folder, r"pytorch_model\.bin: lacks ")


def test_a_zip_bomb_is_not_unpacked(folder, little_memory):
    path = folder / "pytorch_model.bin"
    archive(path, pickled_tensor(2**26, 2**26, 1))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file, file.open("a/data/s", "w") as record:
        for _ in range(256):
            record.write(bytes(2**20))
    assert path.stat().st_size < 2**20
    refused(folder, r"pytorch_model\.bin: .*entries are larger than the file")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_asks_for_memory_gets_none(folder, little_memory, zipped):
    pickled = b"\x80\2cbuiltins\nbytearray\n" + short(4 * HUGE) + b"\x85R."
    path = folder / "pytorch_model.bin"
    archive(path, pickled) if zipped else path.write_bytes(pickled)
    refused(folder, r"pytorch_model\.bin: would run builtins\.bytearray when unpickled, and is refused")


BOMB = b"\x80\2cbuiltins\nbytearray\n" + short(4 * HUGE) + b"\x85R."
ELSEWHERE = {
    "other letters": ["a/DATA.PKL"],
    "two, of which torch takes the first": ["a/DATA.PKL", "a/data.pkl"],
    "two, of which torch takes the last": ["a/data.pkl", "a/DATA.PKL"],
    "another folder": ["b/data.pkl", "a/data.pkl"],
    "a program": ["a/data.pkl", "a/code/x.py"],
}


@pytest.mark.parametrize("names", ELSEWHERE.values(), ids=ELSEWHERE)
def test_torch_reads_only_what_was_checked(folder, little_memory, names):
    """Its reader of archives ignores the case of letters."""
    path = folder / "pytorch_model.bin"
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, pickled_tensor(16, 16, 1) if name == "a/data.pkl" else BOMB)
        file.writestr("a/version", "3\n")
        file.writestr("a/data/s", bytes(64))
    refused(folder, r"pytorch_model\.bin: ")


PICKLES = {
    "an untyped storage": b"\x80\2ctorch.storage\nUntypedStorage\n" + short(4 * HUGE) + b"\x85R.",
    "bytes of a length": b"\x80\5\x96" + struct.pack("<Q", 4 * HUGE) + b".",
    "a name on the stack": b"\x80\4\x8c\x08builtins\x8c\tbytearray\x93" + short(4 * HUGE) + b"\x85R.",
    "a far place of the memo": b"\x80\2Nr\xff\xff\xff\x7f.",
    "no end": b"\x80\2" + b"(" * 100_000,
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("pickled", PICKLES.values(), ids=PICKLES)
def test_no_pickle_takes_memory(folder, little_memory, pickled, zipped):
    path = folder / "pytorch_model.bin"
    archive(path, pickled) if zipped else path.write_bytes(pickled)
    refused(folder, r"pytorch_model\.bin: ")


def test_the_oldest_layout_takes_no_memory_for_a_claim(folder, little_memory):
    """Its storages follow the pickle, and torch allocates what this claims."""
    numbers = torch.zeros(16)
    path = folder / "pytorch_model.bin"
    torch.save({BIAS: numbers}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    claim = b"K\x10Nt"  # 16 numbers, no view
    assert content.count(claim) == 1
    path.write_bytes(content.replace(claim, short(HUGE) + b"Nt"))
    refused(folder, r"pytorch_model\.bin: .*larger than the file")


def test_cut_off_weights_are_refused(folder, tensors, little_memory):
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    for name, save in (("model.safetensors", save_file), ("pytorch_model.bin", torch.save)):
        save(tensors, folder / name)
        content = (folder / name).read_bytes()
        for length in (0, 1, 7, 8, 100, len(content) // 2, len(content) - 1):
            (folder / name).write_bytes(content[:length])
            refused(folder, rf"{name}: ")
        (folder / name).unlink()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.to_sparse(), "would run torch._utils._rebuild_sparse_tensor"),
        (lambda t: t.to("meta"), "would run torch._utils._rebuild_meta"),
        (lambda t: t.to(torch.complex64), f"{BIAS} is no plain tensor of torch.float32"),
        (lambda t: t.to(torch.bool), f"{BIAS} is no plain tensor of torch.float32"),
        (lambda t: t.to(torch.float8_e4m3fn), "would run|no plain tensor"),
        (lambda t: t.double() + 1e300, f"{BIAS} has NaN or infinite values"),
    ],
    ids=["sparse", "meta", "complex", "bool", "float8", "beyond float32"],
)
def test_tensors_of_other_kinds_are_refused(folder, tensors, change, reason):
    changed = {**tensors, BIAS: change(tensors[BIAS])}
    torch.save(changed, folder / "pytorch_model.bin")
    refused(folder, rf"pytorch_model\.bin: .*({reason})")
    if changed[BIAS].layout == torch.strided and changed[BIAS].device.type == "cpu":
        (folder / "pytorch_model.bin").unlink()
        save_file({name: value.contiguous() for name, value in changed.items()}, folder / "model.safetensors")
        refused(folder, rf"model\.safetensors: .*({reason})")


def test_all_floating_point_and_the_oldest_layout_are_read(folder, tensors):
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        torch.save({name: value.to(kind) for name, value in tensors.items()}, folder / "pytorch_model.bin")
        load_model(folder)
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    loaded = load_model(folder).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in tensors.items())


PIPELINE = """
import sys
import modelscope_ext, numpy as np
from modelscope.pipelines import pipeline
from modelscope.utils.constant import Tasks
for folder in sys.argv[1:]:
    try:
        denoise = pipeline(Tasks.acoustic_noise_suppression, model=folder)
        print(len(denoise(np.zeros(8000, np.float32))["output_pcm"]))
    except RuntimeError as error:
        print("trust_remote_code=True was not explicitly set" in str(error).replace("\\n", " "))
"""


@pytest.mark.slow
def test_python_in_a_model_folder_is_not_imported(tmp_path):
    """`Denoiser` ignores it; ModelScope refuses a folder whose configuration requests it."""
    trace = tmp_path / "trace"
    code = f"open({str(trace)!r}, 'a').write(__name__)\nclass Evil: pass\n"
    folders = []
    for asks in ({}, {"allow_remote": True}, {"plugins": ["evil"]}):
        folders.append(tmp_path / f"model{len(folders)}")
        described = {"task": "acoustic-noise-suppression", "model": MODEL, "pipeline": {"type": CRUSE_TYPE}, **asks}
        save_model(build(MODEL["name"]), folders[-1], {"framework": "pytorch", **described})
        by_name = {"auto_map": {"AutoModel": "modeling.Evil"}, "model_type": "evil"}
        (folders[-1] / "config.json").write_text(json.dumps(by_name))
        for name in ("modeling", "ms_wrapper", "__init__", "evil", "configuration", "sitecustomize", "torch", "numpy"):
            (folders[-1] / f"{name}.py").write_text(code)
        assert Denoiser(folders[-1])(np.zeros(800, np.float32), 16000).shape == (800,)
    assert not trace.exists()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PIPELINE, *folders]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-3:] == ["16000", "True", "True"]
    assert not trace.exists()
    assert not any(tmp_path.rglob("*.pyc"))
