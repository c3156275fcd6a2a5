"""Python programs in processes of their own that start at once: they are forked from one that has imported torch.

Importing torch takes seconds of a core, and some hundred tests need a process. What reads the environment when it is
imported (modelscope, datasets, huggingface_hub, this package) is imported by the program itself.
"""

import multiprocessing
import os
import runpy
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
    """`python -c CODE …` or `python -m MODULE …`, with warnings for users as errors; what subprocess.run returns.

    Args:
        arguments: what python is given.
        cwd: where it runs.
        environment: variables that differ; None removes one.
        fails: whether it is to fail. Anything else fails the test, and shows what the program wrote.
        timeout: in seconds; then it is killed, and the test fails.
        started: is called with the process, to kill it for example.
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


class Background:
    """The same in the background, as far as tests need of `subprocess.Popen`: `pid`, `poll()`, `wait(seconds)`.

    Args:
        arguments: what python is given.
        messages: the file that it writes to.
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
        """What it ended with; None while it runs."""
        return self._process.exitcode

    def wait(self, seconds=None):
        """What it ends with, for which it has so long."""
        self._process.join(seconds)
        assert self.poll() is not None, f"still running after {seconds} s"
        return self.poll()


def _become(arguments, cwd, environment, *outputs):
    for number, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.path[:0] = ["", *environment["PYTHONPATH"].split(os.pathsep)]
    warnings.filterwarnings("error", category=UserWarning)
    kind, program, *sys.argv[1:] = arguments
    sys.argv[0] = kind
    if kind == "-m":
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        module = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(program, "<string>", "exec"), vars(module))
