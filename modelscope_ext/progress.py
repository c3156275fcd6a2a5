"""Progress of work: a bar on a terminal, elsewhere a line every ten seconds."""

import os
import sys
import threading
from contextlib import suppress
from typing import Any

from tqdm import tqdm

from modelscope_ext.threads import start_thread

__all__ = ["Bar"]

REFRESH_S = 1.0  # on a terminal
LINE_EVERY_S = 10.0


class Bar(tqdm):
    """A bar of tqdm on standard error, or lines where that is no terminal. Both go on during a long step.

    Args:
        *args: as of tqdm.
        quiet: show nothing.
        **options: as of tqdm.
    """

    monitor_interval = 0  # no thread of tqdm's own

    def __init__(self, *args: Any, quiet: bool = False, **options: Any) -> None:
        self.on_terminal = not quiet and sys.stderr is not None and sys.stderr.isatty()
        self._ended = threading.Event()
        if not quiet and not self.on_terminal:
            self._nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (until close)
            options |= {"file": self._nowhere, "dynamic_ncols": False}
            if layout := options.get("bar_format"):
                options["bar_format"] = layout.replace("{bar}|", "")
            else:
                options["ncols"] = 0
        super().__init__(*args, disable=quiet, **options)
        if not quiet:
            start_thread(self._refresh)

    def _refresh(self) -> None:
        while not self._ended.wait(REFRESH_S if self.on_terminal else LINE_EVERY_S):
            try:
                if self.on_terminal:
                    self.refresh()
                else:
                    sys.stderr.write(f"{str(self).strip()}\n")
                    sys.stderr.flush()
            except (OSError, ValueError):  # a full disk, or closed: the work goes on without lines
                return

    def close(self) -> None:
        """Remove the bar, or end the lines."""
        self._ended.set()
        super().close()
        if nowhere := self.__dict__.pop("_nowhere", None):
            nowhere.close()

    def __del__(self) -> None:
        """Close the bar."""
        with suppress(AttributeError):  # a signal ended its __init__
            super().__del__()
