"""Scores, tables, the gate and the command `evaluate`; the metrics of ModelScope's trainers."""

import csv
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
import soundfile
from conftest import RATE, SHARED
from processes import python

from modelscope_ext import evaluation, metrics
from modelscope_ext.audio import AudioError
from modelscope_ext.cli import main
from modelscope_ext.data.pairs import Pair, find_pairs
from modelscope_ext.evaluation import Evaluation, evaluate, regression_gate, to_markdown

FAST = ("si_sdr", "stoi")


@pytest.fixture
def folder(tmp_path, clean, noisy):
    """Three pairs: one with two channels at another rate, one in a subfolder with different suffixes."""
    for side, audio in (("noisy", noisy), ("clean", clean)):
        (tmp_path / side / "deep").mkdir(parents=True)
        soundfile.write(tmp_path / side / "a.wav", audio[:32000], RATE)
        soundfile.write(tmp_path / side / "b.wav", np.tile(audio[32000:80000, None], (1, 2)), 48000)
        suffix = "flac" if side == "noisy" else "wav"
        soundfile.write(tmp_path / side / "deep" / f"c.{suffix}", audio[80000:], RATE)
    return tmp_path


def half(audio, rate):
    assert rate == RATE
    return audio / 2


def command(*arguments):
    return main(["evaluate", "-q", "--workers", "1", *map(str, arguments)])


def made_up(name, **columns):
    """Return an evaluation of files 0, 1, …"""
    files = zip(*columns.values(), strict=True)
    return Evaluation(name, {str(i): dict(zip(columns, row, strict=True)) for i, row in enumerate(files)}, {})


# Pairs


def test_pairs_of_equal_names(folder):
    pairs = find_pairs(folder)
    assert [pair.name for pair in pairs] == ["a.wav", "b.wav", "deep/c.flac"]
    names = "deep/c.flac", "deep/c.wav"
    assert pairs[2] == Pair(folder / "noisy" / names[0], folder / "clean" / names[1], names)
    for old, new in zip(pairs, find_pairs(folder, folder / "clean"), strict=True):
        assert (new.name, new.noisy, new.clean) == (old.name, old.clean, old.clean)


@pytest.mark.parametrize("flat", [True, False])
def test_pairs_in_dns_layout(tmp_path, clean, flat):
    names = ["noisy_fileid_7.wav", "room_snr5_tl-22_fileid_70.wav"]
    references = ["clean_fileid_7.wav", "clean_fileid_70.wav"]
    for i, name in enumerate([*names, *references]):
        path = tmp_path / name if flat else tmp_path / ("noisy", "clean")[i >= 2] / name
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, clean[16000:24000], RATE)
    if flat:
        soundfile.write(tmp_path / "noise_fileid_7.wav", clean[:8000], RATE)
    assert [(pair.name, pair.clean.name) for pair in find_pairs(tmp_path)] == list(zip(names, references, strict=True))


def test_all_bad_pairs_are_named_and_cost_their_own_scores_alone(folder, clean, tmp_path, capsys):
    noisy, reference = folder / "noisy", folder / "clean"
    audio = clean[:16000]

    def write(name, first=audio, second=audio, rates=(RATE, RATE)):
        soundfile.write(noisy / name, first, rates[0], "FLOAT")
        soundfile.write(reference / name, second, rates[1], "FLOAT")

    write("short.wav", first=audio[:-1])
    write("rate.wav", rates=(RATE, 8000))
    write("nan.wav", first=np.where(np.arange(16000) == 99, np.nan, audio))
    write("silent.wav", second=np.full(16000, 0.1, np.float32))
    write("empty.wav", audio[:0], audio[:0])
    (noisy / "text.wav").write_text("no audio")
    soundfile.write(reference / "text.wav", audio, RATE)
    soundfile.write(noisy / "left.wav", audio, RATE)
    soundfile.write(reference / "right.wav", audio, RATE)
    soundfile.write(reference / "a.flac", audio, RATE)
    files = {"--json": tmp_path / "o.json", "--csv": tmp_path / "o.csv"}
    assert command("--pairs", folder, "--metrics", "si_sdr", *(each for pair in files.items() for each in pair)) == 1
    assert "noisy: 9 file(s) could not be scored" in capsys.readouterr().err
    (system, _) = json.loads(files["--json"].read_text())["systems"]
    assert list(system["files"]) == ["b.wav", "deep/c.flac"]
    assert len(system["failed"]) == 9
    assert f"{noisy}/left.wav,noisy,\n" in files["--csv"].read_text()
    with pytest.raises(AudioError) as caught:
        find_pairs(folder)
    lines = str(caught.value).splitlines()
    assert f"{folder}: 9 problem(s)" in lines[0]
    for line, message in zip(
        sorted(line.strip() for line in lines[1:]),
        (
            f"{reference}/empty.wav: empty",
            f"{reference}/right.wav: has no noisy file",
            f"{reference}/silent.wav: silent",
            f"{noisy}/a.wav: has several clean files: {reference}/a.flac, {reference}/a.wav",
            f"{noisy}/left.wav: has no clean file",
            f"{noisy}/nan.wav: has NaN or infinite samples",
            f"{noisy}/rate.wav: 16000 Hz, but {reference}/rate.wav 8000 Hz",
            f"{noisy}/short.wav: 15999 samples, but {reference}/short.wav 16000",
            f"{noisy}/text.wav: not readable as audio",
        ),
        strict=True,
    ):
        assert line.startswith(message), line


def test_enhanced_files_are_checked(folder, tmp_path_factory, noisy):
    enhanced = tmp_path_factory.mktemp("enhanced")
    soundfile.write(enhanced / "a.flac", noisy[:31999], RATE)
    soundfile.write(enhanced / "b.wav", noisy[32000:80000], RATE)
    with pytest.raises(AudioError) as caught:
        find_pairs(folder, enhanced)
    message = str(caught.value)
    assert f"{enhanced}/a.flac: 31999 samples, but {folder}/clean/a.wav 32000" in message
    assert f"{enhanced}/b.wav: 16000 Hz, but {folder}/clean/b.wav 48000 Hz" in message
    assert f"{folder}/noisy/deep/c.flac: has no enhanced file in {enhanced}" in message
    with pytest.raises(AudioError, match="none: no such folder"):
        find_pairs(folder, enhanced / "none")
    with pytest.raises(AudioError, match="holds no pairs"):
        find_pairs(enhanced)


# Scores


def test_scores_cover_whole_utterances(folder, clean, noisy):
    found = evaluate(folder, half, ("stoi", "wb_pesq", "si_sdr"))
    assert not found.failed
    assert found.metrics == ["wb_pesq", "stoi", "si_sdr"]
    a = found.rows["a.wav"]
    first, second = (
        soundfile.read(folder / side / "a.wav", dtype="float32")[0] for side in ("noisy", "clean")
    )  # in 16 bits
    assert a["wb_pesq"] == pytest.approx(metrics.pesq(first / 2, second))
    assert a["si_sdr"] == pytest.approx(metrics.si_sdr(first, second))  # independent of the level
    c = found.rows["deep/c.flac"]
    assert c["stoi"] == pytest.approx(metrics.stoi(noisy[80000:], clean[80000:]), abs=0.01)
    values = [row["si_sdr"] for row in found.rows.values()]
    summary = found.summary()["si_sdr"]
    assert (summary.mean, summary.count) == (pytest.approx(np.mean(values)), 3)
    low, high = scipy.stats.t.interval(0.95, 2, np.mean(values), scipy.stats.sem(values))
    assert (summary.mean - summary.half_width, summary.mean + summary.half_width) == pytest.approx((low, high))


def test_another_rate_is_resampled_to_16_khz(folder):
    lengths = []
    evaluate(folder, lambda audio, rate: lengths.append(len(audio)) or audio, ("si_sdr",))
    assert lengths[:2] == [32000, 16000]


@pytest.mark.slow
def test_several_processes_give_the_same_scores(folder, denoiser):
    one, two = (evaluate(folder, denoiser, FAST, workers) for workers in (1, 2))
    assert one.rows.keys() == two.rows.keys()
    for file, row in one.rows.items():
        assert two.rows[file] == pytest.approx(row, abs=1e-3)
    assert one.summary()["si_sdr"].mean > evaluate(folder, None, FAST).summary()["si_sdr"].mean + 1


def test_a_system_that_cannot_be_pickled_is_an_error(folder):
    with pytest.raises(ValueError, match="take workers=1"):
        evaluate(folder, lambda audio, rate: audio, FAST, workers=2)


@pytest.mark.parametrize(
    ("denoise", "reason"),
    [
        (lambda audio, rate: audio[1:], "need (32000,) floating point, got (31999,) float32"),
        (lambda audio, rate: (audio * 100).astype(np.int16), "got (32000,) int16"),
        (lambda audio, rate: audio / 0, "NaN or infinite"),
        (lambda audio, rate: soundfile.read("none.wav"), "none.wav"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_a_failure_affects_only_its_file(folder, denoise, reason, caplog):
    def sometimes(audio, rate):
        return denoise(audio, rate) if len(audio) == 32000 else audio

    found = evaluate(folder, sometimes, FAST, name="ours")
    assert list(found.failed) == ["a.wav"]
    assert reason in found.failed["a.wav"]
    assert all(math.isnan(value) for value in found.rows["a.wav"].values())
    assert found.summary()["stoi"].count == 2
    assert "a.wav: not scored" in caplog.text
    assert "SI-SDR of 1 file(s) (ours)" in to_markdown([found])


def crash_on_quiet(audio, rate):
    """Die with the process on one of the files."""
    if np.abs(audio).max() < 0.01:
        os._exit(11)
    return audio


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_crash_costs_its_file_alone(folder, workers):
    for side in ("noisy", "clean"):
        soundfile.write(folder / side / "quiet.wav", np.sin(np.arange(RATE)) * 1e-3, RATE)
    systems = {"quiet": (find_pairs(folder), crash_on_quiet)}
    found = evaluation.evaluate_systems(systems, ["si_sdr"], workers, apart=True)[0]
    assert list(found.failed) == ["quiet.wav"]
    assert "process died" in found.failed["quiet.wav"]
    assert all(np.isfinite(row["si_sdr"]) for name, row in found.rows.items() if name != "quiet.wav")
    assert len(found.rows) > 1


def test_a_metric_that_fails_costs_its_value_alone(folder, monkeypatch):
    def broken(estimate, reference, names):
        if "si_sdr" in names:
            raise KeyError("lost")
        return metrics.scores(estimate, reference, names)

    monkeypatch.setattr(evaluation, "scores", broken)
    found = evaluate(folder, None, ["stoi", "si_sdr"])
    assert all(math.isnan(row["si_sdr"]) and row["stoi"] > 0 for row in found.rows.values())
    assert all("si_sdr: 'lost'" in reason for reason in found.failed.values())


def test_wrong_arguments(folder):
    with pytest.raises(ValueError, match="unknown metric 'cd'; known are wb_pesq"):
        evaluate(folder, None, ["cd"])
    with pytest.raises(ValueError, match="no metric"):
        evaluate(folder, None, [])
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        evaluate(folder, None, FAST, 0)
    with pytest.raises(ValueError, match="no pairs"):
        evaluate([], None, FAST)
    pair = find_pairs(folder)[0]
    with pytest.raises(ValueError, match=r"several pairs share one name: a\.wav"):
        evaluate([pair, pair], None, FAST)


def test_every_score_has_a_column_and_a_margin():
    assert tuple(evaluation.COLUMNS) == metrics.SCORES
    assert evaluation.MARGINS.keys() == evaluation.COLUMNS.keys()


def test_tables():
    nan = math.nan
    noisy = made_up("noisy", wb_pesq=[1.0, 2.0, nan], stoi=[90.0, 90.0, 90.0], p808=[nan] * 3)
    ours = made_up("model", wb_pesq=[2.0, nan, nan], stoi=[95.0, 96.0, 97.04], p808=[nan] * 3)
    spread = scipy.stats.t.ppf(0.975, 1) * 0.5
    assert to_markdown([noisy, ours]).splitlines() == [
        "| | WB-PESQ | STOI % | P.808 |",
        "|---|---:|---:|---:|",
        f"| noisy | 1.50 ± {spread:.2f} | 90.0 ± 0.0 | – |",
        "| model | 2.00 | 96.0 ± 2.5 | – |",
        "",
        "Without a value, and left out of the means: WB-PESQ of 1 file(s) (noisy), P.808 of 3 file(s) (noisy), "
        "WB-PESQ of 2 file(s) (model), P.808 of 3 file(s) (model).",
    ]


# The gate


def test_the_gate_reports_each_loss():
    before = made_up("before", wb_pesq=[2.0, 3.0], stoi=[90.0, 92.0], si_sdr=[5.0, 7.0])
    after = made_up("after", wb_pesq=[1.9, 2.86], stoi=[89.7, 91.7], si_sdr=[9.0, 9.0])
    assert regression_gate(before, before) == regression_gate(after, after) == []
    assert regression_gate(before, after) == ["WB-PESQ fell by 0.12 (limit 0.05): 2.50 to 2.38 over 2 files"]
    assert regression_gate(before, after, {"wb_pesq": 0.2}) == []
    assert regression_gate(before, after, {"stoi": 0.2}) == [
        "STOI fell by 0.3 % (limit 0.2): 91.0 to 90.7 over 2 files"
    ]
    assert regression_gate(before, after, {"si_sdr": -3.5}) == [
        "SI-SDR fell by -3 dB (limit -3.5): 6.00 to 9.00 over 2 files"
    ]


def test_the_gate_compares_file_by_file():
    """A file with only one value is in neither mean; a lost value is reported."""
    nan = math.nan
    before = made_up("before", wb_pesq=[nan, 2.0, 4.0])
    after = made_up("after", wb_pesq=[1.0, 2.0, nan])
    assert regression_gate(before, after) == ["WB-PESQ is no longer defined for 1 of 3 files"]
    assert regression_gate(before, made_up("after", wb_pesq=[1.0, 2.0, 4.0])) == []
    assert len(regression_gate(before, made_up("after", wb_pesq=[nan] * 3))) == 1


def test_the_gate_refuses_evaluations_that_cannot_be_compared():
    before = made_up("before", wb_pesq=[2.0, 3.0])
    with pytest.raises(ValueError, match="different files"):
        regression_gate(before, made_up("after", wb_pesq=[2.0]))
    with pytest.raises(ValueError, match=r"no margin 1 for 'stoi': .* wb_pesq"):
        regression_gate(before, before, {"stoi": 1})
    with pytest.raises(ValueError, match="no margin nan"):
        regression_gate(before, before, {"wb_pesq": math.nan})


# The command


def test_the_command_prints_and_writes(folder, tmp_path, capsys):
    files = tmp_path / "out" / "all.json", tmp_path / "out" / "rows.csv"
    arguments = ["--enhanced", folder / "clean", "--metrics", "si_sdr,wb_pesq", "--json", files[0], "--csv", files[1]]
    assert command("--pairs", folder, *arguments) == 0
    printed = capsys.readouterr().out
    assert "3 files; mean over files ± half of the 95 % confidence interval (Student's t over files)" in printed
    assert "| | WB-PESQ | SI-SDR dB |" in printed
    assert "| enhanced | 4.64 ± 0.00 |" in printed
    written = json.loads(files[0].read_text())
    assert [one["name"] for one in written["systems"]] == ["noisy", "enhanced"]
    assert written["gate"] is None
    expected = evaluate(folder, None, ("wb_pesq", "si_sdr"))
    assert written["systems"][0]["files"] == {name: pytest.approx(row) for name, row in expected.rows.items()}
    assert written["systems"][0]["summary"]["si_sdr"]["mean"] == pytest.approx(expected.summary()["si_sdr"].mean)
    rows = list(csv.DictReader(files[1].open(newline="")))
    assert [(row["file"], row["system"]) for row in rows[:2]] == [("a.wav", "noisy"), ("b.wav", "noisy")]
    assert len(rows) == 6
    assert float(rows[0]["wb_pesq"]) == pytest.approx(expected.rows["a.wav"]["wb_pesq"], rel=1e-5)


def test_a_name_outside_utf_8_costs_nothing(folder, tmp_path):
    for side in ("noisy", "clean"):
        (folder / side / "a.wav").rename(folder / side / "a\udcff.wav")
    arguments = ["--enhanced", folder / "clean", "--metrics", "si_sdr", "--json", tmp_path / "o.json"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = ["-m", "modelscope_ext", "evaluate", "-q", "--workers", "1", "--pairs", folder, *arguments]
    done = subprocess.run([sys.executable, *command, "--csv", tmp_path / "o.csv"], env=environment, check=False)
    assert done.returncode == 0
    assert "a\udcff.wav" in json.loads((tmp_path / "o.json").read_text())["systems"][0]["files"]
    assert "a\\udcff.wav" in (tmp_path / "o.csv").read_text()


def test_no_value_is_null(folder, tmp_path, capsys):
    """PESQ and SI-SDR have no value, as the enhanced files are silent."""
    for pair in find_pairs(folder):
        target = tmp_path / "zeros" / pair.name
        target.parent.mkdir(parents=True, exist_ok=True)
        audio, rate = soundfile.read(pair.noisy)
        soundfile.write(target, audio * 0, rate)
    arguments = ["--enhanced", tmp_path / "zeros", "--metrics", "wb_pesq,si_sdr", "--json", tmp_path / "o.json"]
    assert command("--pairs", folder, *arguments, "--csv", tmp_path / "o.csv") == 0
    assert "| enhanced | – | – |" in capsys.readouterr().out
    silent = json.loads((tmp_path / "o.json").read_text(), parse_constant=pytest.fail)["systems"][1]
    assert silent["summary"]["wb_pesq"] == {"mean": None, "half": None, "count": 0}
    assert (tmp_path / "o.csv").read_text().splitlines()[-1] == "deep/c.flac,enhanced,,"


def test_the_command_refuses_a_worse_model(folder, tmp_path, capsys):
    """The packaged model is better than the unprocessed files, which the gate refuses."""
    arguments = ["--pairs", folder, "--enhanced", folder / "noisy", "--metrics", "si_sdr", "--baseline"]
    assert command(*arguments, "--json", tmp_path / "o.json") == 1
    shown = capsys.readouterr()
    assert "baseline: the model in this package" in shown.out
    assert "refused: SI-SDR fell by" in shown.err
    assert "dB (limit 0.5)" in shown.err
    assert json.loads((tmp_path / "o.json").read_text())["gate"][0] in shown.err
    assert command(*arguments, "--margin", "si_sdr=90") == 0
    assert command(*arguments, "--margin", "9") == 0  # ten times as much in dB
    assert command(*arguments, "--margin", "0.1", "--margin", "si_sdr=0.7") == 1
    assert "(limit 0.7)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--margin", "1"], "--margin needs a --baseline"),
        (["--baseline", "--margin", "much"], "takes a number or METRIC=NUMBER, got 'much'"),
        (["--baseline", "--margin", "cd=1"], "--margin cd=1: the metrics are wb_pesq"),
        (["--metrics", "cd"], "unknown metric 'cd'"),
        (["--model", "nowhere"], "nowhere"),
        (["--pairs", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_errors_of_the_command(folder, capsys, arguments, message):
    assert command("--pairs", folder, *arguments) == 1
    assert message in capsys.readouterr().err


def shortened(audio, rate):
    """Lose the end of some files."""
    return audio[: 32000 - 1]


def test_a_failed_file_fails_the_command(folder, monkeypatch, capsys):
    monkeypatch.setattr("modelscope_ext.cli.evaluate.Denoiser", lambda model, device: shortened)
    assert command("--pairs", folder, "--metrics", "si_sdr") == 1
    assert "model: 2 file(s) could not be scored" in capsys.readouterr().err


def test_a_missing_package_is_reported_first(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pesq", None)
    assert command("--pairs", folder) == 1
    assert "PESQ needs the package pesq: pip install 'modelscope-ext[metrics]'" in capsys.readouterr().err
    assert command("--pairs", folder, "--enhanced", folder / "noisy", "--metrics", "si_sdr") == 0


# Published scores


@pytest.mark.shared
@pytest.mark.slow
def test_published_scores_are_reproduced_to_the_digit(capsys):
    folder = SHARED / "data" / "pairs"
    assert command("--pairs", folder, "--enhanced", folder / "frcrn_published", "--workers", "2") == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    printed = {name: [cell.split(" ±")[0] for cell in cells] for name, *cells in rows}
    assert printed["noisy"] == ["1.67", "2.30", "89.8", "5.07", "3.01", "2.60", "2.37", "2.96"]
    assert printed["enhanced"] == ["2.81", "3.35", "94.4", "17.76", "3.49", "4.03", "3.22", "3.69"]


# Metrics of ModelScope's trainers


@pytest.mark.slow
def test_metrics_for_trainers():
    code = """
import pickle, numpy as np, soundfile, torch
from modelscope.metrics.audio_noise_metric import AudioNoiseMetric  # the stock one
from modelscope.metrics.builder import build_metric
from modelscope_ext import metrics
from modelscope_ext.plugin import metric
rng = np.random.default_rng(0)
def batch(size):
    outputs = {name: torch.tensor(rng.standard_normal()) for name in ("amp_loss", "phase_loss", "sisnr")}
    outputs["loss"] = outputs["amp_loss"] + outputs["phase_loss"] + outputs["sisnr"]
    return outputs, {"noisy": torch.zeros(size, 8), "clean": torch.zeros(size, 8)}
batches = [batch(3) for _ in range(4)]
stock, one, parts = AudioNoiseMetric(), build_metric("audio-noise-metric"), []
assert type(one) is metric.NoiseSuppressionMetric and type(stock) is not type(one)
for outputs, inputs in batches:
    stock.add(outputs, inputs)
    one.add(outputs, inputs)
    parts.append(build_metric({"type": "audio-noise-metric"}))
    parts[-1].add(outputs, inputs)
merged = pickle.loads(pickle.dumps(parts))
for other in merged[1:]:
    merged[0].merge(other)
expected = stock.evaluate()
for found in (one.evaluate(), merged[0].evaluate()):
    assert list(found) == list(expected) and all(type(value) is float for value in found.values())
    for name in ("avg_sisnr", "avg_loss"):
        assert abs(found[name] - expected[name]) < 1e-6, name
    assert found["total_loss"] == found["avg_loss"] and abs(expected["total_loss"] - 2 * expected["avg_loss"]) < 1e-5
outputs, inputs = batch(1)  # a short last batch
one.add(outputs, inputs)
mean = (12 * expected["avg_loss"] + outputs["loss"].item()) / 13
assert abs(one.evaluate()["avg_loss"] - mean) < 1e-6
# The mean over utterances does not depend on the batches
clean, noisy = (soundfile.read(f"examples/{name}.wav", dtype="float32")[0] for name in ("clean", "noisy"))
pairs = [(noisy[i : i + 32000], clean[i : i + 32000]) for i in (0, 32000)]
both, first, second = (build_metric("speech-quality") for _ in range(3))
stacked = [torch.from_numpy(np.stack(side)) for side in zip(*pairs)]
cut = 31800  # FRCRN omits an incomplete last frame
both.add({"wav_l2": stacked[0][:, :cut].requires_grad_()}, {"clean": stacked[1]})
for part, (estimate, target) in zip((first, second), pairs):
    part.add({"wav_l2": torch.from_numpy(estimate[None, :cut])}, {"clean": torch.from_numpy(target[None])})
first, second = pickle.loads(pickle.dumps((first, second)))
first.merge(second)
assert first.evaluate() == both.evaluate()
found = both.evaluate()
assert list(found) == ["wb_pesq", "nb_pesq", "stoi", "si_sdr"]
mean = np.mean([metrics.si_sdr(estimate[:cut], target[:cut]) for estimate, target in pairs])
assert abs(found["si_sdr"] - mean) < 1e-4
with_dnsmos = build_metric({"type": "speech-quality", "dnsmos": True})
with_dnsmos.add({"wav_l2": stacked[0][:1]}, {"clean": stacked[1][:1]})
assert list(with_dnsmos.evaluate())[4:] == ["sig", "bak", "ovrl", "p808"]
with_dnsmos.add({"wav_l2": stacked[0][:1] * 0}, {"clean": stacked[1][:1]})  # silence has no PESQ
assert with_dnsmos.evaluate()["wb_pesq"] == with_dnsmos.rows[0]["wb_pesq"]
try:
    both.add({"wav_l2": stacked[0][:1]}, {"clean": stacked[1]})
except ValueError as error:
    assert "(1, 32000) and (2, 32000)" in str(error)
else:
    raise AssertionError
"""
    python("-c", code)
