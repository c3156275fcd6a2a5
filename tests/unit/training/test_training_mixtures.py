"""Training on mixtures, with a small network."""

import json

import pytest
import torch
from conftest import ROOT, SHARED
from helpers import CRUSE_CONFIG, assert_equal_states, log_rows, mixture_loop
from processes import python, run_ranks

from modelscope_ext import Denoiser
from modelscope_ext.checkpoint import load_model, read_configuration
from modelscope_ext.pretrained import DEFAULT
from modelscope_ext.training.config import load_config
from modelscope_ext.training.mixtures import schedule


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "train.json"
    path.write_text(json.dumps(CRUSE_CONFIG))
    return path


def weights(folder):
    state = torch.load(folder / "last.pt", weights_only=True)
    return {**state["net"], **{f"average.{name}": value for name, value in state["average"].items()}}


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (CRUSE_CONFIG["model"], "speech_cruse_ans_16k"),
        ({"name": "DualPath-T", "channels": 4, "inner_channels": 4, "blocks": 1}, "speech_dual_path_ans_16k"),
    ],
)
def test_the_best_model_is_a_model_folder(config, corpora, tmp_path, noisy, model, kind):
    config.write_text(json.dumps({**CRUSE_CONFIG, "model": model}))
    trainer = mixture_loop(config, corpora, tmp_path / "run")
    trainer.run()
    best = tmp_path / "run" / "best"
    assert Denoiser(best)(noisy, 16000).shape == noisy.shape
    described = json.loads((best / "configuration.json").read_text())
    assert described["training"]["steps"] in (4, 8)
    assert {described[section]["type"] for section in ("model", "pipeline", "preprocessor")} == {kind}
    assert any(path.name.startswith("events.out") for path in (tmp_path / "run").iterdir())


def test_training_lowers_the_loss(config, corpora, tmp_path):
    changed = {**CRUSE_CONFIG, "steps": 60, "batch": 4, "learning_rate": 3e-3}
    changed["validation"] = {**CRUSE_CONFIG["validation"], "every": 1000}
    config.write_text(json.dumps(changed))
    trainer = mixture_loop(config, corpora, tmp_path / "run")
    trainer.recipe.row_every = 10
    trainer.run()
    losses = [float(row["loss"]) for row in log_rows(tmp_path / "run")]
    assert losses[-1] < 0.8 * losses[0]


def test_batch_norm_keeps_its_statistics_after_a_while(config, corpora, tmp_path):
    config.write_text(json.dumps({**CRUSE_CONFIG, "norm_steps": 2}))
    trainer = mixture_loop(config, corpora, tmp_path / "run")

    def statistics():
        return [b.clone() for name, b in trainer.recipe.net.named_buffers() if "running" in name]

    before = statistics()
    trainer.run(2)
    moved = statistics()
    trainer.run(2)
    assert not any(torch.equal(a, b) for a, b in zip(before, moved, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(moved, statistics(), strict=True))
    averaged = [b for name, b in trainer.recipe.average.module.named_buffers() if "running" in name]
    assert all(torch.equal(a, b) for a, b in zip(moved, averaged, strict=True))


def test_a_run_of_an_older_version_continues(config, corpora, tmp_path):
    """Its checkpoint lacks newer settings, which had their defaults."""
    mixture_loop(config, corpora, tmp_path / "run").run(1)
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    known = json.loads(state["config"])
    del known["start"], known["loudness_weight"], known["data"]["mix"]["second_noise_share"]
    del known["data"]["max_speaker_share"]
    torch.save({**state, "config": json.dumps(known)}, tmp_path / "run" / "last.pt")
    assert mixture_loop(config, corpora, tmp_path / "run").done.step == 1


def test_training_begins_from_a_model(config, corpora, tmp_path):
    """The model of the package, by its name; a run that continues keeps its own weights."""
    inside = read_configuration(DEFAULT)["model"]
    options = {key: value for key, value in inside.items() if key != "type"}
    config.write_text(json.dumps({**CRUSE_CONFIG, "model": options, "start": "default"}))
    trainer = mixture_loop(config, corpora, tmp_path / "run")
    start = load_model(DEFAULT).state_dict()
    assert all(torch.equal(value, start[name]) for name, value in trainer.recipe.net.state_dict().items())
    trainer.run(1)
    assert any(not torch.equal(value, start[name]) for name, value in trainer.recipe.net.state_dict().items())
    again = mixture_loop(config, corpora, tmp_path / "run")
    assert_equal_states(trainer.recipe.net.state_dict(), again.recipe.net.state_dict())


def test_a_start_that_does_not_fit_is_an_error(config, corpora, tmp_path):
    config.write_text(json.dumps({**CRUSE_CONFIG, "start": "default"}))
    with pytest.raises(ValueError, match=r"cannot begin from default: CruseConfig.*another network"):
        mixture_loop(config, corpora, tmp_path / "run")
    config.write_text(json.dumps({**CRUSE_CONFIG, "start": str(tmp_path / "nothing")}))
    with pytest.raises(ValueError, match=r"cannot begin from .*nothing: .*configuration.json: no such file"):
        mixture_loop(config, corpora, tmp_path / "run")


def test_a_run_does_not_replace_the_model_that_it_begins_with(config, corpora, tmp_path):
    config.write_text(json.dumps({**CRUSE_CONFIG, "start": str(tmp_path / "run" / "best")}))
    with pytest.raises(ValueError, match=r"cannot begin from .*best: is read by this command and would be overwritten"):
        mixture_loop(config, corpora, tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stepz": 3}, "unknown key stepz; known are model, data"),
        ({"data": {"speech": {}, "noise": {}, "mix": {"snr": 3}}}, "unknown key data.mix.snr; known are seconds"),
        ({"data": 3}, "data. must be an object"),
    ],
)
def test_configurations_that_do_not_fit_are_errors(config, change, message):
    config.write_text(json.dumps({**CRUSE_CONFIG, **change}))
    with pytest.raises(ValueError, match=message):
        load_config(config)
    config.write_text(json.dumps({name: value for name, value in CRUSE_CONFIG.items() if name != "data"}))
    with pytest.raises(ValueError, match=r"missing 1 required .*'data'"):
        load_config(config)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"speech": {"speech": {"speaker": "one"}}}, "speech speech: needs a weight"),
        ({"noise": {"noise": {"weight": 1.0, "speaker": "one"}}}, "noise noise: .* weight, kind"),
        ({"noise": {"noise": {"weight": 1.0, "kind": "music"}}}, "one without a kind is needed"),
        ({"max_speaker_share": 0.3}, "2 speakers cannot fill"),
        ({"max_speaker_share": 0.3, "speech": {"speech": {"weight": 1.0, "speaker": "voices"}}}, "not 'voices'"),
        ({"rooms_left_out": ["room*"]}, "no impulse response"),
    ],
)
def test_data_that_cannot_be_as_configured_are_an_error(config, corpora, tmp_path, data, message):
    config.write_text(json.dumps({**CRUSE_CONFIG, "data": {**CRUSE_CONFIG["data"], "rooms": 0, **data}}))
    with pytest.raises(ValueError, match=message):
        mixture_loop(config, corpora, tmp_path / "run").run(1)


def test_learning_rate_warms_up_and_falls(config):
    loaded = load_config(config)
    shares = [schedule(loaded, step) for step in range(9)]
    assert shares[:6] == [1 / 2, 1, 1, 1, 1, 1]
    assert shares[5] > shares[6] > shares[7] > shares[8] == loaded.final_share


@pytest.mark.shared
@pytest.mark.parametrize("name", ["train_cruse", "fine_tune_cruse"])
def test_a_configuration_in_the_repository_fits_the_corpora(name):
    config = load_config(ROOT / "examples" / f"{name}.json")
    for folder in (*config.data.speech, *config.data.noise, config.validation.speech, config.data.room_folder):
        assert (SHARED / "data" / folder).is_dir()


SHARED_STEPS = """
import sys, torch
sys.path[:0] = sys.argv[4:]
from helpers import mixture_loop
torch.set_num_threads(1)
mixture_loop(*sys.argv[1:3], sys.argv[3]).run(4)
"""


@pytest.mark.slow
def test_two_processes_train_as_one(config, corpora, tmp_path):
    """The same batches, cut in two; only the first process writes."""
    config.write_text(json.dumps({**CRUSE_CONFIG, "model": {**CRUSE_CONFIG["model"], "batch_norm": False}}))
    arguments = ["-c", SHARED_STEPS, config, corpora]
    python(*arguments, tmp_path / "one", ROOT / "tests")
    run_ranks([*arguments, tmp_path / "two", ROOT / "tests"], tmp_path)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    for name in one:
        assert torch.allclose(one[name], two[name], rtol=1e-3, atol=1e-5), name


def test_a_batch_is_shared_evenly_or_not_at_all(config, corpora, tmp_path, monkeypatch):
    monkeypatch.setattr("modelscope_ext.training.mixtures.world_size", lambda: 3)
    with pytest.raises(ValueError, match="batch 2 cannot be shared evenly by 3 processes"):
        mixture_loop(config, corpora, tmp_path / "run")


def test_muon_makes_steps_of_equal_singular_values():
    from modelscope_ext.training.muon import Muon, orthogonalised

    values = torch.linalg.svdvals(orthogonalised(torch.randn(3, 24, 8) @ torch.diag(torch.logspace(-1, 1, 8))))
    assert values.min() > 0.5
    assert values.max() < 1.3
    weight = torch.nn.Parameter(torch.randn(2, 12, 4))  # two groups, three gates
    before = weight.detach().clone()
    weight.grad = torch.randn_like(weight)
    Muon([weight], lr=0.1, weight_decay=0.0).step()
    change = (before - weight.detach()).unflatten(1, (3, 4))
    assert torch.linalg.svdvals(change / (0.1 * 0.2 * 2)).sub(1).abs().max() < 0.5


def test_muon_leaves_the_outer_layers_and_all_vectors_to_adamw(config, corpora, tmp_path):
    trainer = mixture_loop(config, corpora, tmp_path / "run")
    adamw, muon = ({id(p) for g in o.param_groups for p in g["params"]} for o in trainer.recipe.optimizers)
    names = {name for name, parameter in trainer.recipe.net.named_parameters() if id(parameter) in muon}
    assert names == {
        "encoder.1.causal.conv.weight",
        "decoder.1.causal.conv.weight",
        "rnn.weight_ih_l0",
        "rnn.weight_hh_l0",
    }
    assert len(adamw) + len(muon) == len(list(trainer.recipe.net.parameters()))
    assert not adamw & muon
