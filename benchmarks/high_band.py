"""Train the gains above 8 kHz (`modelscope_ext/inference/band_gains.py`) and write their ONNX file.

    python benchmarks/high_band.py DATA --work-dir WORK --out model.onnx

DATA has `speech48` and `noise48`. WORK keeps the mixtures and the state: the same command goes on where it was stopped.
Prints the measures of the validation mixtures, of voices and noises apart from the others: distance of logarithms above
8 kHz, noise left in pauses, level of speech, error relative to the speech; distance of clean speech.
"""

import argparse
import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from high_band_data import COLUMNS, FRAMES, prepared
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from modelscope_ext.inference.band_gains import HIDDEN, HIGH, LOW, BandGains, kept, log_energies

FEATURES, DENSE, MOST = 17, 32, np.float32(5)
MIXTURES, HELD = 1250, 80
STEPS, RATE, ROWS, LENGTH, SAVE = 200, 4e-3, 24, 400, 50
#: Weights of the terms of the loss, all in dB: attenuation in pauses, relative error, level of speech.
PAUSES, ERROR, LEVEL = 0.05, 0.5, 0.4
#: Added to the exponent's bias after the training: streams leave less in pauses, at hardly more distance.
LOWER = 0.25
#: Shares of the kinds of the network's output; `high_band_data.energies`.
KINDS = (0.5, 0.1, 0.2, 0.2)
#: Bands by their widths; those above 20 kHz count less.
WIDTHS = torch.tensor([1500, 1500, 2000, 2500, 2500, 2000, 600, 600]) / 12000
BELOW_20_KHZ = WIDTHS * (torch.arange(HIGH) < 6)
Energies = dict[str, np.ndarray]


class Net(nn.Module):
    """The network of `band_gains.py`, in PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(FEATURES, DENSE)
        self.gru = nn.GRU(DENSE, HIDDEN, batch_first=True)
        self.exponent = nn.Linear(HIDDEN, 1)
        self.dropout = nn.Dropout(0.1)

    def forward(self, parts: Energies) -> torch.Tensor:
        """Return the gains (rows, T, B)."""
        logs = logs_of(parts)
        found = torch.from_numpy(BandGains(len(logs)).features(logs))  # (rows, T, B, features)
        each = found.transpose(1, 2).flatten(0, 1)  # (rows * B, T, features)
        states = self.gru(self.dropout(torch.relu(self.dense(each))))[0]
        exponents = self.exponent(states).clamp(max=float(MOST)).exp()  # (rows * B, T, 1)
        share = torch.from_numpy(kept(logs))  # (rows, T, 1)
        return torch.exp(exponents.view(len(found), HIGH, -1).transpose(1, 2) * share)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the weights as in the graph, which has the update gate first; see ONNX's GRU."""
        gru, found = self.gru, {"dense": self.dense.weight.T, "dense_bias": self.dense.bias}
        into, hidden, *biases = (
            torch.cat([parts[1], parts[0], parts[2]])[None]
            for parts in (
                each.chunk(3) for each in (gru.weight_ih_l0, gru.weight_hh_l0, gru.bias_ih_l0, gru.bias_hh_l0)
            )
        )
        found |= {"gru": into, "gru_hidden": hidden, "gru_bias": torch.cat(biases, 1)}
        found |= {"exponent": self.exponent.weight.T, "exponent_bias": self.exponent.bias + LOWER}
        return {name: tensor.detach().numpy().astype(np.float16) for name, tensor in found.items()}


def graph(arrays: dict[str, np.ndarray]) -> onnx.ModelProto:
    """Return the graph that `band_gains.py` runs, steps 4 and 5 there: 16-bit weights that are made float32 first."""
    node, floats = helper.make_node, functools.partial(helper.make_tensor_value_info, elem_type=TensorProto.FLOAT)
    nodes = [node("Cast", [f"{name}_16"], [name], to=TensorProto.FLOAT) for name in arrays]
    nodes += [
        node("Transpose", ["features"], ["by_time"], perm=[1, 0, 2, 3]),  # (T, C, B, features)
        node("Shape", ["by_time"], ["shape"], start=0, end=3),
        node("Reshape", ["by_time", "rows"], ["x"]),  # (T, C * B, features)
        node("MatMul", ["x", "dense"], ["Ax"]),
        node("Add", ["Ax", "dense_bias"], ["Ax_a"]),
        node("Relu", ["Ax_a"], ["y"]),
        node(
            "GRU",
            ["y", "gru", "gru_hidden", "gru_bias", "", "hidden"],
            ["h", "new_hidden"],
            hidden_size=HIDDEN,
            linear_before_reset=1,
        ),
        node("MatMul", ["h", "exponent"], ["bh"]),
        node("Add", ["bh", "exponent_bias"], ["bh_c"]),
        node("Sub", ["most", "bh_c"], ["below"]),
        node("Relu", ["below"], ["at_least_0"]),
        node("Sub", ["most", "at_least_0"], ["least"]),
        node("Exp", ["least"], ["power"]),
        node("Reshape", ["power", "shape"], ["power_by_time"]),
        node("Transpose", ["power_by_time"], ["powers"], perm=[1, 0, 2]),
        node("Mul", ["powers", "kept"], ["log_gains"]),
        node("Exp", ["log_gains"], ["gains"]),
    ]
    constants = {f"{name}_16": array for name, array in arrays.items()}
    constants |= {"rows": np.array([0, -1, FEATURES]), "most": MOST}
    inputs = {"features": ["C", "T", HIGH, FEATURES], "kept": ["C", "T", 1], "hidden": [1, "R", HIDDEN]}
    outputs = {"gains": ["C", "T", HIGH], "new_hidden": [1, "R", HIDDEN]}
    model = helper.make_graph(
        nodes,
        "high_band",
        [floats(name, shape=shape) for name, shape in inputs.items()],
        [floats(name, shape=shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(model, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def split(rows: np.ndarray) -> Energies:
    """Return the columns by name; "cross" is the mean product of speech and noise instead of "mixture"."""
    parts = dict(zip(COLUMNS, np.split(rows, np.cumsum(list(COLUMNS.values()))[:-1], -1), strict=True))
    most = np.sqrt(parts["speech"] * parts["noise"])
    parts["cross"] = ((parts.pop("mixture") - parts["speech"] - parts["noise"]) / 2).clip(-most, most)
    return parts


def varied(parts: Energies, rng: np.random.Generator) -> Energies:
    """Return mixtures at other levels and of other spectra, some of less bandwidth."""
    rows = len(parts["all"])

    def curve(spread_db: float, bands: int = HIGH) -> np.ndarray:
        tilt = rng.normal(0, spread_db, (rows, 1)) * np.linspace(0, 1, bands)
        return 10 ** ((tilt + rng.normal(0, spread_db / 2, (rows, 1)) + rng.normal(0, 1.5, (rows, bands))) / 20)

    def below(share: float, least: int) -> np.ndarray:
        ends = np.where(rng.random(rows) < share, rng.integers(least, HIGH + least, rows), HIGH)
        return np.arange(HIGH) < ends[:, None]

    speech, noise = curve(5), curve(8) * below(0.2, 1)
    both = below(0.3, 1) + 1e-4
    as_it_is = rng.random((rows, 1)) < 0.3
    speech, noise = (np.where(as_it_is, 1, x)[:, None] for x in (speech * both, noise * both))
    gain, kinds = 10 ** (rng.uniform(-25, 5, (rows, 1, 1)) / 10), rng.choice(4, rows, p=KINDS)
    outputs = np.stack([parts[name] for name in ("after", "ideal", "half", "limited")])[kinds, np.arange(rows)]
    found = {"speech": speech**2 * parts["speech"], "noise": noise**2 * parts["noise"]}
    found |= {"cross": speech * noise * parts["cross"]}
    below_8_khz = curve(4, LOW)[:, None] ** 2
    found |= {"before": below_8_khz * parts["before"], "after": below_8_khz * outputs, "all": parts["all"]}
    return {name: np.float32(x * gain) for name, x in found.items()}


def logs_of(parts: Energies) -> np.ndarray:
    """Return the logarithms of energies from which the network's features come, as in use."""
    high = parts["speech"] + parts["noise"] + 2 * parts["cross"]
    return log_energies(np.concatenate((high.clip(0), parts["before"], parts["after"]), 2))


def _db(x: torch.Tensor) -> torch.Tensor:
    return 10 * torch.log10(x)


def terms(gains: torch.Tensor, parts: Energies) -> dict[str, torch.Tensor]:
    """Return the measures of each row for gains (rows, T, B); NaN where there is no speech or no pause."""
    speech, noise, cross, whole = (torch.from_numpy(parts[name]) for name in ("speech", "noise", "cross", "all"))
    mixed = (speech + noise + 2 * cross).clamp_min(0) + 1e-12
    out = gains.square() * mixed
    clean, put, got = ((x * BELOW_20_KHZ).sum(2) for x in (speech, mixed, out))
    floor = 1e-4 * clean.mean(1)[:, None, None] + 1e-9
    apart = torch.sqrt((_db((out + floor) / (speech + floor)).square() * WIDTHS).sum(2) + 0.1).mean(1)
    pauses = (whole < 1e-4 * whole.amax(1, keepdim=True)).float()[..., 0]
    least = 1e-5 * mixed.mean((1, 2))[:, None] + 1e-10
    fallen = (_db((got + least) / (put + least)) * pauses).sum() / (pauses.sum() + 1)
    left = _db(((got * pauses).sum(1) + 1e-9) / ((put * pauses).sum(1) + 1e-9))
    loud = (clean > 1e-3 * clean.amax(1, keepdim=True)).float()
    level = _db(((got * loud).sum(1) + 1e-9) / ((clean * loud).sum(1) + 1e-9))
    error = ((out - 2 * gains * (speech + cross) + speech) * BELOW_20_KHZ).sum(2).mean(1) / (clean.mean(1) + 1e-9)
    return {"apart": apart, "fallen": fallen, "left": left, "level": level, "error": error}


def loss_of(gains: torch.Tensor, parts: Energies) -> torch.Tensor:
    found, has_speech = terms(gains, parts), torch.from_numpy(parts["all"]).amax((1, 2)) > 1e-8
    level = found["level"].abs().clamp(max=15) * has_speech
    error = _db(found["error"].clamp(0, 10) + 0.003).mean()  # a clean recording must stay clean
    return found["apart"].mean() + PAUSES * found["fallen"] + ERROR * error + LEVEL * level.mean()


@torch.no_grad()
def validated(net: Net, parts: Energies) -> dict[str, float]:
    """Return means over mixtures of speech and noise, and the distance of clean speech."""
    found = terms(net.eval()(parts), parts)
    net.train()
    clean = torch.from_numpy(parts["noise"]).amax((1, 2)) < 1e-12
    both = (torch.from_numpy(parts["all"]).amax((1, 2)) > 1e-8) & ~clean
    means = {name: found[name][both].mean().item() for name in ("apart", "left", "level", "error")}
    return means | {"clean": found["apart"][clean].mean().item()}


def trained(net: Net, rows: np.ndarray, path: Path) -> Iterator[int]:
    """Train to the end, from the state in `path` if there is one; yield the steps when it is saved."""
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS, pct_start=0.1)
    rng, parts = np.random.default_rng(0), {"net": net, "optimizer": optimizer, "schedule": schedule}
    if path.exists():
        saved = torch.load(path, weights_only=False)
        rng = saved.pop("rng")
        for name, state in saved.items():
            parts[name].load_state_dict(state)
    for step in range(schedule.last_epoch + 1, STEPS + 1):
        chosen, start = rng.choice(len(rows), ROWS, replace=False), rng.integers(0, FRAMES - LENGTH + 1)
        batch = varied(split(rows[chosen, start : start + LENGTH]), rng)
        loss = loss_of(net(batch), batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % SAVE == 0 or step == STEPS:
            torch.save({name: part.state_dict() for name, part in parts.items()} | {"rng": rng}, path)
            yield step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    held = split(prepared(args.data, args.work_dir, HELD, valid=True))
    rows = prepared(args.data, args.work_dir, MIXTURES, valid=False)
    torch.manual_seed(0)
    net = Net()
    for step in trained(net, rows, args.work_dir / "state.pt"):
        print(step, {name: round(value, 2) for name, value in validated(net, held).items()}, flush=True)
    onnx.save(graph(net.arrays()), args.out)


if __name__ == "__main__":
    main()
