"""A `Denoiser` or a pipeline gives the same bytes in many threads and after a fork. Streams are not shared."""

import copy
import hashlib
import os
import pickle
import select
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
from conftest import EXAMPLES, randomize
from processes import python

from modelscope_ext import Denoiser
from modelscope_ext.export import export_onnx
from modelscope_ext.models import build
from modelscope_ext.pretrained import DEFAULT

THREADS = 8


def denoisers(folder):
    def frcrn():
        net = build("FRCRN")
        randomize(net)
        return Denoiser(net.eval())

    def onnx(utterance):
        export_onnx(build("CRUSE2-8-1xGRU2").eval(), folder / "net.onnx", utterance)
        return Denoiser(folder / "net.onnx")

    return {
        "CRUSE": Denoiser,
        "FRCRN": frcrn,
        "ONNX step": lambda: onnx(False),
        "ONNX utterance": lambda: onnx(True),
    }


@pytest.fixture(params=["CRUSE", "FRCRN", "ONNX step", "ONNX utterance"])
def shared(request, tmp_path):
    """Return an unused denoiser."""
    return denoisers(tmp_path)[request.param]()


def digest(denoiser, noisy, i):
    """Return the digest of the output for signal `i`."""
    return hashlib.sha256(denoiser(noisy[1000 * i : 1000 * i + 4000], 16000).tobytes()).hexdigest()


def in_threads(work):
    """Return work(0), work(1) … of threads that start together, twice each."""
    barrier = threading.Barrier(THREADS)

    def begin(i):
        barrier.wait()
        return [work(i), work(i)]

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(begin, range(THREADS)))


def test_threads_and_forks_give_the_same_bytes_as_alone(shared, noisy):
    found = in_threads(lambda i: digest(shared, noisy, i))
    alone = [digest(shared, noisy, i) for i in range(THREADS)]
    assert found == [[each] * 2 for each in alone]
    assert len(set(alone)) == THREADS
    assert [after_fork(lambda: digest(shared, noisy, i)) for i in (0, 1)] == alone[:2]  # noqa: B023 (called at once)
    assert digest(shared, noisy, 2) == alone[2]


CHILD = """
import multiprocessing, sys
import numpy as np, torch
from modelscope_ext import Denoiser

torch.set_num_threads(2)
noisy = np.random.default_rng(0).standard_normal(20000).astype(np.float32) / 20
denoiser = Denoiser(sys.argv[1] or None)

def in_a_child(method):
    with multiprocessing.get_context(method).Pool(1) as pool:
        return pool.apply_async(denoiser, (noisy, 16000)).get(100)

found = [in_a_child(method) for method in ("fork", "forkserver", "spawn")]
expected = denoiser(noisy, 16000)
for each in (*found, in_a_child("fork")):
    assert np.abs(each - expected).max() < 1e-6
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["CRUSE", "CRUSE, torch", "ONNX utterance"])
def test_a_child_process_denoises_with_threads_in_its_parent(tmp_path, kind):
    """A web server loads the model and then forks its workers."""
    model = {"CRUSE": "", "CRUSE, torch": DEFAULT, "ONNX utterance": tmp_path / "net.onnx"}[kind]
    if model == tmp_path / "net.onnx":
        export_onnx(build("CRUSE2-8-1xGRU2").eval(), model, utterance=True)
    python("-c", CHILD, model, environment={"OMP_NUM_THREADS": "2"}, timeout=150)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="Linux only")
def test_a_network_goes_to_another_process_without_a_descriptor_for_each_tensor(noisy):
    """A forkserver takes 256 descriptors, and FRCRN has more tensors."""
    denoiser = Denoiser(build("CRUSE2-8-1xGRU2").eval())
    before = len(os.listdir("/proc/self/fd"))
    data = ForkingPickler.dumps(denoiser)
    assert len(os.listdir("/proc/self/fd")) == before
    assert np.array_equal(pickle.loads(data)(noisy, 16000), denoiser(noisy, 16000))


def after_fork(work):
    """Return the result of `work` in a child process, which is killed if it hangs."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, work().encode())
        finally:
            os._exit(0)
    os.close(writing)
    try:
        ready, _, _ = select.select([reading], [], [], 120)
        assert ready, "the child hangs"
        return os.read(reading, 1000).decode()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)


@pytest.mark.slow
def test_a_pipeline_in_threads_gives_the_same_bytes_as_alone(noisy):
    from modelscope.pipelines import pipeline
    from modelscope.utils.constant import Tasks

    denoise = pipeline(Tasks.acoustic_noise_suppression, model=str(DEFAULT))

    def pcm(i):
        return denoise(noisy[1000 * i : 1000 * i + 4000])["output_pcm"]

    found = in_threads(pcm)
    assert found == [[pcm(i)] * 2 for i in range(THREADS)]
    assert denoise(str(EXAMPLES / "noisy.wav"))["output_pcm"] == denoise(noisy)["output_pcm"]


@pytest.fixture
def stream(denoiser):
    return denoiser.stream(16000)


def test_a_stream_refuses_two_threads_at_once(noisy, monkeypatch):
    denoiser = Denoiser("stream")
    stream, feed = denoiser.stream(16000), denoiser.backend.feed
    inside, go_on = threading.Event(), threading.Event()

    def slow(audio, state):
        inside.set()
        assert go_on.wait(60)
        return feed(audio, state)

    with ThreadPoolExecutor(1) as pool, monkeypatch.context() as patch:
        patch.setattr(denoiser.backend, "feed", slow)
        first = pool.submit(stream.feed, noisy[:1000])
        assert inside.wait(60)
        for use in (lambda: stream.feed(noisy[:10]), stream.flush):
            with pytest.raises(RuntimeError, match="another thread is using this stream"):
                use()
        go_on.set()
        parts = [first.result()]
    # Refused calls left no trace, and the stream continues in other threads.
    for start in range(1000, 8000, 1000):
        with ThreadPoolExecutor(1) as pool:
            parts.append(pool.submit(stream.feed, noisy[start : start + 1000]).result())
    parts.append(stream.flush())
    alone = denoiser.stream(16000)
    expected = [alone.feed(noisy[start : start + 1000]) for start in range(0, 8000, 1000)]
    assert np.array_equal(np.concatenate(parts), np.concatenate((*expected, alone.flush())))


def test_a_stream_is_free_again_after_an_error(stream, noisy):
    with pytest.raises(ValueError, match="NaN"):
        stream.feed(np.full(10, np.nan, np.float32))
    stream.feed(noisy[:1000])
    assert len(stream.flush()) > 0


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_stream_refuses_to_be_copied(stream, how):
    with pytest.raises(TypeError, match="in the middle of a signal and cannot be copied or pickled"):
        how(stream)
