"""An instrument on the network: a local HTTP server that says what the test wants."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["Instrument", "Reply"]


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What is answered; `length` lies about the body's."""

    body: str | bytes = ""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None


class Instrument:
    """Answer each page as `pages` says: a Reply, a text, JSON, or a function that gives one."""

    def __init__(self) -> None:
        self.pages: dict[str, Any] = {}
        self.asked: list[str] = []
        self.sent: list[Mapping[str, str]] = []
        instrument = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                instrument.asked.append(self.path)
                instrument.sent.append(dict(self.headers))
                reply = instrument._reply(self.path)
                body = reply.body.encode() if isinstance(reply.body, str) else reply.body
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(reply.length or len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def speak_tls(self, certificate: Path, key: Path) -> None:
        """Answer over HTTPS from now on."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.port}"

    def _reply(self, path: str) -> Reply:
        page = self.pages.get(path)
        if callable(page):
            page = page()
        if page is None:
            return Reply(status=404, body="Not Found")
        if isinstance(page, (str, bytes)):
            return Reply(body=page)
        return page if isinstance(page, Reply) else Reply(body=json.dumps(page))
