"""A batch on Ray Data: on this computer or a cluster, from and to any storage that fsspec reads.

What was done stands in `manifest.jsonl` beside the results, a row (a line of JSON) a file:

path: of the result, below the output folder; source: URL; status: "done" or "failed"; reason: of a failure; duration:
of the audio in s; seconds: spent on it; sha256, result_size, result_stamp: of the result; size, stamp: of the source
when it was listed; model: SHA-256 over the model's files; noisy_share: of the input that is left in, which is all that
the settings come to.

A stamp is what the storage tells of a change without reading: an ETag or a checksum where it has one, else a time.
"""

import hashlib
import json
import logging
import os
import platform
import posixpath
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelscope_ext.atomic import remove_stale_temp_files
from modelscope_ext.audio import AudioError
from modelscope_ext.batch.storage import (
    HINT,
    Manifest,
    audio_below,
    is_local,
    listed,
    place,
    put_whole,
    sha256,
    stamp_of,
    url_of,
)

__all__ = ["Batch", "Deaths", "Worker"]

#: What a worker takes at a time and, killed, has to do again: a number of files, or their bytes if these are less.
FILES, BYTES = 16, 2**26
#: A file that has killed so many workers is not given to another one.
DEATHS = 3


class Batch:
    """Files that are to be denoised, and those of them that are done already.

    Args:
        inputs: audio files and folders of them: paths, or URLs that fsspec understands.
        output: folder for the results, likewise; the folders of the input are mirrored.
        model, device, wet, attenuation_limit_db: as of `Denoiser`. A model folder must be found on every machine; the
            device is "cpu" or "cuda", of which Ray gives each worker its own.

    Attributes:
        jobs: what `run` will do, a dictionary a file: path, source, size, stamp, as in the manifest, and target, a URL.
        left_out: how many files are done already.

    Raises:
        AudioError: nothing to do, or two inputs would become one result.
        CheckpointError, ValueError: the model or an option cannot be used.
        ModuleNotFoundError: fsspec or Ray is missing; `pip install 'modelscope-ext[ray]'` brings both.
    """

    def __init__(
        self,
        inputs: Iterable[Path | str],
        output: Path | str,
        model: str | Path | None = None,
        device: str | None = None,
        *,
        wet: float = 1.0,
        attenuation_limit_db: float | None = None,
    ) -> None:
        from modelscope_ext.inference.denoiser import Denoiser

        if device not in (None, "cpu", "cuda"):
            raise ValueError(f"Ray gives each worker its GPU: the device is cpu or cuda, got {device}")
        self.device = device
        self.output_fs, self.output = place(output)
        if self.output_fs.isfile(self.output):
            raise AudioError(f"{output}: is a file; with Ray the output is a folder")
        if isinstance(model, Path) or (model is not None and Path(model).exists()):
            model = Path(model).absolute()  # workers run elsewhere
        options = {"wet": wet, "attenuation_limit_db": attenuation_limit_db}
        self.worker = {"model": model, "device": device, **options, "expected": _fingerprint(model)}
        self.settings = {
            "model": self.worker["expected"],
            "noisy_share": Denoiser(model, **options).noisy_share,  # and what cannot be used is told here
        }
        jobs = self._plan(inputs)
        if is_local(self.output_fs):
            for folder in {posixpath.dirname(f"{self.output}/{job['path']}") for job in jobs}:
                remove_stale_temp_files(Path(folder))
        self.manifest = Manifest(self.output_fs, self.output)
        there = listed(self.output_fs, self.output)
        self.jobs = [job for job in jobs if not self._done(job, there.get(f"{self.output}/{job['path']}"))]
        self.left_out = len(jobs) - len(self.jobs)

    def run(self, address: str | None = None, workers: int | None = None) -> Iterator[dict[str, Any]]:
        """Does the jobs and gives their rows as they come; each stands in the manifest before.

        A worker that is killed is replaced, and its files are done again. A file that kills every worker that tries it
        fails, and no other with it.

        Args:
            address: of a Ray cluster, as `ray.init` takes it; None is what `RAY_ADDRESS` says, or else this computer.
            workers: processes, each with a core (or a GPU) and a model of its own; None: as many as there are.

        Raises:
            ValueError: the cluster cannot be reached, or no worker can begin.
        """
        if not self.jobs:
            return
        with _ray(address, workers) as resources, self.manifest:
            workers = workers or max(1, int(resources.get("GPU" if self.device == "cuda" else "CPU", 1)))
            jobs = sorted(self.jobs, key=lambda job: -(job["size"] or 0))  # or the end would wait for a large one
            for row in self._rows(_blocks(jobs, workers), workers):
                self.manifest.append(row)
                yield row

    def _rows(self, blocks: list[list[dict]], workers: int) -> Iterator[dict]:
        import pyarrow
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # Where the command runs: were this machine lost, all would be.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        deaths = ray.remote(num_cpus=0, scheduling_strategy=here)(Deaths).remote()
        dataset = ray.data.from_arrow([pyarrow.Table.from_pylist(block) for block in blocks]).map(
            Worker,
            fn_constructor_kwargs={**self.worker, "settings": self.settings, "deaths": deaths},
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(blocks))),
            num_cpus=1,
            num_gpus=1 if self.device == "cuda" else None,
        )
        context = dataset.context
        context.enable_progress_bars = context.print_on_execution_start = False
        try:
            for found in dataset.iter_rows():
                yield json.loads(found["row"])
        except ray.exceptions.RayError as error:
            reason = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
            raise ValueError(f"Ray gave up: {reason.strip()}") from error

    def _plan(self, inputs: Iterable[Path | str]) -> list[dict]:
        """All files; a plan in which a result would be lost is an error."""
        jobs: dict[str, dict] = {}
        for given in inputs:
            fs, root = place(given)
            if not fs.exists(root):
                raise AudioError(f"{given}: no such file")
            if fs.isdir(root):
                found = {name[len(root) :].lstrip("/"): info for name, info in audio_below(fs, root).items()}
                if url_of(fs, root) == url_of(self.output_fs, self.output):
                    raise AudioError(f"{given}: is the output folder")
                if inside := url_of(self.output_fs, self.output).partition(url_of(fs, root).rstrip("/") + "/")[2]:
                    found = {path: info for path, info in found.items() if not path.startswith(f"{inside}/")}
                if not found:
                    raise AudioError(f"{given}: no audio files in this folder")
            else:
                found = {posixpath.basename(root): fs.info(root)}
            for path, info in found.items():
                source, target = url_of(fs, info["name"]), url_of(self.output_fs, f"{self.output}/{path}")
                if path in jobs:
                    raise AudioError(f"{source} and {jobs[path]['source']} would both become {target}")
                if source == target:
                    raise AudioError(f"{target}: would overwrite its own input")
                if info.get("size") is None:  # some listings tell nothing
                    info = fs.info(info["name"])
                facts = {"size": info.get("size"), "stamp": stamp_of(info)}
                jobs[path] = {"path": path, "source": source, **facts, "target": target}
        return list(jobs.values())

    def _done(self, job: dict, result: dict | None) -> bool:
        """Whether source, model and settings are those of a row, and the result too, by its content if need be."""
        row = self.manifest.rows.get(job["path"])
        wanted = {key: job[key] for key in ("source", "size", "stamp")} | self.settings | {"status": "done"}
        if row is None or result is None or any(row.get(key) != value for key, value in wanted.items()):
            return False
        if result["size"] != row["result_size"]:
            return False
        if stamp_of(result) == row["result_stamp"]:
            return True
        with self.output_fs.open(result["name"], "rb") as file:
            return sha256(file) == row["sha256"]


class Worker:
    """What each of Ray's processes does, a file at a time; the model is loaded once.

    Args:
        model, device, wet, attenuation_limit_db: as of `Denoiser`.
        expected: what `model` must be, as in the manifest.
        settings: for the manifest's rows.
        deaths: an actor of that class; None where nobody counts them.

    Raises:
        ValueError: the model cannot be used here, or is another one.
    """

    def __init__(
        self,
        model: str | Path | None,
        device: str | None,
        wet: float,
        attenuation_limit_db: float | None,
        expected: str,
        settings: dict,
        deaths: Any = None,
    ) -> None:
        from modelscope_ext.inference.denoiser import Denoiser

        if _fingerprint(model) != expected:
            what = model or "the model in the package"
            raise ValueError(f"{what}: on {platform.node()} another one than where the batch was started")
        self.denoiser = Denoiser(model, device, wet=wet, attenuation_limit_db=attenuation_limit_db)
        self.settings, self.deaths = settings, deaths

    def __call__(self, job: dict[str, Any]) -> dict[str, str]:
        """Denoises a file of `Batch.jobs`; whatever happens becomes a row of the manifest, as JSON."""
        begun = time.perf_counter()
        empty = dict.fromkeys(("reason", "duration", "seconds", "sha256", "result_size", "result_stamp"))
        facts = {key: job[key] for key in ("source", "size", "stamp")}
        row = {"path": job["path"], "status": "failed", **empty, **facts, **self.settings}
        try:
            with self._counted(job["path"]):
                row |= self._denoise(job["source"], job["target"]) | {"status": "done"}
        except Exception as error:  # storage raises classes of many libraries, and the other files go on
            reason = str(error) or type(error).__name__
            row |= {"reason": reason if job["source"] in reason else f"{job['source']}: {reason}"}
        row["seconds"] = round(time.perf_counter() - begun, 3)
        return {"row": json.dumps(row)}

    @contextmanager
    def _counted(self, path: str) -> Iterator[None]:
        if not self.deaths:
            yield
            return
        import ray

        if ray.get(self.deaths.begin.remote(path)) >= DEATHS:
            raise AudioError(f"{DEATHS} workers were killed by it, or beside it; is there memory enough?")
        try:
            yield
        finally:
            self.deaths.end.remote(path)

    def _denoise(self, source: str, target: str) -> dict[str, Any]:
        (from_fs, from_path), (to_fs, to_path) = place(source), place(target)
        heard: list[float] = []
        with tempfile.TemporaryDirectory(prefix="modelscope-ext-") as folder:
            near, made = Path(from_path), Path(to_path)
            if not is_local(from_fs):
                near = Path(folder, "in", near.name)
                near.parent.mkdir()
                from_fs.get_file(from_path, str(near))
            if not is_local(to_fs):
                made = Path(folder, "out", made.name)
            try:
                self.denoiser.file(near, made, heard.append)
            except AudioError as error:
                raise AudioError(str(error).replace(str(near), source).replace(str(made), target)) from error
            with made.open("rb") as file:
                digest = sha256(file)
            if not is_local(to_fs):
                put_whole(to_fs, made, to_path)
        info = to_fs.info(to_path)
        result = {"sha256": digest, "result_size": info["size"], "result_stamp": stamp_of(info)}
        return {"duration": round(sum(heard), 3), **result}


class Deaths:
    """How many workers ended in the middle of each file."""

    def __init__(self) -> None:
        self.begun: dict[str, int] = {}

    def begin(self, path: str) -> int:
        """To be called before a file; how many did so and never came to its end."""
        self.begun[path] = self.begun.get(path, 0) + 1
        return self.begun[path] - 1

    def end(self, path: str) -> None:
        """To be called after it, whatever came of it."""
        self.begun[path] -= 1
        if not self.begun[path]:
            del self.begun[path]


def _blocks(jobs: list[dict], workers: int) -> list[list[dict]]:
    """Jobs that go to a worker together: few, so that all have work to the end, and little is lost with a worker."""
    files = max(1, min(FILES, len(jobs) // (4 * workers)))
    blocks: list[list[dict]] = []
    for job in jobs:
        if not blocks or len(blocks[-1]) == files or sum(j["size"] or 0 for j in blocks[-1]) > BYTES:
            blocks.append([])
        blocks[-1].append(job)
    return blocks


@contextmanager
def _ray(address: str | None, workers: int | None) -> Iterator[dict[str, float]]:
    """What a cluster has: the one that this process uses already, the one at an address, or one of its own."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves this computer unasked
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(HINT) from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    joined = not ray.is_initialized()
    if joined:
        address = address or os.environ.get("RAY_ADDRESS") or "local"
        options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        if address == "local":  # only rows travel, so the least store there is will do
            options |= {"num_cpus": workers, "include_dashboard": False, "object_store_memory": 10**8}
        try:
            if ":" in address:  # Ray itself would wait for minutes
                host, _, port = address.rpartition("/")[2].rpartition(":")
                socket.create_connection((host, int(port)), timeout=10).close()
            ray.init(address, **options)
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(f"no Ray cluster at {address}: {error}") from error
    try:
        yield ray.cluster_resources()
    finally:
        if joined:
            ray.shutdown()


def _fingerprint(model: str | Path | None) -> str:
    """SHA-256 over the files that make a model."""
    if model is not None and Path(model).suffix.lower() == ".onnx":  # without torch
        files = [Path(model)]
    else:
        from modelscope_ext.checkpoint import CONFIGURATION, RELEASED_WEIGHTS, WEIGHTS
        from modelscope_ext.hub import model_folder
        from modelscope_ext.pretrained import DEFAULT

        folder = model_folder(model if model is not None else DEFAULT)
        files = [folder / name for name in (CONFIGURATION, WEIGHTS, RELEASED_WEIGHTS)]
    digest = hashlib.sha256()
    for path in files:
        if path.is_file():
            with path.open("rb") as file:
                digest.update(f"{path.name if len(files) > 1 else ''} {sha256(file)}\n".encode())
    return digest.hexdigest()
