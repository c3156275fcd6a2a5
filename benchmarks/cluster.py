"""Speed and cost of Ray: one worker, two, and the local command, on the same files. Prints Markdown.

    OMP_NUM_THREADS=1 python benchmarks/cluster.py [--files 40] [--seconds 60] [--workers 1 2]

Speed and core time are differences between a fifth of the files and all of them, so that the start does not count; it
has a column of its own. Core time is that of all processes, the scheduler's too. Unlike the speed it means something on
a machine with other work.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EXAMPLE = Path(__file__).parent.parent / "examples" / "noisy.wav"
TICK = os.sysconf("SC_CLK_TCK")


def make_files(folder: Path, count: int, seconds: int) -> float:
    """Write files that repeat the example; return their seconds of audio together."""
    import numpy as np
    import soundfile

    audio, rate = soundfile.read(EXAMPLE, dtype="int16")
    audio = np.resize(audio, seconds * rate)
    folder.mkdir()
    soundfile.write(folder / "0.wav", audio, rate)
    for number in range(1, count):
        shutil.copy(folder / "0.wav", folder / f"{number}.wav")
    return float(count * seconds)


def core_seconds(root: int) -> float:
    """Return the CPU seconds of a process and all processes below it, with those that have ended."""
    used, parents = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(path.parent.name)] = int(fields[1])
        used[int(path.parent.name)] = sum(map(int, fields[11:15])) / TICK

    def below(pid: int) -> bool:
        return pid == root or (pid in parents and below(parents[pid]))

    return sum(seconds for pid, seconds in used.items() if below(pid))


def run(folder: Path, *options: str) -> tuple[float, float]:
    """Return the seconds until all files of a folder are done, and the seconds of cores."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "modelscope_ext", "denoise", str(folder), "-o", out, *options]
        begun, cores = time.perf_counter(), 0.0
        environment = {**os.environ, "RAY_worker_niceness": "0"}  # Ray's 15 is not comparable with the local command
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
            done = 0
            for line in process.stderr:
                if re.search(r" → ", line):
                    done, cores = done + 1, core_seconds(process.pid)
                    took = time.perf_counter() - begun
        if process.returncode or done != len(list(folder.iterdir())):
            raise SystemExit(f"{' '.join(command)}: {process.returncode}, {done} files")
    return took, cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=40)
    parser.add_argument("--seconds", type=int, default=60, help="of each file")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    print(f"{args.files} files of {args.seconds} s; load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print("| | start, s | s of audio a second | core seconds an hour of audio |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        few, all_files = Path(folder, "few"), Path(folder, "all")
        count = max(2, args.files // 5)
        short, long = make_files(few, count, args.seconds), make_files(all_files, args.files, args.seconds)
        engines = {"local": []} | {
            f"Ray, {n} worker{'s' * (n > 1)}": ["--engine", "ray", "--workers", str(n)] for n in args.workers
        }
        for name, options in engines.items():
            (few_s, few_cores), (all_s, all_cores) = run(few, *options), run(all_files, *options)
            speed = (long - short) / (all_s - few_s)
            cores = 3600 * (all_cores - few_cores) / (long - short)
            print(f"| {name} | {few_s - short / speed:.1f} | {speed:.1f} | {cores:.0f} |", flush=True)


if __name__ == "__main__":
    main()
