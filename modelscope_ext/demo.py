"""A page that denoises a recording in the browser; it works without a network and sends no data elsewhere."""

import math
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modelscope_ext.audio import open_audio
from modelscope_ext.inference.denoiser import Denoiser
from modelscope_ext.plots import draw_spectrograms

__all__ = ["build_page", "launch"]

#: Limits of an upload in seconds and megabytes; the command line has none.
MAX_S, MAX_MB = 300, 100
#: End of the attenuation slider; it means no limit.
LIMIT_DB = 60
#: Seconds until earlier results are deleted.
KEPT_S = 600
DEFAULT_NAME = "the model in this package"
#: The browser must load nothing from other servers.
POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'"


def denoise_for_page(
    source: str | Path | None, folder: str | Path, model: str | None, device: str | None, wet: float, limit_db: float
) -> tuple[Path, Path]:
    """Denoise an upload; return the paths of the result and of the spectrograms.

    Args:
        source: the upload or recording; None without one.
        folder: folder of the results.
        model: folder or id; None takes the model in this package.
        device: see `Denoiser`.
        wet: 0 … 1; see `Denoiser`.
        limit_db: attenuation limit in dB; none from `LIMIT_DB` on.

    Raises:
        ValueError: there is no audio, or it is too long, too large or unreadable. The page shows the message.
    """
    if source is None:
        raise ValueError("Upload or record something first.")
    source = Path(source)
    if source.stat().st_size > MAX_MB * 1e6:
        raise ValueError(f"The file is larger than {MAX_MB} MB; the command modelscope-ext denoise has no limit.")
    with open_audio(source) as file:
        seconds = file.seconds
    if seconds == 0:
        raise ValueError("The recording is empty.")
    if seconds is not None and seconds > MAX_S:
        raise ValueError(
            f"The recording is {seconds / 60:.1f} minutes long, and this page takes {MAX_S / 60:g}; the command "
            "modelscope-ext denoise has no limit."
        )
    denoiser = Denoiser(model, device, wet=wet, attenuation_limit_db=limit_db if limit_db < LIMIT_DB else math.inf)
    target = Path(folder) / f"{source.stem}_denoised{source.suffix}"
    picture = Path(folder) / f"{source.stem}_spectrograms.png"
    denoiser.file(source, target)
    draw_spectrograms(source, target, picture)
    return target, picture


def build_page(models: Sequence[str] = (), device: str | None = None) -> Any:
    """Return the page, a `gradio.Blocks`.

    Args:
        models: folders or ids offered besides the model in this package.
        device: see `Denoiser`.

    Raises:
        ModuleNotFoundError: gradio is missing; `pip install 'modelscope-ext[demo]'` installs it.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the page needs gradio: pip install 'modelscope-ext[demo]'") from error
    work = tempfile.TemporaryDirectory(prefix="modelscope-ext-demo-")

    def run(source: str | None, model: str, wet: float, limit_db: float) -> tuple[str, str, str]:
        _remove_old(Path(work.name))
        folder = tempfile.mkdtemp(dir=work.name)
        try:
            chosen = None if model == DEFAULT_NAME else model
            target, picture = denoise_for_page(source, folder, chosen, device, wet, limit_db)
        except (ValueError, OSError) as error:
            raise gradio.Error(str(error).replace(f"{source}: ", ""), print_exception=False) from error
        return str(target), str(target), str(picture)

    with gradio.Blocks(title="Speech denoising", analytics_enabled=False, delete_cache=(KEPT_S, KEPT_S)) as page:
        page.work = work  # exists as long as the page
        gradio.Markdown(
            "# Speech denoising\nUpload a recording or make one, at most "
            f"{MAX_S // 60} minutes and {MAX_MB} MB. It goes nowhere but to the computer that serves this page."
        )
        with gradio.Row():
            with gradio.Column():
                before = gradio.Audio(
                    label="Before", type="filepath", sources=["upload", "microphone"], buttons=[], elem_id="before"
                )
                model = gradio.Dropdown([DEFAULT_NAME, *models], value=DEFAULT_NAME, label="Model", elem_id="model")
                wet = gradio.Slider(0, 1, 1, step=0.05, label="Wet: 1 all denoised, 0 all as it was", elem_id="wet")
                limit = gradio.Slider(
                    0, LIMIT_DB, 26, step=1, label=f"Lower noise by at most so many dB; {LIMIT_DB}: no limit"
                )
                start = gradio.Button("Denoise", variant="primary", elem_id="denoise")
            with gradio.Column():
                after = gradio.Audio(label="After", type="filepath", interactive=False, buttons=[], elem_id="after")
                result = gradio.DownloadButton("Download", elem_id="download")
                picture = gradio.Image(label="Spectrograms", interactive=False, buttons=[], elem_id="picture")
        start.click(run, [before, model, wet, limit], [after, result, picture], concurrency_limit=1)
    return page


def _remove_old(folder: Path) -> None:
    for old in folder.iterdir():
        if time.time() - old.stat().st_mtime > KEPT_S:
            shutil.rmtree(old, ignore_errors=True)


def launch(
    page: Any, host: str | None = None, port: int | None = None, *, quiet: bool = False, wait: bool = True
) -> str:
    """Serve a page until Ctrl-C and return its address.

    Args:
        page: result of `build_page`.
        host: address to listen on; None is this computer or the host that a ModelScope Studio sets.
        port: None is the first free one from 7860 on or the port that a ModelScope Studio sets.
        quiet: do not let gradio print the address.
        wait: False serves in the background until `page.close()`.

    Raises:
        OSError: the port is taken.
    """
    import gradio
    from starlette.middleware import Middleware

    fonts = ["system-ui", "sans-serif"]  # gradio's default fonts come from the web
    theme = gradio.themes.Default(font=fonts, font_mono=["ui-monospace", "monospace"])
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            theme=theme,
            quiet=quiet,
            prevent_thread_lock=True,
            max_file_size=f"{MAX_MB}mb",
            footer_links=[],
            share=False,
            ssr_mode=False,
            pwa=False,
            app_kwargs={"middleware": [Middleware(_OwnServerOnly)]},
        )
    except OSError as error:
        raise OSError(
            f"port {port or '7860 to 7959'} is taken by another program; choose another with --port"
        ) from error
    if wait:
        page.block_thread()
    return address


class _OwnServerOnly:
    """ASGI middleware that adds `POLICY` to every response."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self.app(scope, receive, with_policy if scope["type"] == "http" else send)
