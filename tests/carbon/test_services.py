from __future__ import annotations

import socket
from urllib.parse import parse_qs, urlsplit

import pytest

from joulewise.carbon.services import SERVICES, TOKEN, URL, ask_service
from joulewise.carbon.table import life_cycle_high
from joulewise.core.energy import Interval
from joulewise.core.errors import InputError, JoulewiseError, UsageError
from tests.carbon.service import DENMARK, GB, GERMANY, LONDON, serving


def test_great_britain_spans_forecast_and_actual(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(GB) as service:
        monkeypatch.setenv(URL, service.url)
        found = ask_service("uk", None)
    assert service.paths == ["/intensity"]
    assert found.g_per_kwh == Interval(low=263, central=264.5, high=life_cycle_high(266))
    assert (found.place, found.basis, found.period) == ("GB", "direct", "2026-01-20T12:00Z")
    assert found.accounting == "average"


def test_region_of_great_britain_has_a_forecast_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(LONDON) as service:
        monkeypatch.setenv(URL, service.url)
        found = ask_service("uk", "gb:13")
    assert service.paths == ["/regional/regionid/13"]
    assert found.g_per_kwh.low == found.g_per_kwh.central == 272
    assert (found.place, found.name) == ("gb:13", "Great Britain, London")


def test_forecast_stands_alone_until_the_half_hour_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    period = {**GB["data"][0], "intensity": {"forecast": 146, "actual": None, "index": "low"}}
    with serving({"data": [period]}) as service:
        monkeypatch.setenv(URL, service.url)
        assert ask_service("uk", "GB").g_per_kwh.central == 146


def test_zone_of_electricity_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, "secret")
    with serving(GERMANY) as service:
        monkeypatch.setenv(URL, service.url)
        found = ask_service("electricitymaps", "de")
    asked = urlsplit(service.paths[0])
    assert asked.path == "/v3/carbon-intensity/latest"
    assert parse_qs(asked.query) == {"zone": ["DE"], "emissionFactorType": ["lifecycle"]}
    assert service.headers[0]["auth-token"] == "secret"
    assert found.g_per_kwh == Interval(low=302, central=302, high=302)
    assert (found.basis, found.name) == ("life-cycle", "zone DE, estimated")
    assert "secret" not in repr(found)


def test_denmark_spans_its_two_areas(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(DENMARK) as service:
        monkeypatch.setenv(URL, service.url)
        found = ask_service("energidataservice", "DK")
    query = parse_qs(urlsplit(service.paths[0]).query)
    assert query["filter"] == ['{"PriceArea": ["DK1", "DK2"]}']
    assert query["sort"] == ["Minutes5UTC DESC"]
    assert found.g_per_kwh == Interval(low=100, central=110, high=life_cycle_high(120))
    assert found.period == "2026-11-16T12:55:00Z"


def test_one_danish_area(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving({**DENMARK, "records": DENMARK["records"][:1]}) as service:  # type: ignore[index]
        monkeypatch.setenv(URL, service.url)
        found = ask_service("energidataservice", "dk:DK1")
    assert parse_qs(urlsplit(service.paths[0]).query)["filter"] == ['{"PriceArea": ["DK1"]}']
    assert (found.place, found.g_per_kwh.central) == ("dk:DK1", 120)


@pytest.mark.parametrize(
    ("source", "place", "told"),
    [
        ("uk", "DE", "gb:1 to gb:17"),
        ("uk", "gb:18", "gb:1 to gb:17"),
        ("uk", "gb:²", "gb:1 to gb:17"),
        ("energidataservice", "SE", "dk:DK1"),
        ("electricitymaps", None, "--place DE"),
        ("electricitymaps", "DE", TOKEN),
        ("electricitymap", "DE", "did you mean 'electricitymaps'"),
    ],
)
def test_misuse_is_told_before_anything_is_sent(
    source: str, place: str | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    with serving(GB) as service:
        monkeypatch.setenv(URL, service.url)
        with pytest.raises(UsageError, match=told):
            ask_service(source, place)
    assert service.paths == []


@pytest.mark.parametrize(
    ("answer", "status", "told"),
    [
        (b"<html>", 200, "did not answer in JSON"),
        (b"\xff\xfe", 200, "did not answer in JSON"),
        ([1], 200, "something else"),
        ({}, 200, "has no data.0"),
        ({"data": [{"from": "x"}]}, 200, "has no intensity"),
        ({"data": [{"from": "x", "intensity": {"actual": None}}]}, 200, "no figure for GB"),
        ({"data": [{"from": "x", "intensity": {"actual": -1}}]}, 200, "-1 g/kWh"),
        ({"data": [{"from": "x", "intensity": {"actual": "low"}}]}, 200, "'low' g/kWh"),
        ({"data": [{"from": "x", "intensity": {"actual": float("nan")}}]}, 200, "nan g/kWh"),
        ({}, 401, "check the token"),
        ({}, 404, "check the place"),
        ({}, 503, "try again later"),
    ],
)
def test_answers_that_are_none_are_one_line(
    answer: object, status: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(answer, status=status) as service:
        monkeypatch.setenv(URL, service.url)
        with pytest.raises(InputError, match=told) as caught:
            ask_service("uk", None)
    assert "\n" not in str(caught.value)


def test_service_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv(URL, f"http://127.0.0.1:{port}")
    with pytest.raises(InputError, match=f"cannot reach 127.0.0.1:{port}") as caught:
        ask_service("uk", None)
    assert "\n" not in str(caught.value)


def test_service_that_hangs_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("joulewise.carbon.services.TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv(URL, f"http://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(InputError, match="timed out"):
            ask_service("uk", None)


@pytest.mark.parametrize("url", ["file:///etc", "ftp://x", "nonsense"])
def test_only_the_web_is_asked(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(URL, url)
    with pytest.raises(JoulewiseError):
        ask_service("uk", None)


def test_table_loads() -> None:
    assert all(callable(SERVICES.load(name)) for name in SERVICES)
