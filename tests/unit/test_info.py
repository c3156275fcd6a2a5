import hashlib
import json
import shutil

import pytest
import torch
from conftest import ROOT

from modelscope_ext.cli import main
from modelscope_ext.hub import WEIGHTS
from modelscope_ext.info import card_licence, card_tables, describe, macs_per_second
from modelscope_ext.models import CRUSE_TYPE, build
from modelscope_ext.pretrained import DEFAULT, MODELS


@pytest.mark.parametrize(
    ("model", "facts"),
    [([], (False, None, 3_646_370)), (["file"], (False, None, 3_646_370)), (["stream"], (True, 32, 1_863_138))],
)
def test_the_models_in_the_package(capsys, model, facts):
    assert main(["info", "--json", *model]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["architecture"] == "CRUSE4-64-1xGRU4 (skip add_scale, mask complex, no batch norm, window 512)"
    assert (found["causal"], found["latency_ms"], found["parameters"]) == facts
    assert found["attenuation_limit_db"] == 42
    assert found["licence"] == "Apache-2.0"
    weights = MODELS["".join(model) or "file"] / WEIGHTS
    assert found["weights"]["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert found["tables"][0]["rows"][0][:2] == ["", "WB-PESQ"]
    assert any("licence" in table["rows"][0] for table in found["tables"])  # the sources


def test_the_text_has_a_line_for_each_fact(capsys):
    assert main(["info", "stream"]) == 0
    text = capsys.readouterr().out
    facts = dict(line.split(maxsplit=1) for line in text.partition("\n\n")[0].splitlines())
    assert facts["parameters"] == "1.86 million"
    assert facts["causal"] == "yes, latency 32 ms"
    assert facts["sha256"] == hashlib.sha256((DEFAULT / WEIGHTS).read_bytes()).hexdigest()
    for part in ("243 million multiply-accumulates", "CC BY 4.0", "SI-SDR dB"):
        assert part in text


def test_a_model_without_weights_or_card(tmp_path, capsys):
    shutil.copyfile(ROOT / "configuration.json", tmp_path / "configuration.json")
    assert main(["info", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "none: not yet trained" in text
    assert "no card that names it" in text
    assert "no: files and arrays, no live streams" in text
    assert main(["info", str(tmp_path / "none")]) == 1
    assert "no such file" in capsys.readouterr().err


def frcrn_macs_per_frame():
    """From the paper's sizes: four real products for a complex one, 128 channels, two U-nets."""
    freqs, widths = [321, 159, 78, 37, 17, 7, 2, 1], [1] + [128] * 7
    encoder = [5 * 2] * 6 + [2 * 2]
    decoder = [2 * 2, 5 * 2, 5 * 2, 5 * 2, 6 * 2, 5 * 2, 5 * 2]
    inputs, outputs = [128] + [256] * 6, [128] * 6 + [1]
    macs = sum(4 * widths[i] * 128 * encoder[i] * freqs[i + 1] for i in range(7))
    # Each input position of a transposed convolution meets all the taps.
    macs += sum(4 * inputs[i] * outputs[i] * decoder[i] * freqs[7 - i] for i in range(7))
    memories = 4 * (2 * 128 * 128 + 20 * 128)  # two matrices and a filter, real and imaginary, both ways
    macs += memories * (sum(freqs[1:7]) + sum(freqs[1:7]) + 2)
    return 2 * macs


def test_operations_are_counted():
    assert macs_per_second(build("FRCRN").eval()) == pytest.approx(50 * frcrn_macs_per_frame(), rel=0.01)
    assert macs_per_second(build("CRUSE4-64-1xGRU4")) == 100 * build("CRUSE4-64-1xGRU4").macs_per_frame()


def test_counting_leaves_the_network_as_it_is():
    net = build("FRCRN").eval()
    before = net.unet.linear.conv_re.weight.clone()
    macs_per_second(net)
    assert torch.equal(net.unet.linear.conv_re.weight, before)


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\ntasks:\n- ans\nlicense: Apache License 2.0\n---\n# Card", "Apache License 2.0"),
        ('---\nlicense:\n- "mit"\n---', "mit"),
        ("Weights: safetensors.\nLicence of the weights: CC BY 4.0.\n", "CC BY 4.0"),
        ("# A card\n\nwithout a word.", None),
    ],
)
def test_licences(card, licence):
    assert card_licence(card) == licence


def test_tables_of_a_card():
    first = "# A\n\ntwo lines\nof text\n\n| a | b |\n|:-|-:|\n| 1 | **2** |\n"
    card = f"{first}\n## B\n\na set (3 files)\n\n| c |\n|---|\n| 3 |"
    assert [(table.heading, table.rows) for table in card_tables(card)] == [
        ("A", [["a", "b"], ["1", "2"]]),
        ("B: a set (3 files)", [["c"], ["3"]]),
    ]


def test_the_released_model(frcrn_folder):
    found = describe(frcrn_folder)
    assert found.parameters == 13_141_844
    assert found.latency_ms is None
    assert found.weights.file == "pytorch_model.bin"


def test_a_causal_frcrn(tmp_path):
    configuration = json.loads((ROOT / "configuration.json").read_text())
    configuration["model"]["causal"] = True
    (tmp_path / "configuration.json").write_text(json.dumps(configuration))
    found = describe(tmp_path)
    assert (found.architecture, found.causal) == ("FRCRN (causal)", True)
    assert 20 <= found.latency_ms <= 60
    assert found.macs_per_second == pytest.approx(50 * frcrn_macs_per_frame(), rel=0.02)


def test_a_dual_path_network(tmp_path):
    configuration = json.loads((DEFAULT / "configuration.json").read_text())
    configuration["model"] = {"type": CRUSE_TYPE, "name": "DualPath-T"}
    (tmp_path / "configuration.json").write_text(json.dumps(configuration))
    found = describe(tmp_path)
    assert (found.architecture, found.causal) == ("DualPath-T (mixer matrix, causal)", True)
    assert "Dual-path RNN" in found.paper


def test_an_onnx_file(tmp_path, capsys):
    pytest.importorskip("onnx")
    path = tmp_path / "step.onnx"
    assert main(["export", "-q", "-o", str(path)]) == 0
    found = describe(path)
    assert found.architecture == "CRUSE4-64-1xGRU4, ONNX: steps and their state"
    assert (found.latency_ms, found.attenuation_limit_db, found.parameters) == (32, 42, None)
    capsys.readouterr()
    assert main(["info", str(path)]) == 0
    assert capsys.readouterr().out.count("unknown for an ONNX file") == 2
    (tmp_path / "bad.onnx").write_text("no")
    assert main(["info", str(tmp_path / "bad.onnx")]) == 1
    assert "not an ONNX file, or damaged" in capsys.readouterr().err
