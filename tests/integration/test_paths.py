"""A `pathlib.Path` does what its text does, at every door that takes the name of a file or a folder."""

import json
import shutil

import pytest
import soundfile
import torch
from conftest import EXAMPLES, RATE
from helpers import CRUSE_CONFIG

from modelscope_ext import Denoiser, build
from modelscope_ext.checkpoint import load_model, load_weights, read_configuration, save_model
from modelscope_ext.data.corpus import load_corpus
from modelscope_ext.data.pairs import find_pairs
from modelscope_ext.data.prepare import prepare_mixtures, prepare_pairs
from modelscope_ext.data.rooms import load_rooms
from modelscope_ext.data.segments import to_segment
from modelscope_ext.evaluation import evaluate
from modelscope_ext.export import export_onnx
from modelscope_ext.info import describe
from modelscope_ext.models import CRUSE_TYPE
from modelscope_ext.report import collect, write_page
from modelscope_ext.training.config import load_config
from modelscope_ext.training.fine_tuning import fine_tune

NAME = "CRUSE2-8-1xGRU2"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with a model, its graph, pairs, rooms, a data set and a configuration."""
    place = tmp_path_factory.mktemp("paths")
    torch.manual_seed(0)
    net = build(NAME).eval()
    model = {"model": {"type": CRUSE_TYPE, "name": NAME}, "pipeline": {"type": CRUSE_TYPE}}
    save_model(net, place / "model", {"framework": "pytorch", "task": "acoustic-noise-suppression", **model})
    export_onnx(net, place / "model.onnx")
    for kind in ("noisy", "clean"):
        (place / "pairs" / kind).mkdir(parents=True)
        for number in range(2):
            audio = soundfile.read(EXAMPLES / f"{kind}.wav")[0][number * RATE : (number + 2) * RATE]
            soundfile.write(place / "pairs" / kind / f"{number}.wav", audio, RATE)
    (place / "train.json").write_text(json.dumps(CRUSE_CONFIG))
    prepare_pairs(place / "pairs" / "noisy", place / "pairs" / "clean", place / "data")
    return place


def files(folder):
    """Return the content of the files in a folder by name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def denoise(kind, place, out):
    Denoiser(kind(place / "model")).file(kind(place / "pairs/noisy/0.wav"), kind(out / "0.wav"))
    Denoiser(kind(place / "model.onnx")).file(kind(place / "pairs/noisy/0.wav"), kind(out / "1.wav"))
    return files(out)


def load(kind, place, out):
    net = load_model(kind(place / "model"))
    load_weights(net, kind(place / "model" / "model.safetensors"))
    save_model(net, kind(out / "copy"), read_configuration(kind(place / "model")))
    return files(out), describe(kind(place / "model")), describe(kind(place / "model.onnx"))


def export(kind, place, out):
    export_onnx(load_model(place / "model"), kind(out / "net.onnx"))
    return files(out)


def prepare(kind, place, out):
    clean, noisy = (kind(place / "pairs" / name) for name in ("clean", "noisy"))
    prepare_pairs(noisy, clean, kind(out / "pairs"))
    prepare_mixtures(clean, noisy, None, kind(out / "mixed"), count=2)
    return sorted(files(out)), files(out / "pairs" / "train")


def read(kind, place, out):
    corpus = load_corpus(kind(place / "pairs" / "clean"), kind(out))
    rows = to_segment({"noisy": [kind(place / "pairs/noisy/0.wav")], "clean": [kind(place / "pairs/clean/0.wav")]})
    rooms = load_rooms(kind(place / "pairs" / "clean"))
    return corpus.names, rows["noisy"], len(rooms), load_config(kind(place / "train.json"))


def score(kind, place, out):
    pairs = find_pairs(kind(place / "pairs"), kind(place / "pairs" / "noisy"))
    return evaluate(pairs, None, ["si_sdr"], progress=False).rows


def report(kind, place, out):
    sources = collect(kind(place / "pairs" / "noisy"), kind(place / "pairs" / "clean"))
    write_page(kind(out / "page.html"), sources, Denoiser(place / "model"), "model")
    return sorted(files(out))


def train(kind, place, out):
    options = {"train.max_epochs": 1, "train.train_iters_per_epoch": 1}
    fine_tune(kind(place / "model"), kind(place / "data"), kind(out / "run"), options, "cpu", progress=False)
    return sorted(name for name in files(out) if "events" not in name)


def pipeline(kind, place, out):
    from modelscope.pipelines import pipeline

    run = pipeline("acoustic-noise-suppression", model=kind(place / "model"), device="cpu")
    return run(kind(place / "pairs/noisy/0.wav"), output_path=kind(out / "0.wav")), files(out)


def trainer(kind, place, out):
    from modelscope.msdatasets import MsDataset
    from modelscope.trainers import build_trainer

    data = MsDataset.load(str(place / "data"), subset_name="train", split="train").to_hf_dataset()
    rows = data.map(to_segment, remove_columns=["duration"], batched=True)
    options = {"train_dataset": rows, "eval_dataset": rows, "max_epochs": 1, "train_iters_per_epoch": 1}
    arguments = {"model": kind(place / "model"), "work_dir": kind(out), "device": "cpu", **options}
    build_trainer(CRUSE_TYPE, default_args=arguments).train()
    return sorted(name for name in files(out) if "events" not in name)


DOORS = [denoise, load, export, prepare, read, score, report, train, pipeline, trainer]


@pytest.mark.slow
@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_a_path_does_what_its_text_does(place, tmp_path, door):
    found = []
    for kind in (lambda path: path, str):
        out = tmp_path / "out"  # the same name, which some results hold
        out.mkdir()
        found.append(repr(door(kind, place, out)))
        shutil.rmtree(out)
    assert found[0] == found[1]
