"""A ModelScope hub on 127.0.0.1 with the requests that modelscope 1.40 needs to download a model by its id.

The client uses it if `MODELSCOPE_ENDPOINT` is set before modelscope is imported.
"""

import hashlib
import json
import re
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from urllib.parse import parse_qs, urlsplit

__all__ = ["StubHub"]


class StubHub:
    """`with StubHub({id: {path: bytes}}) as hub:` serves models at `hub.url` until the block ends.

    Attributes:
        models: id → path in the model → bytes. Anything else is a 404.
        cuts: path → number of further transfers of this file that break off in the middle; `math.inf` means all.
        halfway: path → function that is called once, after half of a transfer.
        wrong: path → bytes to send instead of the right ones.
        transfers: (path, first byte) of each transfer so far.
    """

    def __init__(self, models: dict[str, dict[str, bytes]]) -> None:
        self.models = models
        self.cuts: dict[str, float] = {}
        self.halfway: dict[str, Callable[[], object]] = {}
        self.wrong: dict[str, bytes] = {}
        self.transfers: list[tuple[str, int]] = []
        self.server = _Server(("127.0.0.1", 0), _Handler)
        self.server.hub = self
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "StubHub":
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Shut the hub down; connections are refused from now on."""
        self.server.shutdown()
        self.server.server_close()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client may hang up early
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        asked = re.fullmatch(r"/(openapi|api)/v1/models/([^/]+)/([^/]+)(/repo|/repo/files|)", url.path)
        api, owner, name, what = asked.groups() if asked else [None] * 4
        files = self.server.hub.models.get(f"{owner}/{name}")
        if files is None or query.get("Revision", "master") != "master":
            self.answer(404, {"Code": 404, "Success": False, "Message": "record not found"})
        elif api == "openapi":
            self.answer(200, {"success": True, "data": {"id": f"{owner}/{name}", "owner": owner, "name": name}})
        elif what == "/repo/files":
            self.answer(200, {"Code": 200, "Data": {"Files": [_entry(*file) for file in files.items()]}})
        elif query.get("FilePath") in files:
            self.transfer(query["FilePath"], files[query["FilePath"]])
        else:
            self.answer(404, {"Code": 404, "Success": False, "Message": "file not found"})

    def answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def transfer(self, path, content):
        hub = self.server.hub
        content = hub.wrong.get(path, content)
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        hub.transfers.append((path, start))
        body = content[start:]
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if hub.cuts.get(path, 0) > 0:
            hub.cuts[path] -= 1
            body = body[: len(body) // 2]
            self.close_connection = True
        half = len(body) // 2
        self.wfile.write(body[:half])
        if call := hub.halfway.pop(path, None):
            call()
        self.wfile.write(body[half:])

    def log_message(self, *_):
        """Print nothing: tests read the client's messages."""


def _entry(path, content):
    digest = hashlib.sha256(content).hexdigest()
    return {"Type": "blob", "Path": path, "Name": PurePosixPath(path).name, "Size": len(content), "Sha256": digest}
