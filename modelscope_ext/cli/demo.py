"""The command `demo`: a page that denoises in the browser."""

import argparse
import os
import signal
import sys

from modelscope_ext.cli.common import add_device, add_quiet
from modelscope_ext.demo import build_page, launch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `demo`."""
    parser.description = (
        "Serves a page that denoises recordings, videos and the microphone, plays and shows them before and after, and "
        "offers the result for download. It works without a network. On this computer the length of files is not "
        "limited. It needs gradio: pip install 'modelscope-ext[demo]'."
    )
    parser.add_argument("--model", action="append", metavar="M", help="also offer this folder or id; repeatable")
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="IP", help="address to listen on; 0.0.0.0 for every network [127.0.0.1]"
    )
    parser.add_argument("--port", type=int, default=7860, metavar="N", help="[7860]")
    add_device(parser)
    add_quiet(parser)


def run(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C or SIGTERM; then remove uploads and results."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if sys.stdout is None:  # after >&-; the server asks whether it is a terminal
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (until the end)
    limited = args.host not in ("127.0.0.1", "::1", "localhost")
    launch(build_page(args.model or (), args.device, limited), args.host, args.port)
