from __future__ import annotations

import os
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulewise.core.energy import Component, Grade
from joulewise.core.errors import SensorError, UsageError
from joulewise.core.host import read_host
from joulewise.meter.exposition import NAME, Series, parse_page, parse_selector
from joulewise.meter.polled import PolledMeter
from joulewise.meter.prometheus import PRESETS, PROMETHEUS, named
from tests.server import Instrument, Reply

KEPLER = """\
# HELP kepler_node_cpu_joules_total Energy consumption of cpu at node level in joules
# TYPE kepler_node_cpu_joules_total counter
kepler_node_cpu_joules_total{node_name="n",path="/sys/rapl:0",zone="package"} 1000.5
kepler_node_cpu_joules_total{node_name="n",path="/sys/rapl:0:0",zone="core"} 600
kepler_node_cpu_joules_total{node_name="n",path="/sys/rapl:0:1",zone="dram"} 99.5
kepler_node_cpu_joules_total{node_name="n",path="/sys/rapl:1",zone="psys"} 5000
kepler_node_cpu_watts{node_name="n",path="/sys/rapl:0",zone="package"} 55.1
"""
"""Names and labels as in Kepler's docs/user/metrics.md."""

SCAPHANDRE = """\
# HELP scaph_host_power_microwatts Power measurement on the whole host, in microwatts
# TYPE scaph_host_power_microwatts gauge
scaph_host_power_microwatts 12345678
scaph_host_load_avg_one 0.5
"""

DCGM = """\
# TYPE DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION counter
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="0",UUID="GPU-a",modelName="NVIDIA H100"} 5000000
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="1",UUID="GPU-b",modelName="NVIDIA H100"} 7000000
"""


@pytest.fixture
def server() -> Iterator[Instrument]:
    with Instrument() as server:
        yield server


def opened(server: Instrument, rest: str) -> PolledMeter:
    return named(f"{server.url}{rest}&update_s=1").attach([os.getpid()], read_host())


def vector(*results: tuple[dict[str, str], str]) -> dict[str, object]:
    return {
        "status": "success",
        "data": {
            "resultType": "vector",
            "result": [{"metric": labels, "value": [1.7e9, text]} for labels, text in results],
        },
    }


@pytest.mark.parametrize(
    ("preset", "page", "rails", "grade", "component"),
    [
        (
            "kepler",
            KEPLER,
            {
                'kepler_node_cpu_joules_total{path="/sys/rapl:0",zone="package"}',
                'kepler_node_cpu_joules_total{path="/sys/rapl:0:1",zone="dram"}',
            },
            "B",
            "cpu",
        ),
        ("scaphandre", SCAPHANDRE, {"scaph_host_power_microwatts"}, "B", "cpu"),
        (
            "dcgm",
            DCGM,
            {
                'DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{UUID="GPU-a",gpu="0"}',
                'DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{UUID="GPU-b",gpu="1"}',
            },
            "B",
            "gpu",
        ),
    ],
)
def test_presets(
    server: Instrument,
    preset: str,
    page: str,
    rails: set[str],
    grade: Grade,
    component: Component,
) -> None:
    server.pages["/metrics"] = page
    kind = named(f"{server.url}/metrics?preset={preset}&update_s=1")
    assert (kind.grade, kind.component) == (grade, component)
    meter = kind.attach([], read_host())
    assert set(meter.sensor.rails) == rails
    assert (meter.sensor.grade, meter.component) == (grade, component)
    assert PRESETS[preset].covers in meter.sensor.boundary
    meter.close()


def test_nested_zones_of_a_preset_are_not_added(server: Instrument) -> None:
    server.pages["/metrics"] = KEPLER
    meter = opened(server, "/metrics?preset=kepler")
    page = KEPLER.replace("1000.5", "1010.5").replace(" 600", " 606").replace(" 99.5", " 100.5")
    server.pages["/metrics"] = page.replace(" 5000", " 5030")
    assert meter.read().total_j == pytest.approx(11.0)
    meter.close()


def test_millijoules_and_microwatts(server: Instrument) -> None:
    server.pages["/metrics"] = DCGM
    meter = opened(server, "/metrics?preset=dcgm")
    server.pages["/metrics"] = DCGM.replace("5000000", "5001000")
    assert meter.read().total_j == pytest.approx(1.0)
    meter.close()
    server.pages["/metrics"] = SCAPHANDRE
    meter = opened(server, "/metrics?preset=scaphandre")
    before, after = meter.read(), meter.read()
    meter.close()
    watts = (after.total_j - before.total_j) / (after.time_s - before.time_s)
    assert watts == pytest.approx(12.345678)


def test_metric_of_a_page_with_the_unit_in_its_name(server: Instrument) -> None:
    server.pages["/probe?target=pdu"] = 'pdu_kilowatt_hours_total{outlet="3",x="a b}\\"c"} 1.5\n'
    meter = opened(server, '/probe?target=pdu&metric=pdu_kilowatt_hours_total{outlet="3"}')
    assert meter.sensor.rails == ("pdu_kilowatt_hours_total",)
    assert (meter.sensor.grade, meter.component) == ("A", "machine")
    server.pages["/probe?target=pdu"] = 'pdu_kilowatt_hours_total{outlet="3"} 1.501\n'
    assert meter.read().total_j == pytest.approx(3600.0)
    assert "target" not in meter.sensor.source
    meter.close()


@pytest.mark.parametrize("base", ["", "/", "/prometheus", "/api/v1/query"])
def test_instant_query_of_a_server(server: Instrument, base: str) -> None:
    query = 'sum(pdu_power{rack="4"}) + 1'
    prefix = "/prometheus" if "prometheus" in base else ""
    answer = vector(({"job": "pdu"}, "250.5"))
    page = f"{prefix}/api/v1/query?query=sum%28pdu_power%7Brack%3D%224%22%7D%29%20%2B%201"
    server.pages[page] = answer
    meter = opened(server, f"{base}?query={query.replace('+', '%2B')}&unit=W")
    before, after = meter.read(), meter.read()
    meter.close()
    assert parse_qs(urlsplit(server.asked[-1]).query) == {"query": [query]}
    watts = (after.total_j - before.total_j) / (after.time_s - before.time_s)
    assert watts == pytest.approx(250.5)
    assert meter.sensor.rails == ("value",)
    assert query in meter.sensor.boundary


def test_scalar_of_a_server(server: Instrument) -> None:
    data = {"resultType": "scalar", "result": [1.7e9, "12"]}
    server.pages["/api/v1/query?query=scalar%28x%29"] = {"status": "success", "data": data}
    meter = opened(server, "?query=scalar(x)&unit=W")
    assert meter.sensor.rails == ("scalar",)
    meter.close()


@pytest.mark.parametrize(
    ("query", "grade", "component"),
    [
        ("pdu_watts", "A", "machine"),
        ("kepler_node_cpu_watts", "B", "cpu"),
        ("kepler_pod_cpu_watts", "C", "cpu"),
        ("scaph_process_power_consumption_microwatts&unit=uW", "C", "cpu"),
        ("sum(DCGM_FI_DEV_POWER_USAGE)&unit=W", "B", "gpu"),
        ("rate(node_rapl_package_joules_total[1m])&unit=W", "B", "cpu"),
        ("x_watts&grade=B&component=gpu", "B", "gpu"),
    ],
)
def test_what_stands_behind_a_metric(query: str, grade: Grade, component: Component) -> None:
    kind = named(f"http://h?query={query}")
    assert (kind.grade, kind.component) == (grade, component)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "say what to read with one of query="),
        ("query=a_watts&metric=b_watts", "with one of query="),
        ("preset=alumet", "preset=alumet is unknown; choose from: kepler, scaphandre, dcgm"),
        ("query=rate(a_joules_total[1m])", "does not end in its unit; add &unit="),
        ("metric=power", "does not end in its unit"),
        ("metric=a_watts{x=1}", "selects nothing"),
        ('metric=a_watts{x=~"("}', "selects nothing"),
        ("metric={}", "selects nothing"),
        ("metric=a_watts&grade=D", "grade=D is not understood; it is one of A, B, C"),
        ("metric=a_watts&component=disk", "it is one of cpu, gpu, machine"),
    ],
)
def test_options_that_are_not_understood(options: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        named(f"http://h/metrics?{options}")


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("other_watts 1\n", "has no series for a_watts; is the exporter running"),
        ("a_watts 12", "its reply was cut off"),
        ("a_watts NaN\n", "gives no number for a_watts but 'NaN'"),
        ("a_watts +Inf\n", "gives no number"),
        ("a_watts -5\n", "shows -5.000 W"),
        ("a_watts 1\na_watts 2\n", "a series for a_watts twice"),
        ("<html>\n", "'<html>' is no metric"),
        (Reply(status=404), "404"),
    ],
)
def test_page_that_cannot_be_read(server: Instrument, page: object, message: str) -> None:
    server.pages["/metrics"] = page
    with pytest.raises(SensorError, match=message) as caught:
        opened(server, "/metrics?metric=a_watts")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (vector(), "has no series for a_watts"),
        ({"status": "success"}, "no field data.resultType: no data among its fields status"),
        ({"data": {"resultType": "matrix", "result": []}}, "answers with a matrix"),
        (
            {"data": {"resultType": "vector", "result": [{"metric": 1, "value": [1, "2"]}]}},
            "labels",
        ),
        (
            Reply(status=400, body='{"status": "error", "error": "unclosed left brace"}'),
            "400 Bad Request .unclosed left brace",
        ),
    ],
)
def test_server_that_cannot_be_read(server: Instrument, reply: object, message: str) -> None:
    server.pages["/api/v1/query?query=a_watts"] = reply
    with pytest.raises(SensorError, match=message) as caught:
        opened(server, "?query=a_watts")
    assert "\n" not in str(caught.value)


def test_without_an_address_it_says_how() -> None:
    assert "--meter 'prometheus:http://" in str(PROMETHEUS.probe())


words = st.text(st.characters(codec="utf-8"))


@given(labels=st.dictionaries(st.from_regex(r"[a-z_]{1,5}", fullmatch=True), words, max_size=3))
def test_labels_survive_the_page(labels: dict[str, str]) -> None:
    def escaped(text: str) -> str:
        return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    inside = ",".join(f'{name}="{escaped(text)}"' for name, text in labels.items())
    (series,) = parse_page(f"# HELP x y\n\nm_watts{{{inside}}} 1.5e3 1700000000000\n", "here")
    assert series == Series(labels={NAME: "m_watts"} | labels, value="1.5e3")
    assert parse_selector(f"m_watts{{{inside}}}").fits(series)


@pytest.mark.parametrize(
    ("selector", "fits"),
    [
        ("m", True),
        ("n", False),
        ('m{zone="package"}', True),
        ('m{zone!="package"}', False),
        ('m{zone=~"pack"}', False),
        ('m{zone=~"pack.*|dram"}', True),
        ('{zone!~"dram"}', True),
        ('{__name__=~"m|n", absent=""}', True),
        ('m{absent="x",}', False),
    ],
)
def test_selectors(selector: str, fits: bool) -> None:
    series = Series(labels={NAME: "m", "zone": "package"}, value="1")
    assert parse_selector(selector).fits(series) is fits
