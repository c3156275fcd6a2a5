"""A batch on Ray Data: on this computer or a cluster, from and to any storage that fsspec reads."""

import hashlib
import json
import logging
import os
import platform
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from modelscope_ext.atomic import remove_stale_temp_files
from modelscope_ext.audio import AudioError
from modelscope_ext.batch.manifest import Manifest, sha256
from modelscope_ext.batch.plan import Job, plan
from modelscope_ext.batch.storage import is_local, list_files, resolve, upload, version_tag
from modelscope_ext.hub import CONFIGURATION, RELEASED_WEIGHTS, WEIGHTS, model_folder
from modelscope_ext.inference.denoiser import Denoiser

#: Limits of the files that a worker takes at a time, and repeats if it is killed.
FILES, BYTES = 16, 2**26
RESULT_COLUMNS = ("reason", "warnings", "duration", "noise_fell_db", "seconds", "sha256", "result_size", "result_stamp")
#: A file that has killed so many workers is not given to another one.
MAX_CRASHES = 3


class Batch:
    """Files to denoise, without those that are done already.

    Args:
        inputs, output: of `plan`. The output is a folder.
        model: of `Denoiser`. Every machine needs a model folder under the same path.
        device: "cpu" or "cuda"; Ray gives each worker a core or a GPU of its own.
        loudness: of `Denoiser.file`.
        strength: `wet`, `attenuation_limit_db` and `band` of `Denoiser`.

    Attributes:
        jobs: that `run` will do.
        left_out: number of files that are done already.
        unreadable: reason for each folder or file that cannot be read, by its path.

    Raises:
        AudioError: there is nothing to do or two inputs would become one result.
        CheckpointError, ValueError: the model or an option cannot be used.
    """

    def __init__(
        self,
        inputs: Iterable[Path | str],
        output: Path | str,
        model: str | Path | None = None,
        device: str | None = None,
        loudness: float | None = None,
        **strength: Any,
    ) -> None:
        if device not in (None, "cpu", "cuda"):
            raise ValueError(f"Ray gives each worker its GPU: the device is cpu or cuda, got {device}")
        self.device = device
        self.unreadable: dict[str, str] = {}
        jobs = plan(inputs, output, self.unreadable, cluster=True)
        if isinstance(model, Path) or (model is not None and Path(model).exists()):
            model = Path(model).absolute()  # workers have another current folder
        denoiser = Denoiser(model, **strength)  # raises here if the model cannot be used
        self.settings = {
            "model": _fingerprint(model),
            "noisy_share": denoiser.dry_gain,
            "band": denoiser.band,
            "loudness": loudness,
        }
        self.worker = {"options": {"model": model, "device": device, **strength}, "settings": self.settings}
        fs, folder = resolve(output)
        if is_local(fs):
            for parent in {Path(folder, job.path).parent for job in jobs}:
                remove_stale_temp_files(parent)
        self.manifest, results = Manifest(fs, folder), list_files(fs, folder)
        self.jobs = [
            job for job in jobs if not self.manifest.is_done(job, self.settings, results.get(f"{folder}/{job.path}"))
        ]
        self.left_out = len(jobs) - len(self.jobs)

    def run(self, address: str | None = None, workers: int | None = None) -> Iterator[dict[str, Any]]:
        """Do the jobs and yield the row of each when the manifest has it.

        Ray replaces a killed worker and repeats its files. A file that kills every worker fails alone.

        Args:
            address: of a Ray cluster as for `ray.init`. The default is `RAY_ADDRESS` or this computer.
            workers: number of processes with a core or a GPU each. The default is all there are.

        Raises:
            ModuleNotFoundError: Ray is not installed.
            ValueError: the cluster cannot be reached or no worker can start.
        """
        if not self.jobs:
            return
        with _ray(address, workers) as resources, self.manifest:
            workers = workers or max(1, int(resources.get("GPU" if self.device == "cuda" else "CPU", 1)))
            for row in self._rows(make_blocks(self.jobs, workers), workers):
                self.manifest.append(row)
                yield row

    def _rows(self, blocks: list[list[Job]], workers: int) -> Iterator[dict]:
        import pyarrow
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # The counter is safest on this machine: without it the batch ends anyway.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        crashes = ray.remote(num_cpus=0, scheduling_strategy=here)(CrashCounter).remote()
        # as JSON: a column of strings takes no names outside UTF-8
        tables = [pyarrow.Table.from_pylist([{"job": json.dumps(asdict(job))} for job in block]) for block in blocks]
        dataset = ray.data.from_arrow(tables).map(
            Worker,
            fn_constructor_kwargs={**self.worker, "crashes": crashes},
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(blocks))),
            num_cpus=1,
            num_gpus=1 if self.device == "cuda" else None,
        )
        dataset.context.enable_progress_bars = dataset.context.print_on_execution_start = False
        try:
            for result in dataset.iter_rows():
                yield json.loads(result["row"])
        except ray.exceptions.RayError as error:
            reason = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
            raise ValueError(f"Ray gave up: {reason.strip()}") from error


class Worker:
    """A process of Ray with a model of its own.

    Args:
        options: arguments of `Denoiser`.
        settings: columns of each row; "model" is the SHA-256 that the model must have.
        crashes: handle of a `CrashCounter` actor or None.

    Raises:
        ValueError: the model cannot be used here or differs from the expected one.
    """

    def __init__(self, options: dict[str, Any], settings: dict[str, Any], crashes: Any = None) -> None:
        if _fingerprint(options["model"]) != settings["model"]:
            name = options["model"] or "the model in the package"
            raise ValueError(f"{name}: on {platform.node()} another one than where the batch was started")
        self.denoiser = Denoiser(**options)
        self.settings, self.crashes = settings, crashes

    def __call__(self, given: dict[str, str]) -> dict[str, str]:
        """Denoise the file of a `Job` given as JSON and return its manifest row as JSON."""
        start, job = time.perf_counter(), json.loads(given["job"])
        source, target = job["source"], job["target"]
        row = {"path": job["path"], "status": "failed", **dict.fromkeys(RESULT_COLUMNS)}
        row |= {"source": source, "size": job["size"], "stamp": job["stamp"], **self.settings}
        try:
            self._begin(job["path"])
            row |= self.denoise(source, target) | {"status": "done"}
        except Exception as error:  # storage raises classes of many libraries, and the other files go on
            reason = str(error) or type(error).__name__
            row["reason"] = reason if source in reason else f"{source}: {reason}"
        if self.crashes:
            self.crashes.end.remote(job["path"])
        return {"row": json.dumps({**row, "seconds": round(time.perf_counter() - start, 3)})}

    def _begin(self, path: str) -> None:
        """Raise AudioError if a file has killed too many workers."""
        if self.crashes:
            import ray

            if ray.get(self.crashes.begin.remote(path)) >= MAX_CRASHES:
                raise AudioError(f"{MAX_CRASHES} workers were killed by it, or beside it; is there memory enough?")

    def denoise(self, source: str, target: str) -> dict[str, Any]:
        """Denoise a URL into another and return columns of the row. Remote files pass through a temporary folder."""
        (source_fs, source_path), (target_fs, target_path) = resolve(source), resolve(target)
        with tempfile.TemporaryDirectory(prefix="modelscope-ext-") as folder:
            noisy, clean = Path(source_path), Path(target_path)
            if not is_local(source_fs):
                noisy = Path(folder, "in", noisy.name)
                noisy.parent.mkdir()
                source_fs.get_file(source_path, str(noisy))
            if not is_local(target_fs):
                clean = Path(folder, "out", clean.name)
            try:
                with _warnings() as warnings:
                    report = self.denoiser.file(noisy, clean, loudness=self.settings.get("loudness"))
            except AudioError as error:
                raise AudioError(str(error).replace(str(noisy), source).replace(str(clean), target)) from error
            with clean.open("rb") as file:
                digest = sha256(file)
            if not is_local(target_fs):
                upload(target_fs, clean, target_path)
        info = target_fs.info(target_path)
        result = {"sha256": digest, "result_size": info["size"], "result_stamp": version_tag(info)}
        result |= {"duration": round(report.seconds, 3), "noise_fell_db": report.noise_fell_db}
        texts = [text.replace(str(noisy), source).replace(str(clean), target) for text in warnings]
        return {"warnings": texts or None, **result}


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collect the package's warnings: what a worker logs is not seen where the batch was started."""
    found: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("modelscope_ext")
    log.addHandler(handler)
    try:
        yield found
    finally:
        log.removeHandler(handler)


class CrashCounter:
    """Number of workers that ended while they processed each file."""

    def __init__(self) -> None:
        self.open = Counter()

    def begin(self, path: str) -> int:
        """Note that a worker begins a file; return how many began it and did not end."""
        self.open[path] += 1
        return self.open[path] - 1

    def end(self, path: str) -> None:
        """Note that a worker has ended a file with or without success."""
        self.open[path] -= 1


def make_blocks(jobs: list[Job], workers: int) -> list[list[Job]]:
    """Return lists of jobs with the largest files first. Each list is for one worker.

    The lists are short: all workers have work to the end and little is lost with a worker.
    """
    files = max(1, min(FILES, len(jobs) // (4 * workers)))
    blocks: list[list[Job]] = []
    for job in sorted(jobs, key=lambda job: -(job.size or 0)):
        if not blocks or len(blocks[-1]) == files or sum(j.size or 0 for j in blocks[-1]) > BYTES:
            blocks.append([])
        blocks[-1].append(job)
    return blocks


@contextmanager
def _ray(address: str | None, workers: int | None) -> Iterator[dict[str, float]]:
    """Connect to a cluster or start one unless this process is connected; yield its resources."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves this computer unasked
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("--engine ray needs Ray: pip install 'modelscope-ext[ray]'") from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    connect = not ray.is_initialized()
    if connect:
        address = address or os.environ.get("RAY_ADDRESS") or "local"
        options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        if address == "local":  # only rows travel: the smallest store is enough
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
        if connect:
            ray.shutdown()


def _fingerprint(model: str | Path | None) -> str:
    """Return the SHA-256 over the files of a model."""
    if model is not None and Path(model).suffix.lower() == ".onnx":
        files = [Path(model)]
    else:
        folder = model_folder("file" if model is None else model)
        files = [folder / name for name in (CONFIGURATION, WEIGHTS, RELEASED_WEIGHTS)]
    digest = hashlib.sha256()
    for path in files:
        if path.is_file():
            with path.open("rb") as file:
                digest.update(f"{path.name if len(files) > 1 else ''} {sha256(file)}\n".encode())
    return digest.hexdigest()
