"""A service on this machine that answers as it is told, and remembers what it was asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread


@dataclass
class Service:
    """Where it is, and each request's path and headers."""

    url: str = ""
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


@contextmanager
def serving(answer: object, *, status: int = 200) -> Iterator[Service]:
    """Answer every request with `answer`: bytes as they are, all else as JSON."""
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    service = Service()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            service.paths.append(self.path)
            service.headers.append({k.lower(): v for k, v in self.headers.items()})
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        service.url = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield service
        finally:
            server.shutdown()
            thread.join()


GB = {
    "data": [
        {
            "from": "2026-01-20T12:00Z",
            "to": "2026-01-20T12:30Z",
            "intensity": {"forecast": 266, "actual": 263, "index": "moderate"},
        }
    ]
}
"""Format of https://carbon-intensity.github.io/api-definitions/, ``GET /intensity``."""

LONDON = {
    "data": [
        {
            "regionid": 13,
            "dnoregion": "UKPN London",
            "shortname": "London",
            "data": [
                {
                    "from": "2026-01-20T12:00Z",
                    "to": "2026-01-20T12:30Z",
                    "intensity": {"forecast": 272, "index": "high"},
                    "generationmix": [{"fuel": "gas", "perc": 61.5}, {"fuel": "wind", "perc": 22}],
                }
            ],
        }
    ]
}
"""The same, ``GET /regional/regionid/13``; regions have forecasts only."""

GERMANY = {
    "zone": "DE",
    "carbonIntensity": 302,
    "datetime": "2026-04-25T18:00:00.000Z",
    "updatedAt": "2026-04-25T18:07:01.000Z",
    "createdAt": "2026-04-22T18:45:11.000Z",
    "emissionFactorType": "lifecycle",
    "isEstimated": True,
    "estimationMethod": "TIME_SLICER_AVERAGE",
}
"""Format of Electricity Maps, ``GET /v3/carbon-intensity/latest``."""

DENMARK = {
    "total": 1_700_000,
    "limit": 2,
    "dataset": "CO2Emis",
    "records": [
        {
            "Minutes5UTC": "2026-11-16T12:55:00",
            "Minutes5DK": "2026-11-16T13:55:00",
            "PriceArea": "DK1",
            "CO2Emission": 120.0,
        },
        {
            "Minutes5UTC": "2026-11-16T12:55:00",
            "Minutes5DK": "2026-11-16T13:55:00",
            "PriceArea": "DK2",
            "CO2Emission": 100.0,
        },
    ],
}
"""Format of Energi Data Service, ``GET /dataset/CO2Emis``."""
