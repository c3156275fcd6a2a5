"""Compare the results and the speed of two checkouts on the same inputs. Prints Markdown.

    git archive COMMIT | tar -x -C /tmp/before
    OMP_NUM_THREADS=1 python benchmarks/compare.py /tmp/before . [--only file stream …] [--speed] [--rounds 5]

Each part runs in its own process for each checkout, by names and flags that both have. Results are compared by SHA-256;
recordings through FRCRN may differ by -90 dB and are decoded at most twice. The exit code is 1 if anything differs.
`--speed` compares processor times instead, before and after in turn.
"""

import argparse
import hashlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

RATE = 16000
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
CLI = [sys.executable, "-m", "modelscope_ext"]
TRAINING = {
    "model": {"name": "CRUSE2-8-1xGRU2", "mask": "complex"},
    "data": {"speech": {"speech": 1.0}, "noise": {"noise": 1.0}, "rooms": 0, "mix": {"seconds": 1.0}},
    "validation": {"speech": "speech", "noise": "noise", "pairs": 2, "seconds": 2.0, "every": 6},
    "steps": 12,
    "batch": 2,
    "warmup": 2,
    "workers": 0,
    "checkpoint_seconds": 0,
}


# Parts, each in a process of one checkout: name → digest or number.


def file(inputs: Path, output: Path) -> dict:
    names = ["noisy.wav", "noisy.flac", "stereo.flac"]
    subprocess.run([*CLI, "denoise", "-q", *(inputs / name for name in names), "-o", output], check=True)
    return {name: digest((output / name).read_bytes()) for name in names}


def stream(inputs: Path, output: Path) -> dict:
    found, denoiser = {}, make_denoiser()
    for name in ("noisy.wav", "stereo.flac"):
        audio, rate = soundfile.read(inputs / name, dtype="float32")
        running = denoiser.stream(rate, 1 if audio.ndim == 1 else audio.shape[1])
        parts = [running.feed(audio[i : i + rate // 100]) for i in range(0, len(audio), rate // 100)]
        found[name] = digest(np.concatenate([*parts, running.flush()]).tobytes())
    return found


def prepare(inputs: Path, output: Path) -> dict:
    data = ["--speech", inputs / "data/speech", "--noise", inputs / "data/noise", "--seed", "1", "--count", "6"]
    subprocess.run([*CLI, "prepare-data", "-q", *data, "--seconds", "2", "-o", output], check=True)
    return {str(p.relative_to(output)): digest(p.read_bytes()) for p in sorted(output.rglob("*")) if p.is_file()}


def export(inputs: Path, output: Path) -> dict:
    import onnxruntime

    found, rng = {}, np.random.default_rng(0)
    for name, model in {"CRUSE": None, "FRCRN": inputs / "frcrn"}.items():
        for kind in ("step", "utterance")[model is not None :]:
            path = output / f"{name}-{kind}.onnx"
            more = [*(["--utterance"] if kind == "utterance" else []), *(["--model", model] if model else [])]
            subprocess.run([*CLI, "export", "-q", *more, "-o", path], check=True)
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            given = {
                each.name: rng.standard_normal([n if isinstance(n, int) else 1 for n in each.shape]).astype(np.float32)
                for each in session.get_inputs()
            }
            if kind == "utterance":
                given["audio"] = rng.standard_normal((2, 5000)).astype(np.float32) / 20
            found[f"{name} {kind}"] = digest(b"".join(out.tobytes() for out in session.run(None, given)))
    return found


def train_mixtures(inputs: Path, output: Path) -> dict:
    (output / "train.json").write_text(json.dumps(TRAINING))
    options = ["--config", output / "train.json", "--data-dir", inputs / "data", "--work-dir", output / "work"]
    killed_and_resumed([*CLI, "train", "-q", *options], output / "work")
    return {"best": digest((output / "work/best/model.safetensors").read_bytes())}


def train_segments(inputs: Path, output: Path) -> dict:
    options = ["--data", inputs / "prepared", "--work-dir", output / "work", "--epochs", "3", "--iterations", "4"]
    killed_and_resumed([*CLI, "train", "-q", "--model", inputs / "cruse", *options, "--batch", "2"], output / "work")
    files = [path for path in (output / "work/output").rglob("*") if path.suffix in (".bin", ".safetensors")]
    return {"output": digest(b"".join(tensor_bytes(path) for path in sorted(files)))}


def frcrn_step(inputs: Path, output: Path) -> dict:
    """Return outputs and gradients of a training step."""
    import torch

    from modelscope_ext.checkpoint import load_model

    net = load_model(inputs / "frcrn").train()
    audio = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0)) / 10
    outputs = net.outputs(audio)
    sum(value.square().mean() for value in outputs.values()).backward()
    gradients = [p.grad for _, p in sorted(net.named_parameters()) if p.grad is not None]
    return {
        "outputs": digest(b"".join(outputs[name].detach().numpy().tobytes() for name in sorted(outputs))),
        "gradients": digest(b"".join(each.numpy().tobytes() for each in gradients)),
    }


def frcrn_long(inputs: Path, output: Path) -> dict:
    """Denoise a minute by FRCRN; count how often the file is decoded."""
    denoiser, frames, read = make_denoiser(inputs / "frcrn"), [], soundfile.SoundFile.read

    def counted(self, *arguments, **options):
        block = read(self, *arguments, **options)
        frames.append(len(block))
        return block

    soundfile.SoundFile.read = counted
    denoiser.file(inputs / "long.wav", output / "denoised.wav")
    return {"audio": str(output / "denoised.wav"), "decoded": sum(frames) / soundfile.info(inputs / "long.wav").frames}


PARTS = (file, stream, prepare, export, train_mixtures, train_segments, frcrn_step, frcrn_long)


# Parts of `--speed`: each returns the work to time.


def speed_file(inputs: Path) -> Callable[[], object]:
    denoiser, audio = make_denoiser(), noisy(inputs)
    return lambda: (denoiser(audio, RATE), denoiser(np.tile(audio, 3), 48000))


def speed_stream(inputs: Path, model: Path | None = None, rounds: int = 1) -> Callable[[], object]:
    stream, chunks = make_denoiser(model).stream(RATE), noisy(inputs).reshape(-1, 256)
    return lambda: [stream.feed(chunk) for _ in range(rounds) for chunk in chunks]


def speed_onnx_stream(inputs: Path) -> Callable[[], object]:
    return speed_stream(inputs, inputs / "cruse.onnx", 4)


def speed_frcrn(inputs: Path) -> Callable[[], object]:
    denoiser, audio = make_denoiser(inputs / "frcrn"), noisy(inputs)[: 3 * RATE]
    return lambda: denoiser(audio, RATE)


SPEED = (speed_file, speed_stream, speed_onnx_stream, speed_frcrn)


def make_denoiser(model: Path | None = None):
    from modelscope_ext import Denoiser  # of the checkout of this process

    return Denoiser(model)


def noisy(inputs: Path) -> np.ndarray:
    audio = soundfile.read(inputs / "noisy.wav", dtype="float32")[0]
    return audio[: len(audio) // 256 * 256]


def processor_time(work: Callable[[], object]) -> float:
    """Return the least processor time of some runs after a first one: disturbances only make runs slower."""
    took = []
    for _ in range(5):
        start = time.process_time()
        work()
        took.append(time.process_time() - start)
    return min(took[1:])


def killed_and_resumed(command: list, work: Path) -> None:
    """Kill a training at its first checkpoint, then run it to its end."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None and not (work.is_dir() and any(work.glob("*.p*t*"))):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def tensor_bytes(path: Path) -> bytes:
    """Return the tensors of a weights file, sorted by name."""
    import torch
    from safetensors.torch import load_file

    content = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    content = content.get("state_dict", content)  # a training checkpoint has more
    return b"".join(name.encode() + content[name].contiguous().numpy().tobytes() for name in sorted(content))


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def make_inputs(folder: Path) -> None:
    """Write audio and models for both checkouts; the first one makes the models."""
    import torch

    from modelscope_ext import build
    from modelscope_ext.checkpoint import save_model
    from modelscope_ext.export import export_onnx
    from modelscope_ext.pretrained import DEFAULT

    mixed, clean = (soundfile.read(EXAMPLES / f"{name}.wav", dtype="float32")[0] for name in ("noisy", "clean"))
    soundfile.write(folder / "noisy.wav", mixed, RATE)
    soundfile.write(folder / "noisy.flac", mixed, RATE)
    soundfile.write(folder / "stereo.flac", np.stack((mixed, clean), 1), 44100, "PCM_24")
    soundfile.write(folder / "long.wav", np.resize(mixed * np.linspace(0.2, 1, len(mixed)), 60 * RATE), RATE)
    for kind, audio in (("speech", clean), ("noise", mixed - clean)):
        (folder / "data" / kind).mkdir(parents=True)
        for i in range(3):
            soundfile.write(folder / "data" / kind / f"{i}.wav", audio[i * RATE : (i + 4) * RATE], RATE)
    for name, kind, net in (
        ("cruse", "speech_cruse_ans_16k", {"name": "CRUSE2-8-1xGRU2"}),
        ("frcrn", "speech_frcrn_ans_cirm_16k", {}),
    ):
        torch.manual_seed(0)
        built = build(**{"name": "FRCRN", **net}).eval()
        if name == "frcrn":  # sensitive squeezes make errors of their means visible
            for unet in (built.unet, built.unet2):
                for layer in (*unet.se_layers_enc, *unet.se_layers_dec):
                    for linear in (layer.fc_r[0], layer.fc_i[0], layer.fc_r[2], layer.fc_i[2]):
                        linear.weight.data *= 4
        configuration = json.loads((DEFAULT / "configuration.json").read_text())
        save_model(built, folder / name, {**configuration, "model": {"type": kind, **net}, "inference": {}})
    export_onnx(None, folder / "cruse.onnx")
    data = ["--speech", folder / "data/speech", "--noise", folder / "data/noise", "--count", "8", "--seconds", "2"]
    subprocess.run([*CLI, "prepare-data", "-q", *data, "-o", folder / "prepared"], check=True)


def in_checkout(checkout: Path, *arguments: object) -> dict:
    """Run this script as a process of a checkout; return its result."""
    env = os.environ | {"PYTHONPATH": str(checkout.resolve()), "PYTHONDONTWRITEBYTECODE": "1"}
    line = [sys.executable, __file__, "--part", *map(str, arguments)]
    done = subprocess.run(line, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def part(name: str, inputs: Path, output: Path) -> dict:
    """Run a part in this process."""
    if name == "inputs":
        return make_inputs(inputs) or {}
    if name == "speed_version":
        start = time.perf_counter()
        subprocess.run([*CLI, "--version"], check=True, stdout=subprocess.DEVNULL)
        return {"seconds": time.perf_counter() - start}
    if name.startswith("speed_"):
        return {"seconds": processor_time(globals()[name](inputs))}
    return globals()[name](inputs, output)


def same(before: object, after: object, key: str) -> tuple[bool, str]:
    if key == "decoded":
        return after <= 2, f"{before:.1f} → {after:.1f} times"
    if key == "audio":
        a, b = (soundfile.read(path, dtype="float64")[0] for path in (before, after))
        error = np.square(a - b).sum()
        db = 10 * np.log10(np.square(a).sum() / error) if error else np.inf
        return db >= 90, f"{db:.1f} dB"
    return before == after, "equal" if before == after else f"{before} ≠ {after}"


def compare_speed(names: list[str], checkouts: dict[str, Path], inputs: Path, rounds: int) -> None:
    print("| part | before, s | after, s | ratio of the medians | of the least |\n|---|---|---|---|---|")
    for name in [*names, "speed_version"]:
        took: dict[str, list[float]] = {"before": [], "after": []}
        for turn in range(rounds):
            for which in sorted(checkouts, reverse=bool(turn % 2)):
                took[which].append(in_checkout(checkouts[which], name, inputs, inputs)["seconds"])
        (a, least_a), (b, least_b) = ((statistics.median(took[w]), min(took[w])) for w in ("before", "after"))
        print(f"| {name} | {a:.2f} | {b:.2f} | {b / a:.3f} | {least_b / least_a:.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--only", nargs="+", choices=[each.__name__ for each in (*PARTS, *SPEED)], metavar="PART")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    checkouts, failed = {"before": args.before, "after": args.after}, False
    with tempfile.TemporaryDirectory() as name:
        inputs = Path(name) / "inputs"
        inputs.mkdir()
        in_checkout(args.before, "inputs", inputs, inputs)
        names = args.only or [each.__name__ for each in (SPEED if args.speed else PARTS)]
        if args.speed:
            return compare_speed(names, checkouts, inputs, args.rounds)
        print("| part | result | before and after |\n|---|---|---|")
        for each in names:
            found = {}
            for which, checkout in checkouts.items():
                output = Path(name) / which / each
                output.mkdir(parents=True)
                found[which] = in_checkout(checkout, each, inputs, output)
            for key in sorted(found["before"].keys() | found["after"].keys()):
                well, text = same(found["before"].get(key), found["after"].get(key), key)
                failed |= not well
                print(f"| {each} | {key} | {text}{'' if well else ' **differs**'} |", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--part"]:
        print(json.dumps(part(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))))
    else:
        main()
