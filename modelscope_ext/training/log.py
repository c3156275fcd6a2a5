"""The table and the curves of a run."""

import csv
import logging
from collections.abc import Mapping
from pathlib import Path

from modelscope_ext.atomic import atomic_write

logger = logging.getLogger(__name__)
#: Column → the words for it in a line of progress; {-} is the negative. Less of a loss and more dB are better.
WORDS = {
    "iter": "step {}",
    "hours": "{} h of audio",
    "learning_rate": "learning rate {}",
    "amp_loss": "of it amplitude {}",
    "phase_loss": "phase {}",
    "sisnr": "SI-SNR {-} dB",
    "avg_loss": "validation: loss {}",
    "avg_sisnr": "SI-SNR {} dB",
    "grad_norm": "gradient {}",
    "pesq": "validation: WB-PESQ {}",
    "si_sdr": "SI-SDR {} dB",
    "stoi": "STOI {} %",
    "cd": "cepstral distance {} dB",
    "q": "Q {}",
    "seconds": "{} s",
}


def describe(row: Mapping[str, float]) -> str:
    """Return a row of the log as text: each number with its name and unit."""
    parts = (
        WORDS.get(name, f"{name} {{}}").replace("{}", f"{value:.4g}").replace("{-}", f"{-value:.4g}")
        for name, value in row.items()
    )
    return ", ".join(parts)


class Log:
    """`log.csv` in the folder of a run, and TensorBoard events if TensorBoard is installed.

    The first of the fields counts steps or epochs. Rows after `done` are from a run that was killed and are removed.
    """

    def __init__(self, folder: Path, fields: list[str], done: int) -> None:
        self.path, self.key = folder / "log.csv", fields[0]
        rows = []
        if self.path.exists():
            with self.path.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if (row.get(self.key) or "").isdigit()]
        with atomic_write(self.path) as temp, temp.open("w", newline="") as file:
            writer = csv.DictWriter(file, fields)
            writer.writeheader()
            kept = (row for row in rows if int(row[self.key]) <= done)
            writer.writerows({name: row.get(name, "") for name in fields} for row in kept)
        self.file = self.path.open("a", newline="")
        self.csv = csv.DictWriter(self.file, fields)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self.board = None
        else:
            self.board = SummaryWriter(folder, purge_step=done)

    def write(self, row: dict[str, float]) -> None:
        """Write one row; a missing column stays empty.

        Raises:
            OSError: the row cannot be written. The message names the file and the reason.
        """
        logger.info("%s", describe(row))
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
        """Close the files."""
        self.file.close()
        if self.board:
            self.board.close()
