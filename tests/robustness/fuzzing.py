"""Inputs that nobody would send on purpose, and the promises that hold for all of them.

    python tests/robustness/fuzzing.py --count 10000 --seed 0          # a campaign
    python tests/robustness/fuzzing.py --door files --first 77 --count 1     # an input of it

Every door of the package is a function that makes the input of a number, sends it in, and returns the outcome: "done",
or the reason of a refusal. A broken promise is an AssertionError, or kills the process. Hypothesis makes arrays, also
for tests/robustness/test_fuzz.py. libFuzzer makes more sound files in tests/robustness/fuzz_files.py.
"""

import argparse
import os
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from fuzz_arrays import RATE, audio, check_array
from fuzz_commands import command, processes, stream
from fuzz_common import Models, patience
from fuzz_media import media
from fuzz_pipelines import pipeline
from fuzz_sounds import files
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

DOORS = {
    "files": files,
    "media": media,
    "command": command,
    "processes": processes,
    "stream": stream,
    "pipeline": pipeline,
}
#: How a campaign is shared out; processes take seconds each.
SHARES = {
    "arrays": 0.2,
    "files": 0.2,
    "media": 0.2,
    "command": 0.14,
    "processes": 0.01,
    "stream": 0.1,
    "pipeline": 0.15,
}
#: Bytes of memory beyond those at the start.
SPARE = 3 * 2**30


def array_campaign(models: Models, count: int, number: int, seen: Counter) -> None:
    profile = {"max_examples": count, "database": None, "deadline": None, "suppress_health_check": list(HealthCheck)}

    @seed(number)
    @settings(**profile)
    @given(audio(), RATE, st.integers(0, 99))
    def each(given, rate, share) -> None:
        engine = (
            models.by_onnx if share < 20 else models.frcrn if share == 20 and given.size < 2000 else models.denoiser
        )
        with patience():
            seen[check_array(engine, given, rate)] += 1

    each()


def send(door: str, models: Models, number: int, start: int = 0) -> str:
    """Return the outcome of the input of a number."""
    with tempfile.TemporaryDirectory() as folder, patience():
        before = Path.cwd()
        os.chdir(folder)  # sockets have short names
        try:
            return DOORS[door](models, np.random.default_rng((start, number)), Path(folder))
        finally:
            os.chdir(before)


def campaign() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=1000, help="inputs, of all doors together or of one [1000]")
    parser.add_argument("--seed", type=int, default=0, help="[0]")
    parser.add_argument("--door", choices=["arrays", *DOORS], help="one only")
    parser.add_argument("--first", type=int, default=0, help="number of the first input [0]")
    args = parser.parse_args()
    torch.set_num_threads(1)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE, resource.RLIM_INFINITY))
    failed, work = 0, Path(tempfile.mkdtemp())
    models = Models(work)
    for door, share in {args.door: 1.0}.items() if args.door else SHARES.items():
        seen, start, count = Counter(), time.monotonic(), round(args.count * share)
        if door == "arrays":
            array_campaign(models, count, args.seed, seen)
        for number in range(args.first, args.first + count) if door != "arrays" else ():
            print(f"\r{door} {number} ", end="", file=sys.stderr, flush=True)  # the last one before a crash
            try:
                seen[send(door, models, number, args.seed)] += 1
            except Exception as error:
                failed += 1
                print(f"\n{door} --seed {args.seed} --first {number}: {type(error).__name__}: {error}", flush=True)
        print(f"\n{door}: {sum(seen.values())} inputs in {time.monotonic() - start:.0f} s")
        for reason, times in seen.most_common():
            print(f"  {times:6d} {reason!r}", flush=True)
    shutil.rmtree(work)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(campaign())
