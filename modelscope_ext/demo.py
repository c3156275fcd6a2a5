"""A page that denoises recordings and videos in the browser; it works without a network and sends no data elsewhere."""

import functools
import json
import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from modelscope_ext.audio import AudioError, open_audio, require_writable
from modelscope_ext.inference.denoiser import Denoiser
from modelscope_ext.players import SCRIPT, templates, write_opus
from modelscope_ext.plots import draw_spectrograms
from modelscope_ext.pretrained import MODELS

__all__ = ["build_page", "launch"]

logger = logging.getLogger(__name__)

#: Limits of an upload to a page for others in seconds and megabytes; a page for this computer has none.
MAX_S, MAX_MB = 300, 100
LIMIT_DB = 60  # end of the attenuation slider; it means no limit
OWN_DB = json.loads((MODELS["file"] / "configuration.json").read_text())["inference"]["attenuation_limit_db"]
WORK, KEPT_S = "modelscope-ext-demo-", 3600  # start of the folder's name; seconds until results are deleted
DEFAULT_NAME = "the model in this package"
EXAMPLE = Path(__file__).parent / "templates" / "example.mp3"
#: The browser must load nothing from other servers.
POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'"
#: Connects the players whenever the page shows new ones.
CONNECT = SCRIPT + (Path(__file__).parent / "templates" / "connect.js").read_text(encoding="utf-8")
WORDS = {
    "en": {
        "title": "# Remove noise from speech",
        "local": "Recordings and videos stay on this computer.",
        "public": f"At most {MAX_S // 60} minutes and {MAX_MB} MB. Files go only to the computer that serves the page.",
        "source": "A recording or a video",
        "microphone": "Or record something",
        "example": "Take the example",
        "strength": "Strength, %",
        "advanced": "Advanced",
        "limit": f"Lower noise by at most so many dB; {LIMIT_DB}: no limit",
        "model": "Model",
        "start": "Denoise",
        "result": "Before and after",
        "before": "before",
        "after": "after",
        "download": "Download",
        "picture": "Spectrograms before and after",
        "left": "{} left",
        "nothing": "Choose or record something first.",
    },
    "zh": {
        "title": "# 去除语音中的噪声",
        "local": "录音和视频不会离开这台电脑。",
        "public": f"最长 {MAX_S // 60} 分钟，最大 {MAX_MB} MB。文件只会发送到提供本页面的电脑。",
        "source": "录音或视频",
        "microphone": "或者录一段",
        "example": "使用示例",
        "strength": "强度（%）",
        "advanced": "高级",
        "limit": f"噪声最多降低多少 dB；{LIMIT_DB} 表示不限",
        "model": "模型",
        "start": "降噪",
        "result": "处理前后",
        "before": "处理前",
        "after": "处理后",
        "download": "下载",
        "picture": "处理前后的频谱图",
        "left": "剩余 {}",
        "nothing": "请先选择文件或录音。",
    },
}


class Result(NamedTuple):
    """Files of a result: the denoised one, what players play before and after, the spectrograms."""

    target: Path
    before: Path
    after: Path
    picture: Path


def make_denoiser(model: str | None, device: str | None, strength: float, limit_db: float) -> Denoiser:
    """Return the denoiser of a strength in percent and an attenuation limit in dB, none from `LIMIT_DB` on."""
    limit = limit_db if limit_db < LIMIT_DB else math.inf
    return Denoiser(model, device, wet=strength / 100, attenuation_limit_db=limit)


def denoise_for_page(
    source: str | Path,
    folder: str | Path,
    denoiser: Denoiser,
    limited: bool = False,
    progress: Callable[[float, float | None], object] | None = None,
) -> Result:
    """Denoise an upload; return the files of the result.

    Args:
        source: the upload or recording.
        folder: folder of the results.
        denoiser: the denoiser.
        limited: refuse more than `MAX_S` and `MAX_MB`.
        progress: called with the seconds that are done and those of the file, None if unknown.

    Raises:
        ValueError: there is no audio, or it is too long, too large or unreadable. The page shows the message.
    """
    source = Path(source)
    if limited and source.stat().st_size > MAX_MB * 1e6:
        raise ValueError(f"The file is larger than {MAX_MB} MB; the command modelscope-ext denoise has no limit.")
    with open_audio(source) as file:
        seconds = file.seconds
    if seconds == 0:
        raise ValueError("The recording is empty.")
    if limited and seconds is not None and seconds > MAX_S:
        raise ValueError(
            f"The recording is {seconds / 60:.1f} minutes long, and this page takes {MAX_S / 60:g}; the command "
            "modelscope-ext denoise has no limit."
        )
    folder, done = Path(folder), 0.0

    def add(more: float) -> None:
        nonlocal done
        done += more
        if progress:
            progress(done, seconds)

    result = Result(*(folder / name for name in (_target_name(source), "before.ogg", "after.ogg", "spectrograms.png")))
    denoiser.file(source, result.target, add)
    write_opus(source, result.before)
    write_opus(result.target, result.after)
    draw_spectrograms(source, result.target, result.picture)
    return result


def _target_name(source: Path) -> str:
    try:
        require_writable(source)
    except AudioError:
        return f"{source.stem}_denoised.wav"
    return f"{source.stem}_denoised{source.suffix}"


def _players(result: Result, words: dict[str, str]) -> str:
    """Return the HTML of the players."""
    sounds = {words["before"]: result.before, words["after"]: result.after}
    page = templates().get_template("players.html")
    return page.render(
        sounds=sounds,
        source=lambda path: f"gradio_api/file={path}",
        group=result.target.parent.name,
        label=words["result"],
    )


def _words(request: Any) -> dict[str, str]:
    language = request.headers.get("accept-language", "") if request else ""
    return WORDS["zh" if language.startswith("zh") else "en"]


def build_page(models: Sequence[str] = (), device: str | None = None, limited: bool = True) -> Any:
    """Return the page, a `gradio.Blocks`.

    Args:
        models: folders or ids offered besides the model in this package.
        device: see `Denoiser`.
        limited: refuse long and large files, as a page for others has to.

    Raises:
        ModuleNotFoundError: gradio is missing; `pip install 'modelscope-ext[demo]'` installs it.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    work = _work()
    if WORK in os.environ.get("GRADIO_TEMP_DIR", WORK):  # not of the user; gradio reads it when it is imported
        os.environ["GRADIO_TEMP_DIR"] = str(Path(work.name, "uploads"))
    try:
        import gradio
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the page needs gradio: pip install 'modelscope-ext[demo]'") from error

    def run(source: str | None, strength: float, limit_db: float, model: str, words: Any, progress: Any) -> Any:
        if source is None:
            raise gradio.Error(words["nothing"], print_exception=False)
        _remove_old(Path(work.name))
        folder, began = tempfile.mkdtemp(dir=work.name), time.monotonic()

        def report(done: float, seconds: float | None) -> None:
            if seconds:
                left = max(0, round((time.monotonic() - began) * (seconds / done - 1)))
                progress(min(1, done / seconds), desc=words["left"].format(f"{left // 60}:{left % 60:02}"))

        try:
            denoiser = make_denoiser(None if model == DEFAULT_NAME else model, device, strength, limit_db)
            result = denoise_for_page(source, folder, denoiser, limited, report)
        except (ValueError, OSError) as error:
            raise gradio.Error(str(error).replace(f"{source}: ", ""), print_exception=False) from error
        download = gradio.DownloadButton(value=str(result.target), interactive=True)
        return _players(result, words), download, str(result.picture)

    page = _layout(gradio, [DEFAULT_NAME, *models], limited, run)
    page.work, page.limited = work, limited
    return page


@functools.cache
def _work() -> tempfile.TemporaryDirectory:
    """Return the folder of all pages of this process: gradio looks for their uploads in one place."""
    return tempfile.TemporaryDirectory(prefix=WORK)


def _layout(gradio: Any, models: list[str], limited: bool, run: Callable) -> Any:
    words = gradio.I18n(en=WORDS["en"], zh=WORDS["zh"], **{"zh-CN": WORDS["zh"], "zh-TW": WORDS["zh"]})
    with gradio.Blocks(title="Speech denoising", analytics_enabled=False, delete_cache=(KEPT_S, KEPT_S)) as page:
        page.words = words
        gradio.Markdown(words("title"))
        gradio.Markdown(words("public" if limited else "local"))
        with gradio.Row():
            with gradio.Column():
                source = gradio.File(label=words("source"), elem_id="source")
                recorded = gradio.Audio(
                    label=words("microphone"), type="filepath", sources=["microphone"], buttons=[], elem_id="record"
                )
                example = gradio.Button(words("example"), elem_id="example")
                strength = gradio.Slider(0, 100, 100, step=1, label=words("strength"), elem_id="strength")
                with gradio.Accordion(words("advanced"), open=False, elem_id="advanced"):
                    limit = gradio.Slider(0, LIMIT_DB, OWN_DB, step=1, label=words("limit"), elem_id="limit")
                    model = gradio.Dropdown(models, value=DEFAULT_NAME, label=words("model"), elem_id="model")
                start = gradio.Button(words("start"), variant="primary", elem_id="denoise")
            with gradio.Column():
                style = "audio { width: 100%; } [hidden] { display: none; } label { margin-right: 1rem; }"
                players = gradio.HTML(elem_id="players", css_template=style, js_on_load=CONNECT)
                result = gradio.DownloadButton(words("download"), elem_id="download", interactive=False)
                picture = gradio.Image(
                    label=words("picture"), show_label=False, interactive=False, buttons=[], elem_id="picture"
                )

        def denoise(source, strength, limit, model, request: gradio.Request, progress=gradio.Progress()):  # noqa: B008
            return run(source, strength, limit, model, _words(request), progress)

        example.click(lambda: str(EXAMPLE), None, source)
        recorded.stop_recording(lambda path: path, recorded, source)
        start.click(denoise, [source, strength, limit, model], [players, result, picture], show_progress_on=picture)
    return page


def _remove_old(folder: Path) -> None:
    for old in folder.iterdir():
        if old.name != "uploads" and time.time() - old.stat().st_mtime > KEPT_S:
            shutil.rmtree(old, ignore_errors=True)


def launch(page: Any, host: str | None = None, port: int | None = None, *, wait: bool = True) -> str:
    """Serve a page until Ctrl-C and return its address, which is logged.

    Args:
        page: result of `build_page`.
        host: address to listen on; None is this computer or the host that a ModelScope Studio sets.
        port: None is the first free one from 7860 on or the port that a ModelScope Studio sets.
        wait: False serves in the background until `page.close()`.

    Raises:
        OSError: the port is taken.
    """
    import gradio
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    fonts = ["system-ui", "sans-serif"]  # gradio's default fonts come from the web
    theme = gradio.themes.Default(font=fonts, font_mono=["ui-monospace", "monospace"])
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            theme=theme,
            quiet=True,  # it would print an invitation to share the page
            prevent_thread_lock=True,
            max_file_size=f"{MAX_MB}mb" if page.limited else None,
            allowed_paths=[page.work.name, str(EXAMPLE)],
            i18n=page.words,
            footer_links=[],
            share=False,
            ssr_mode=False,
            pwa=False,
            app_kwargs={"middleware": [Middleware(_OwnServerOnly), Middleware(TrustedHostMiddleware, _names(host))]},
        )
    except OSError as error:
        raise OSError(f"port {port or '7860 to 7959'} is taken by another program; choose one with --port") from error
    logger.info("the page is at %s; Ctrl-C ends it", address)
    if wait:
        page.block_thread()
    return address


def _names(host: str | None) -> list[str]:
    """Return the names by which browsers may call the server: a page of strangers could give this computer its own."""
    host = host or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1"
    names = ["127.0.0.1", "localhost", "[::1]", "::1", "["]  # old versions of starlette see the bracket alone
    return names if host in names else ["*"]


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
