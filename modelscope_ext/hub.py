"""Models by the ids of ModelScope's hub."""

import re
from pathlib import Path

__all__ = ["model_folder"]


def model_folder(model: str | Path) -> Path:
    """A folder that exists as it is; an id such as `iic/speech_frcrn_ans_cirm_16k` is downloaded, once.

    Raises:
        ValueError: neither a folder nor an id that the hub has, or it cannot be reached; the message says which.
    """
    folder = Path(model)
    if folder.exists() or not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]*\w", str(model)):
        return folder
    from modelscope.hub.snapshot_download import snapshot_download

    try:
        return Path(snapshot_download(str(model)))
    except Exception as error:  # the client and what it stands on raise classes of many libraries
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"{model}: no such folder, and not to be had from ModelScope's hub: {reason}") from error
