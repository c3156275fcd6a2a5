"""Files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["atomic_write"]


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A path beside `path` to write to. It takes the name of `path` when the block ends, and goes if the block fails.

    Folders are made. What a killed process left behind is overwritten; what was called `path` stays until then.

    Raises:
        OSError: it cannot be written; the message names `path` and says why.
    """
    path = Path(path)
    half = path.with_name(f".{path.name}.half")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield half
        with half.open("rb+") as file:
            os.fsync(file.fileno())  # or, after a power cut, the name might be there without the content
        half.replace(path)
    except OSError as error:
        raise OSError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):  # on a read-only disk there is nothing to remove
            half.unlink()
