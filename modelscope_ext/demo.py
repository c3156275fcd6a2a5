"""The command `demo`: a page to denoise a recording in the browser. It works without a network and calls nobody.

The command line imports this when it starts; what takes time to import is imported where it is used.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["LIMIT_DB", "MAX_MB", "MAX_S", "add_command", "build_page", "denoise_for_page", "launch"]

#: What the page takes: minutes of audio are an answer within a breath, hours are for the command line.
MAX_S, MAX_MB = 300, 100
#: The end of the slider, which stands for no limit.
LIMIT_DB = 60
#: Results are copied when they are handed over; earlier ones may go after so many seconds.
KEPT_S = 600
OURS = "the model in this package"
#: A browser that heeds it asks no other server for anything.
POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'"


def add_command(commands: Any, parents: Sequence[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Adds `demo` to the sub-commands of a parser; `parents` bring `--quiet` and `--device`."""
    parser = commands.add_parser(
        "demo",
        parents=parents,
        help="denoise in the browser",
        description="Serves a page to upload or record audio, hear and see it before and after, and download the "
        "result. It works without a network. It needs gradio: pip install 'modelscope-ext[demo]'.",
    )
    parser.add_argument("--model", action="append", metavar="M", help="offer this folder or id too; repeatable")
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="IP", help="0.0.0.0 for all that can reach us [127.0.0.1]"
    )
    parser.add_argument("--port", type=int, default=7860, metavar="N", help="[7860]")
    parser.set_defaults(run=_run)
    return parser


def _run(args: argparse.Namespace) -> int:
    page = build_page(args.model or (), args.device)
    launch(page, args.host, args.port, quiet=args.quiet)
    return 0


def denoise_for_page(
    source: str | Path | None, folder: str | Path, model: str | None, device: str | None, wet: float, limit_db: float
) -> tuple[Path, Path]:
    """Denoises an upload; returns the result and the picture of both, in `folder`.

    Args:
        source: what was uploaded or recorded; None if nothing was.
        folder: for the results.
        model: folder or id; None is the model in this package.
        device: as `Denoiser` takes it.
        wet: 0 … 1.
        limit_db: from `LIMIT_DB` on there is no limit.

    Raises:
        ValueError: there is no audio, or it is too long, too large, or cannot be read; the message is for the page.
    """
    import math

    from modelscope_ext.audio import open_audio
    from modelscope_ext.inference.denoiser import Denoiser
    from modelscope_ext.plots import draw_spectrograms

    if source is None:
        raise ValueError("Upload or record something first.")
    source = Path(source)
    if source.stat().st_size > MAX_MB * 1e6:
        raise ValueError(f"The file is larger than {MAX_MB} MB; the command modelscope-ext denoise has no limit.")
    with open_audio(source) as file:
        seconds = file.frames / file.samplerate
    if not seconds:
        raise ValueError("The recording is empty.")
    if seconds > MAX_S:
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
    """The page, a `gradio.Blocks`.

    Args:
        models: folders or ids to choose from besides the model in this package.
        device: as `Denoiser` takes it.

    Raises:
        ModuleNotFoundError: gradio is missing; it comes with `pip install 'modelscope-ext[demo]'`.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the page needs gradio: pip install 'modelscope-ext[demo]'") from error
    work = tempfile.TemporaryDirectory(prefix="modelscope-ext-demo-")

    def run(source: str | None, model: str, wet: float, limit_db: float) -> tuple[str, str, str]:
        for old in Path(work.name).iterdir():
            if time.time() - old.stat().st_mtime > KEPT_S:
                shutil.rmtree(old, ignore_errors=True)
        folder = tempfile.mkdtemp(dir=work.name)
        try:
            found = denoise_for_page(source, folder, None if model == OURS else model, device, wet, limit_db)
        except (ValueError, OSError) as error:
            raise gradio.Error(str(error).replace(f"{source}: ", ""), print_exception=False) from error
        target, picture = map(str, found)
        return target, target, picture

    with gradio.Blocks(title="Speech denoising", analytics_enabled=False, delete_cache=(KEPT_S, KEPT_S)) as page:
        page.work = work  # lives as long as the page
        gradio.Markdown(
            "# Speech denoising\nUpload a recording or make one, at most "
            f"{MAX_S // 60} minutes and {MAX_MB} MB. It goes nowhere but to the computer that serves this page."
        )
        with gradio.Row():
            with gradio.Column():
                before = gradio.Audio(
                    label="Before", type="filepath", sources=["upload", "microphone"], buttons=[], elem_id="before"
                )
                model = gradio.Dropdown([OURS, *models], value=OURS, label="Model", elem_id="model")
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


def launch(
    page: Any, host: str | None = None, port: int | None = None, *, quiet: bool = False, wait: bool = True
) -> str:
    """Serves a page until Ctrl-C, and returns its address.

    Args:
        page: of `build_page`.
        host: None is this computer or, in a ModelScope Studio, what that says.
        port: None is the first free one from 7860 on, or likewise.
        quiet: the address is not printed.
        wait: if false, serves in the background until `page.close()`.

    Raises:
        OSError: the port is taken.
    """
    import gradio
    from starlette.middleware import Middleware

    fonts = ["system-ui", "sans-serif"]  # gradio's own come from the web
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
    """ASGI: tells the browser in every answer to load nothing from elsewhere."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self.app(scope, receive, with_policy if scope["type"] == "http" else send)
