"""`denoise -`: an audio file from standard input to standard output."""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from modelscope_ext.audio import AudioError, open_audio
from modelscope_ext.batch import local
from modelscope_ext.cli.common import messages_without, standard_output
from modelscope_ext.cli.stream_ends import check_pipes
from modelscope_ext.inference.denoiser import Denoiser
from modelscope_ext.inference.file import FileReport
from modelscope_ext.progress import Bar


def denoise_pipe(denoiser: Denoiser, target: Path | None, bar: Bar, **options: Any) -> FileReport:
    """Denoise standard input into a file or, without one, standard output, in its format or else as wav.

    The input is stored first: most formats are read from more than one place. The bar counts the seconds after that.
    `options` are `track` and `loudness` of `Denoiser.file`.

    Raises:
        AudioError: the input is no audio.
        ValueError: the input or the output is a terminal.
    """
    check_pipes(input=True, output=target is None)
    with tempfile.TemporaryDirectory(prefix="modelscope-ext-") as folder, messages_without(f"{folder}/"):
        source = Path(folder) / "standard input"
        with source.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        try:
            with open_audio(source, warn=False) as audio:
                suffix = "" if audio.format else ".wav"
                bar.reset(local.seconds_of(audio, source))
            result = target or Path(folder) / f"standard output{suffix}"
            report = denoiser.file(source, result, bar.update, **options)
        except AudioError as error:
            raise AudioError(str(error).replace(f"{folder}/", "")) from error
        if target is None:
            with result.open("rb") as file, standard_output():
                shutil.copyfileobj(file, sys.stdout.buffer)
        return report
