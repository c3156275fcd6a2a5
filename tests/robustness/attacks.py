"""Attacks on whole commands: crowds, kills, limits, files that change, disks that are slow, fail or are full.

    python tests/robustness/attacks.py                           # the names
    python tests/robustness/attacks.py sigterm together --count 200

Each attack yields an outcome for each blow. An outcome that begins with BROKEN is a broken promise of SECURITY.md. What
an attack finds becomes a test. Some attacks need Linux, a C compiler, Ray or the right to mount.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch
from attack_common import HERE, RATE, Command, arrange, environment, in_rounds, recordings, same, start
from fuzz_common import Models
from soak import soak

from modelscope_ext import Denoiser
from modelscope_ext.export import export_onnx

Outcomes = Iterator[str]


def many(work: Path, count: int) -> Outcomes:
    """Denoise a folder of tiny files, a thousandth of them damaged; memory must not grow with them."""
    recordings(work / "one", 1, 0.1)
    net = str(Models(work / "net").onnx)
    content, peaks = (work / "one" / "0.wav").read_bytes(), []
    for number in (count // 10, count):
        folder = work / f"in{number}"
        for file in range(number):
            path = folder / str(file // 500) / f"{file}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"text" if file % 1000 == 7 else content)
        bad, out = len(range(7, number, 1000)), work / f"out{number}"
        command = [sys.executable, "-m", "modelscope_ext", "denoise", "--model", net, str(folder), "-o", str(out)]
        with (work / "log").open("w+") as log:
            begun, process = time.monotonic(), subprocess.Popen(command, stderr=log, env=environment())
            _, status, used = os.wait4(process.pid, 0)
            log.seek(0)
            text = log.read()
        peaks.append(used.ru_maxrss / 1024)
        results = [path.stat().st_size for path in out.rglob("*") if path.is_file()]
        told = f"{number - bad} files done, 0 skipped, {bad} failed" in text and text.count("not readable") == bad
        good = results == [len(content)] * (number - bad) and told and os.waitstatus_to_exitcode(status) == 1
        took = 1000 * (time.monotonic() - begun) / number
        yield f"{'' if good else 'BROKEN '}{number} files, {took:.1f} ms each, {peaks[-1]:.0f} MB"
    if peaks[1] - peaks[0] > 2e-3 * count:  # 2 kB a file
        yield f"BROKEN memory grows with the files: {peaks} MB"


def _disturb(path: Path, other: bytes, rng: random.Random) -> None:
    """Change a file as other programs might."""
    kind = rng.choice(["cut", "grow", "replace", "remove", "overwrite", "empty"])
    if kind == "replace":
        path.with_suffix(".new").write_bytes(other)
        path.with_suffix(".new").replace(path)
    elif kind == "remove":
        path.unlink()
    elif path.exists():
        with path.open("rb+") as file:
            size = file.seek(0, 2)
            file.seek({"grow": size, "empty": 0}.get(kind, rng.randrange(size + 1)))
            if kind in ("cut", "empty"):
                file.truncate()
            else:
                file.write(rng.randbytes(9000))


def changing(work: Path, count: int) -> Outcomes:
    """Change or remove files while a folder is denoised; a file without a whole result must be named."""
    net, rng = Models(work / "net").folder, random.Random(0)
    for number in range(count):
        folder = work / str(number)
        source = recordings(folder / "in", 8, 8.0, rng.choice(["wav", "flac", "ogg", "mp3"]))
        files, out = sorted(source.iterdir()), folder / "out"
        other, lengths = files[0].read_bytes(), {soundfile.info(file).frames for file in files}
        command = Command(folder, "denoise", source, "--model", net, "-o", out)
        while command.process.poll() is None:
            if out.exists():
                file = rng.choice(files)
                if file.exists():
                    _disturb(file, other, rng)
            time.sleep(rng.uniform(0, 0.1))
        result, text = command.outcome(0, 1), command.process.messages.read_text()
        whole = {p.name for p in out.glob("[!.]*") if soundfile.info(p).frames in lengths} if out.exists() else set()
        silent = [file.name for file in files if file.name not in whole and f"{file.name}: " not in text]
        yield f"BROKEN {silent} without a word:\n{text}" if silent else result
        shutil.rmtree(folder)


def slow(work: Path, count: int) -> Outcomes:
    """Read from a disk with short and late reads, then from one whose reads fail now and then."""
    library, net = work / "slow.so", Models(work / "net").onnx
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, HERE / "slow_disk.c", "-ldl"], check=True)
    for suffix in ("wav", "flac", "ogg", "mp3"):
        for number in range(count):
            recordings(work / suffix / str(number), 1, 3.0 + number, suffix)
        command = [sys.executable, "-m", "modelscope_ext", "denoise", "--model", net, work / suffix, "-o"]
        subprocess.run([*command, work / "whole" / suffix], env=environment(), check=True, capture_output=True)
        for fails in ("", "40"):
            disk = {"LD_PRELOAD": str(library), "SLOW_FOLDER": str(work / suffix), "SLOW_FAILS": fails}
            out = work / f"out{fails}" / suffix
            done = subprocess.run([*command, out], env=environment(**disk), capture_output=True, text=True)
            for whole in sorted((work / "whole" / suffix).rglob("*.*")):
                name = f"{suffix}/{whole.relative_to(work / 'whole' / suffix)}: "
                result = out / whole.relative_to(work / "whole" / suffix)
                right = result.exists() and np.array_equal(*(soundfile.read(each)[0] for each in (result, whole)))
                told = name in done.stderr and "Traceback" not in done.stderr
                result = "told" if told and fails else f"BROKEN {name}{done.stderr}"
                yield f"{suffix}: {'right' if right else result}"


def together(work: Path, count: int) -> Outcomes:
    """Run each command twice at once onto one place, in two processes; the result is that of one run."""
    commands, context = arrange(work), multiprocessing.get_context("forkserver")
    del commands["info"]
    for name, arguments in commands.items():
        yield start(arguments, work / "alone" / name).outcome(0)
        place, barrier = work / name, context.Barrier(2)
        logs = [work / f"{name}-{each}.log" for each in range(2)]
        pair = [context.Process(target=in_rounds, args=(arguments, place, count, barrier, log)) for log in logs]
        for each in pair:
            each.start()
        for each in pair:
            each.join()
        texts = [log.read_text() for log in logs]
        for number in range(count):
            told = all(f"round {number} ended with 0" in text for text in texts)
            right = same(place / str(number), work / "alone" / name) and not list(place.rglob("*.half"))
            yield f"{'' if told and right else 'BROKEN '}{name}: twice the same"
        for broken in [text for text in texts if "Traceback" in text or text.count(" with 0") < count]:
            yield f"BROKEN {name}: {broken[-1500:]}"


def crowd(work: Path, count: int) -> Outcomes:
    """Start many commands at once, as many as there is memory for."""
    commands, source = arrange(work), recordings(work / "in", 1, 0.2) / "0.wav"
    kinds = [["denoise", source, "-o", "OUT"], ["--version"], commands["info"]]
    while count > 0:
        available = int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]) // 1024
        wave = min(count, available // 120)
        for each in [start(kinds[number % 3], work / f"{count}-{number}") for number in range(wave)]:
            yield each.outcome(0)
        yield f"waves of {wave}"
        count -= wave


def stream(work: Path, count: int) -> Outcomes:
    """Stream hours of audio on a cheap network in chunks of half a second, as fast as possible."""
    export_onnx(Models(work).folder, work / "blocks.onnx", blocks=True)
    run = soak(Denoiser(work / "blocks.onnx"), RATE, 60.0 * count, 500)
    grown, good = run.memory[-1] - run.memory[1], run.samples_in == run.samples_out and not run.lag
    good = good and run.difference < 1e-3 and grown < 4
    figures = f"{run.samples_out} samples, lag {run.lag}, differs by {run.difference:.1g}, grew by {grown:.1f} MiB"
    yield f"{'' if good else 'BROKEN '}{count} h: {figures}"


def sigterm(work: Path, count: int) -> Outcomes:
    """Send SIGTERM at random moments; then the same command ends with the result of an undisturbed run."""
    commands, rng = arrange(work), random.Random(0)
    del commands["info"]
    yield from _blows(work, commands, count, lambda: signal.SIGTERM, rng)


def kills(work: Path, count: int) -> Outcomes:
    """Kill a run on pairs with its gate at random moments; continued it ends as if undisturbed."""
    arrange(work)
    for kind in ("noisy", "clean"):
        recordings(work / "own" / kind, 12, 2.0)
    options = ["--epochs", 3, "--iterations", 2, "--batch", 2, "--split-by", "file", "--minutes", 60]
    own = [
        "train",
        "--data",
        work / "own",
        "--model",
        Models(work / "own-net").folder,
        *options,
        "--work-dir",
        "OUT/run",
    ]
    rng = random.Random(0)
    yield from _blows(work, {"train": own}, count, lambda: rng.choice([signal.SIGKILL, signal.SIGTERM]), rng)


def _blows(work: Path, commands: dict, count: int, number: Callable[[], int], rng: random.Random) -> Outcomes:
    """Interrupt commands again and again until they end by themselves, and compare what they leave."""
    took = {}
    for name, arguments in commands.items():
        begun = time.monotonic()
        yield f"undisturbed {start(arguments, work / 'alone' / name).outcome(0, 1)}"
        took[name] = time.monotonic() - begun
    for blow in range(count):
        name = list(commands)[blow % len(commands)]
        command, which = start(commands[name], work / name), number()
        time.sleep(rng.uniform(0, took[name]))
        if command.process.poll() is None:
            os.kill(command.process.pid, which)
        killed = which == signal.SIGKILL
        result = command.outcome(0, 1, -which, 128 + which)
        yield f"{name}: killed" if killed and command.process.poll() == -which else result
        if result.startswith(f"{name}: 0") and name != "train":
            shutil.rmtree(work / name)
    for name, arguments in commands.items():
        yield f"afterwards {start(arguments, work / name).outcome(0, 1)}"
        if not same(work / name, work / "alone" / name):
            yield f"BROKEN {name}: another result than undisturbed"


def limits(work: Path, count: int) -> Outcomes:
    """Run every command with less and less memory."""
    commands = arrange(work)
    for step in range(count):
        for name, arguments in commands.items():
            folder = work / f"{name}{step}"
            yield start(arguments, folder, limit=round(4e8 * 0.7**step)).outcome(0, 1)


def cluster(work: Path, count: int) -> Outcomes:
    """Kill workers of a batch on Ray, then fill its disk; a rerun does the rest."""
    source, disk = recordings(work / "in", 4 * count, 20.0), work / "disk"
    arguments = ["denoise", "-q", source, "--engine", "ray", "--workers", 2, "-o"]
    command = Command(work, *arguments, work / "out")
    while command.process.poll() is None and count:
        names = {path: (path / "cmdline").read_bytes() for path in Path("/proc").glob("[0-9]*") if path.exists()}
        workers = [int(path.name) for path, name in names.items() if name.startswith(b"ray::MapWorker(Map(Worker)).")]
        if workers:
            os.kill(random.choice(workers), signal.SIGKILL)
            count -= 1
        time.sleep(3)
    yield command.outcome(0)
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
    try:
        yield f"full disk {Command(work, *arguments, disk).outcome(1)}"
        subprocess.run(["mount", "-o", "remount,size=1g", disk], check=True)
        yield f"room again {Command(work, *arguments, disk).outcome(0)}"
        yield "same results" if same(work / "out", disk) else "BROKEN other results"
    finally:
        subprocess.run(["umount", disk], check=True)


def compiled(work: Path, count: int) -> Outcomes:
    """Compare each network with what torch.compile makes of it."""
    from modelscope_ext.models import build

    networks = [(name, kind) for name in ("CRUSE2-8-1xGRU2", "DualPath-T") for kind in ({}, {"bidirectional": True})]
    for name, kind in [*networks, ("FRCRN", {})][:count]:
        torch.manual_seed(0)
        net, audio = build(name, **kind).eval(), 0.1 * torch.randn(1, RATE // 4)
        compiled = torch.compile(net, backend="aot_eager")  # the compiler of C++ takes minutes
        with torch.no_grad():
            expected, found = (each(audio) for each in (net.enhance, torch.compile(net.enhance, backend="aot_eager")))
        pairs = zip(*(torch.utils._pytree.tree_leaves(each) for each in (expected, found)), strict=True)
        difference = max(float((one - other).abs().max()) for one, other in pairs if isinstance(one, torch.Tensor))
        expected, found = (Denoiser(each)(audio[0].numpy(), RATE) for each in (net, compiled))
        difference = max(difference, float(np.abs(found - expected).max()))
        yield f"{'' if difference < 1e-5 else 'BROKEN '}{name} {kind or ''}: {difference:.1g}"


#: Attack → its usual number of blows.
ATTACKS = {
    many: 20000,
    changing: 20,
    slow: 10,
    together: 100,
    crowd: 200,
    stream: 1,
    sigterm: 200,
    kills: 20,
    limits: 10,
}
ATTACKS |= {cluster: 3, compiled: 5}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    lines = [f"{attack.__name__}: {attack.__doc__} [{count}]" for attack, count in ATTACKS.items()]
    parser.epilog = "\n".join(lines)
    parser.add_argument("names", nargs="+", choices=[attack.__name__ for attack in ATTACKS], metavar="NAME")
    parser.add_argument("--count", type=int, help="blows, instead of the number in brackets")
    args, broken = parser.parse_args(), 0
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    for attack in (attack for attack in ATTACKS if attack.__name__ in args.names):
        begun, seen = time.monotonic(), Counter()
        with tempfile.TemporaryDirectory(prefix="attack-") as folder:
            for outcome in attack(Path(folder), args.count or ATTACKS[attack]):
                seen[outcome] += 1
                broken += outcome.startswith("BROKEN")
                print(f"{attack.__name__} {sum(seen.values())}: {outcome}", file=sys.stderr, flush=True)
        print(f"{attack.__name__}: {sum(seen.values())} outcomes in {time.monotonic() - begun:.0f} s")
        for outcome, times in seen.most_common():
            print(f"{times:6d} {outcome}", flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
