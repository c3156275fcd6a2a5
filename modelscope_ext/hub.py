"""Models by their names, in this package and on ModelScope's hub, and the names of the files in their folders."""

import functools
import os
import re
import threading
import time
from pathlib import Path

from modelscope_ext.pretrained import MODELS
from modelscope_ext.threads import start_thread

__all__ = [
    "CONFIGURATION",
    "RELEASED_WEIGHTS",
    "WEIGHTS",
    "cached",
    "cached_if_offline",
    "hub_answers",
    "is_id",
    "model_folder",
    "require_hub",
]

CONFIGURATION = "configuration.json"
WEIGHTS = "model.safetensors"
RELEASED_WEIGHTS = "pytorch_model.bin"

#: Seconds to wait for the hub.
PATIENCE_S = 2.5
#: What a proxy answers for a server that it cannot reach.
GATEWAY_ERRORS = (502, 503, 504)


def model_folder(model: str | Path, revision: str | None = None) -> Path:
    """Return a model's folder; an id such as `iic/speech_frcrn_ans_cirm_16k` is downloaded once.

    Without a network the copy in ModelScope's cache is used.

    Args:
        model: a folder, an id, or the string "file" or "stream" for a model in this package.
        revision: of an id; None is the newest.

    Raises:
        ValueError: there is no such folder or id or the hub cannot be reached. The message gives the reason.
    """
    if not is_id(model):
        return MODELS.get(model) or Path(model)
    from modelscope.hub.snapshot_download import snapshot_download

    if folder := cached_if_offline(model):
        return folder
    require_hub(model)
    try:
        return Path(snapshot_download(str(model), revision=revision))
    except Exception as error:  # the client raises classes of many libraries
        reason = "; ".join(line.strip() for line in str(error).splitlines() if line.strip()) or type(error).__name__
        raise ValueError(f"{model}: no such folder, and no download from ModelScope's hub: {reason}") from error


def local_folder(model: str | Path | None) -> Path | None:
    """Return where a model lies, by default that for files; of an id the copy, if there is one: no hub is asked."""
    return cached(model) if is_id(model) else model_folder(model or "file")


def require_hub(model: object) -> None:
    """Raise ValueError with what to do if the hub does not answer; `model` is an id without a copy."""
    if not hub_answers():
        raise ValueError(
            f"{model}: no such folder, and ModelScope's hub does not answer; check the network, or download the model "
            "elsewhere and give its folder"
        )


def cached_if_offline(model: object) -> Path | None:
    """Return the complete copy in ModelScope's cache if the hub cannot be reached; otherwise None.

    ModelScope's client contacts the hub even when it needs nothing from it. It fails after half a minute.
    """
    folder = cached(model)
    return None if folder is None or hub_answers() else folder


def cached(model: object) -> Path | None:
    """Return the complete copy of a model in ModelScope's cache; None without one or if `model` is no id."""
    if not is_id(model):
        return None
    from modelscope.hub.snapshot_download import snapshot_download

    try:
        folder = Path(snapshot_download(str(model), local_files_only=True))
    except Exception:  # as above; there is no copy
        return None
    # An interrupted download has another name: a weights file with its own name is complete.
    complete = any((folder / name).exists() for name in (WEIGHTS, RELEASED_WEIGHTS))
    if not complete or not (folder / CONFIGURATION).exists() or any(folder.rglob("*.incomplete")):
        return None
    return folder


def hub_answers() -> bool:
    """Return True if ModelScope's hub answers a request in time; the result is kept for half a minute."""
    return _hub_answers(int(time.time() / 30))


def is_id(model: object) -> bool:
    """Return True for an id of the hub: two names with a slash that are no local folder."""
    known = isinstance(model, (str, Path)) and re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]*\w", str(model))
    return bool(known) and not Path(model).exists()


@functools.lru_cache(1)
def _hub_answers(half_minute: int) -> bool:
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    from modelscope.hub.utils.utils import get_endpoint

    endpoint = os.environ.get("MODELSCOPE_ENDPOINT") or get_endpoint()
    url = endpoint if "://" in endpoint else f"https://{endpoint}"
    answered = threading.Event()

    def ask() -> None:
        try:
            urlopen(Request(url, method="HEAD"), timeout=PATIENCE_S).close()
        except HTTPError as error:
            if error.code in GATEWAY_ERRORS:
                return
        except (OSError, ValueError, HTTPException):
            return
        answered.set()

    # The search for the name's address has no limit of its own.
    start_thread(ask).join(PATIENCE_S)
    return answered.is_set()
