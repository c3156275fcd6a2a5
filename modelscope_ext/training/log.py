"""Curves of a run."""

import csv
import logging
from pathlib import Path

from modelscope_ext.atomic import atomic_write

__all__ = ["Log"]

logger = logging.getLogger(__name__)


class Log:
    """`log.csv`, and TensorBoard events where it is installed.

    Args:
        folder: of the run.
        fields: columns; the first counts steps or epochs.
        done: rows after this one belong to a killed run, and go.
    """

    def __init__(self, folder: Path, fields: list[str], done: int) -> None:
        self.path = path = folder / "log.csv"
        self.key, rows = fields[0], []
        if path.exists():
            with path.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if (row.get(self.key) or "").isdigit()]
        with atomic_write(path) as half, half.open("w", newline="") as file:
            writer = csv.DictWriter(file, fields)
            writer.writeheader()
            kept = (row for row in rows if int(row[self.key]) <= done)
            writer.writerows({name: row.get(name, "") for name in fields} for row in kept)
        self.file = path.open("a", newline="")
        self.csv = csv.DictWriter(self.file, fields)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self.board = None
        else:
            self.board = SummaryWriter(folder, purge_step=done)

    def write(self, row: dict[str, float], told: bool = False) -> None:
        """One row; a column that is left out stays empty. `told`: as a message too, where nobody sees a bar.

        Raises:
            OSError: the disk is full, for example; the message names the file.
        """
        if told:
            logger.info("%s", ", ".join(f"{name} {value:.4g}" for name, value in row.items()))
        try:
            self.csv.writerow({name: f"{value:.6g}" for name, value in row.items()})
            self.file.flush()
            if self.board:
                for name, value in row.items():
                    if name != self.key:
                        self.board.add_scalar(name, value, row[self.key])
        except OSError as error:
            raise OSError(f"{self.path}: cannot be written ({error.strerror or error})") from error

    def close(self) -> None:
        """Ends the files."""
        self.file.close()
        if self.board:
            self.board.close()
