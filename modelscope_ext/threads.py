"""Threads, which begin only where there is memory for them."""

import mmap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

#: Address space of a thread: its stack and the smallest heap that glibc reserves for it.
THREAD_BYTES = (8 + 64) * 2**20


def thread_pool(count: int) -> ThreadPoolExecutor:
    """Return a pool of threads, or raise MemoryError."""
    _require_memory(count)
    return ThreadPoolExecutor(count)


def start_thread(work: Callable[[], None]) -> threading.Thread:
    """Start a thread that does not keep the process alive, or raise MemoryError."""
    _require_memory(1)
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def _require_memory(threads: int) -> None:
    """Raise MemoryError where threads would not get their memory.

    A thread of CPython 3.11 that gets none repeats its first steps forever, and who started it waits for it.
    """
    size = threads * THREAD_BYTES
    try:
        mmap.mmap(-1, size).close()  # takes addresses, no memory
    except OSError:
        raise MemoryError(f"threads need {size >> 20} MB of addresses") from None
