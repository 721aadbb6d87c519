from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulewise.core.energy import Block, Part
from joulewise.core.errors import SensorError, UsageError
from joulewise.report.scrape import CONTENT_TYPE, MetricsServer, parse_address
from tests.report.bundles import make_sensor

LINE = re.compile(r'[a-z_]+\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\} [0-9.e+-]+')


def parts(reading_j: float, seconds: float = 1.0) -> tuple[Part, ...]:
    block = Block(items=1, seconds=seconds, reading_j=reading_j)
    return (Part(sensor=make_sensor("D"), blocks=(block,), idle_w=2.0, component="cpu"),)


def fetch(url: str) -> str:
    with urlopen(url, timeout=10) as answer:  # noqa: S310  (our own page)
        assert answer.headers["Content-Type"] == CONTENT_TYPE
        found: str = answer.read().decode()
        return found


def net_j(page: str) -> float:
    (line,) = [line for line in page.splitlines() if 'kind="net"' in line]
    return float(line.rpartition(" ")[2])


def test_page_is_in_the_text_format_and_is_read_only_when_asked() -> None:
    asked = []

    def read() -> Sequence[Part]:
        asked.append(1)
        return parts(3.0 * len(asked), seconds=2.0 * len(asked))

    with MetricsServer("127.0.0.1", 0).serving(read) as url:
        assert asked == []
        first, second = fetch(url), fetch(f"{url}?name[]=x")
    assert len(asked) == 2
    for line in first.splitlines():
        assert line.startswith(("# HELP ", "# TYPE ")) or LINE.fullmatch(line), line
    assert (net_j(first), net_j(second)) == (3.0, 6.0)
    assert 'joulewise_energy_seconds_total{component="cpu",sensor="cpu-time",grade="D"} 4.0' in (
        second.splitlines()
    )


@settings(max_examples=20)
@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=8))
def test_counters_never_fall(readings: list[float]) -> None:
    rest = iter(readings)
    with MetricsServer("127.0.0.1", 0).serving(lambda: parts(next(rest))) as url:
        told = [net_j(fetch(url)) for _ in readings]
    assert told == sorted(told)
    assert told[-1] == max(readings)


def test_other_pages_are_not_there() -> None:
    with (
        MetricsServer("127.0.0.1", 0).serving(lambda: parts(1.0)) as url,
        pytest.raises(HTTPError, match="404") as caught,
    ):
        fetch(url.removesuffix("metrics"))
    assert caught.value.read() == b"the counters are at /metrics\n"
    caught.value.close()


def test_counter_that_cannot_be_read_is_told_to_who_asks() -> None:
    def read() -> Sequence[Part]:
        raise SensorError("the counter is gone")

    with (
        MetricsServer("127.0.0.1", 0).serving(read) as url,
        pytest.raises(HTTPError, match="503") as caught,
    ):
        fetch(url)
    assert caught.value.read() == b"the counter is gone\n"
    caught.value.close()


def test_page_ends_with_the_block_and_gives_the_port_back() -> None:
    with MetricsServer("127.0.0.1", 0).serving(lambda: parts(1.0)) as url:
        port = int(url.rpartition(":")[2].partition("/")[0])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=10)
    MetricsServer("127.0.0.1", port).close()


def test_port_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port}: .*; take another port"):
            MetricsServer("127.0.0.1", port)


def test_address_of_another_machine_is_one_line() -> None:
    with pytest.raises(UsageError, match=r"192\.0\.2\.1"):
        MetricsServer("192.0.2.1", 0)


def test_who_hangs_up_disturbs_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    with MetricsServer("127.0.0.1", 0).serving(lambda: parts(1.0)) as url:
        port = int(url.rpartition(":")[2].partition("/")[0])
        silent = socket.create_connection(("127.0.0.1", port), timeout=10)
        with socket.create_connection(("127.0.0.1", port), timeout=10) as rude:
            rude.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert net_j(fetch(url)) == 1.0
        silent.close()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9464", ("127.0.0.1", 9464)),
        ("0.0.0.0:9464", ("0.0.0.0", 9464)),  # noqa: S104  (parsed, not bound)
        ("[::1]:9464", ("::1", 9464)),
        ("joules.prom", None),
        ("./9464", None),
        ("run:1", None),
        ("²", None),
        ("", None),
    ],
)
def test_ports_are_told_from_files(text: str, address: tuple[str, int] | None) -> None:
    assert parse_address(text) == address


def test_port_that_is_none() -> None:
    with pytest.raises(UsageError, match=r"\./70000"):
        parse_address("70000")
