"""Serve the joules of what is running to Prometheus, for as long as it runs.

Joules are read when somebody asks for them, never in between, so nobody who asks nothing pays.
Only this machine can ask unless the user names another address: who can reach the page learns what
the machine is doing.

Invariants: a counter never falls (net joules may, while less than idle power flows; the largest
value so far is told); once serving() is left nothing is read any more.

Source: Prometheus text exposition format 0.0.4,
https://prometheus.io/docs/instrumenting/exposition_formats/.
"""

from __future__ import annotations

import ipaddress
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from joulewise.core.energy import Part
from joulewise.core.errors import SensorError, UsageError, one_line
from joulewise.report.series import prometheus_text, samples_of

__all__ = ["MetricsServer", "parse_address"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
HERE, PATH = "127.0.0.1", "/metrics"

POLL_S = 0.1
"""How often the page looks whether it shall end, s: 0.05 % of a CPU."""

TIMEOUT_S = 5.0
"""How long somebody may take to ask, s; others are served meanwhile."""


def parse_address(text: str) -> tuple[str, int] | None:
    """Return address and port in "9464", "0.0.0.0:9464" or "[::]:9464"; None for a file's name.

    A file whose name is a number is written ``./9464``.

    Raises:
        UsageError: there is no such port.
    """
    address, colon, number = text.rpartition(":")
    if not (number.isascii() and number.isdigit()) or (colon and not _is_address(address)):
        return None
    if int(number) > 65535:
        raise UsageError(f"{number} is no port; use 1 to 65535, or ./{number} for a file")
    return address.strip("[]") or HERE, int(number)


class MetricsServer:
    """A page of counters that is bound to its port, and answers while it is serving.

    Args:
        address: as an IPv4 or IPv6 address.
        port: 0 takes any free one.

    Raises:
        UsageError: the port is in use, or the address is not one of this machine.
    """

    def __init__(self, address: str, port: int) -> None:
        try:
            self._server = _Server(address, port)
        except OSError as error:
            raise UsageError(
                f"cannot serve on {address} port {port}: {error.strerror}; take another port"
            ) from error
        shown = f"[{address}]" if ":" in address else address
        self.url = f"http://{shown}:{self._server.server_address[1]}{PATH}"

    @contextmanager
    def serving(self, read: Callable[[], Sequence[Part]]) -> Iterator[str]:
        """Answer at the page's address, which is given, until the ``with`` block ends.

        Args:
            read: tells joules and seconds so far; called from other threads, one at a time.
        """
        counters = _Counters(read)
        self._server.counters = counters
        thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": POLL_S}, daemon=True
        )
        thread.start()
        try:
            yield self.url
        finally:
            counters.end()
            self._server.shutdown()
            thread.join()
            self.close()

    def close(self) -> None:
        """Give the port back."""
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.counters: _Counters | None = None
        super().__init__((address, port), _Handler)

    def server_bind(self) -> None:
        """Bind without asking a name server for the name of this machine."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Say nothing of somebody who hung up: stderr is the command's."""


class _Counters:
    """What was told so far; nothing is told after the end."""

    def __init__(self, read: Callable[[], Sequence[Part]]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._told: dict[str, float] = {}
        self._ended = False

    def text(self) -> str:
        with self._lock:
            if self._ended:
                raise SensorError("the command has ended")
            for series, value in samples_of(self._read()):
                self._told[series] = max(value, self._told.get(series, 0.0))
            return prometheus_text(self._told)

    def end(self) -> None:
        with self._lock:
            self._ended = True


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = TIMEOUT_S
    server_version = "joulewise"
    sys_version = ""

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != PATH:
            self._answer(HTTPStatus.NOT_FOUND, f"the counters are at {PATH}\n")
            return
        try:
            text = self.server.counters.text() if self.server.counters else ""
        except SensorError as error:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{one_line(error)}\n")
        else:
            self._answer(HTTPStatus.OK, text)

    def _answer(self, status: HTTPStatus, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401
        """Say nothing: stderr is the command's."""


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return False
    return True
