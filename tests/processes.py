"""Python programs in processes that start at once: they are forked from one that has imported torch.

An import of torch takes seconds of a core, and some hundred tests need a process. Packages that read the environment
when they are imported (modelscope, datasets, huggingface_hub, this package) are imported by the program itself.
"""

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import types
import warnings
from pathlib import Path

ROOT = Path(__file__).parent.parent
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["torch.export", "torch.distributed", "pandas", "pyarrow", "aiohttp", "scipy.signal"])


def python(*arguments, cwd=ROOT, environment=None, fails=False, timeout=300, started=None):
    """Run `python -c CODE …` or `python -m MODULE …` with user warnings as errors, like `subprocess.run`.

    Args:
        arguments: of python.
        cwd: working directory.
        environment: variables that differ; None removes one.
        fails: True if the program has to fail. Otherwise a failure fails the test and shows the program's output.
        timeout: in seconds. Then the program is killed and the test fails.
        started: function that is called with the process, to kill it for example.
    """
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
    variables = {name: value for name, value in variables.items() if value is not None}
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / name) for name in ("out", "errors")]
        arguments = list(map(str, arguments))
        process = _FORKS.Process(target=_become, args=(arguments, str(cwd), variables, *paths))
        process.start()
        if started is not None:
            started(process)
        process.join(timeout)
        if hangs := process.exitcode is None:
            process.kill()
            process.join()
        out, errors = (Path(path).read_text() if Path(path).exists() else "" for path in paths)
    assert not hangs, errors
    assert (process.exitcode != 0) == fails, errors
    return subprocess.CompletedProcess(arguments, process.exitcode, out, errors)


def run_code(code, folder):
    """Run Python code with ModelScope's cache in a folder."""
    return python("-c", code, environment={"MODELSCOPE_CACHE": str(folder / "cache")})


def free_port():
    """Return a port that nothing listens at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def rank_environments():
    """Return the variables that torchrun sets for two processes of one training."""
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    return [where | {"RANK": str(rank)} for rank in range(2)]


def run_ranks(arguments, folder, timeout=300):
    """Run a program in two processes of one training, without torchrun; `folder` takes their messages."""
    ranks = [Background(arguments, folder / f"rank{i}", each) for i, each in enumerate(rank_environments())]
    for rank in ranks:
        assert rank.wait(timeout) == 0, rank.messages.read_text()[-3000:]


class Background:
    """A program in the background, with `pid`, `poll()` and `wait(seconds)` of `subprocess.Popen`.

    Args:
        arguments: of python.
        messages: file for its output.
        environment: variables that differ.
    """

    def __init__(self, arguments, messages, environment):
        self.messages = messages
        variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        paths = [str(messages)] * 2
        self._process = _FORKS.Process(target=_become, args=(list(map(str, arguments)), str(ROOT), variables, *paths))
        self._process.start()
        self.pid = self._process.pid

    def poll(self):
        """Return the exit code, None while it runs."""
        return self._process.exitcode

    def wait(self, seconds=None):
        """Return the exit code, for which the program has this many seconds."""
        self._process.join(seconds)
        assert self.poll() is not None, f"still running after {seconds} s"
        return self.poll()


def _become(arguments, cwd, environment, *outputs):
    for number, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    tempfile.tempdir = None  # what was imported before may have asked for it
    sys.path[:0] = ["", *environment["PYTHONPATH"].split(os.pathsep)]
    warnings.filterwarnings("error", category=UserWarning)
    kind, program, *sys.argv[1:] = arguments
    sys.argv[0] = kind
    if kind == "-m":
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        module = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(program, "<string>", "exec"), vars(module))
