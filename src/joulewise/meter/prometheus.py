"""Read power or energy from a Prometheus server, or from one exporter's own page.

Named by the user and never chosen by itself::

    prometheus:http://HOST:9090?query=sum(pdu_watts)&unit=W     a server's instant query
    prometheus:http://HOST:8080/metrics?metric=pdu_watts{outlet="3"}    one exporter's page
    prometheus:http://HOST:28282/metrics?preset=kepler                  the same, one that is known

Every series that is selected is a rail, and rails are added up: selecting a package and the cores
inside it would count these twice. What stands behind a metric is not in its name, so its grade is A
(an external meter) unless the name is of a tool that reads the processor's or the cards' counters
(B) or shares these out among processes (C); ``grade=`` says otherwise.

Alumet's gauges are joules of one interval, neither a power nor a counter: divide them by the
interval in a query. Tested against a local server; never against the tools themselves.

Source: prometheus.io/docs/prometheus/latest/querying/api (instant queries); Kepler
docs/user/metrics.md; Scaphandre docs/references/metrics.md; NVIDIA DCGM Exporter Metrics
(default-counters.csv); Alumet user book, Prometheus Exporter plugin.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast, get_args
from urllib.parse import quote

from joulewise.core.energy import Component, Grade, Sensor
from joulewise.core.errors import SensorError, UsageError
from joulewise.meter.exposition import NAME, Selector, Series, parse_page, parse_selector
from joulewise.meter.network import Address, ask, ask_json, parse_address
from joulewise.meter.polled import (
    UNITS,
    Instrument,
    Nameable,
    NamedInstrument,
    Unit,
    number,
    pick,
    seconds_called,
    unit_called,
)

__all__ = ["PRESETS", "PROMETHEUS", "Preset"]

OPTIONS = ("query", "metric", "preset", "unit", "grade", "component", "update_s")

HINT = (
    "no server or exporter is named; give one as in: --meter "
    "'prometheus:http://HOST:9090?query=QUERY&unit=W' or --meter "
    "'prometheus:http://HOST:28282/metrics?preset=kepler'"
)

API = "/api/v1/query"

PAGE_UPDATE_S, SERVER_UPDATE_S = 5.0, 60.0
"""Time between new figures where none is seen to change, s. Source: a server's scrape_interval is
1 min unless it is set (prometheus.io, configuration); that of an exporter's page is a judgement."""

SUFFIXES: Mapping[str, str] = {
    "watts": "W",
    "milliwatts": "mW",
    "microwatts": "uW",
    "kilowatts": "kW",
    "joules": "J",
    "millijoules": "mJ",
    "microjoules": "uJ",
    "watt_hours": "Wh",
    "kilowatt_hours": "kWh",
}
"""Last words of a metric's name that are its unit. Source: prometheus.io, metric and label naming:
a name ends in its unit, and a counter's in _total after it."""

BANDS: Mapping[Grade, tuple[float, float, float]] = {
    "A": (0.97, 1.03, 1.01),
    "B": (0.9, 1.1, 1.05),
    "C": (0.7, 1.3, 1.15),
}
"""Lowest and highest true joules per joule shown, and the part that two programs do not share.

A as in joulewise.meter.recording, B as in joulewise.meter.rapl; C, a counter shared out by CPU
time, is a judgement.
"""

SHARED_OUT = re.compile(r"kepler_(process|container|vm|pod)_|scaph_process_")
COUNTED = re.compile(r"kepler_|scaph_|DCGM_|rapl")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What a tool calls its joules.

    Args:
        metric: selects series that may be added up.
        unit: see UNITS.
        update_s: time between new figures as the tool comes, s.
        covers: what the joules are of, in words.
    """

    metric: str
    unit: str
    update_s: float
    covers: str


PRESETS: Mapping[str, Preset] = {
    "kepler": Preset(
        metric='kepler_node_cpu_joules_total{zone=~"package|dram"}',
        unit="J",
        update_s=5.0,
        covers="CPU packages and DRAM of the node, as RAPL counts them",
    ),
    "scaphandre": Preset(
        metric="scaph_host_power_microwatts",
        unit="uW",
        update_s=PAGE_UPDATE_S,
        covers="the host as Scaphandre takes it: RAPL's psys, else packages and DRAM",
    ),
    "dcgm": Preset(
        metric="DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
        unit="mJ",
        update_s=30.0,
        covers="the NVIDIA cards of the exporter",
    ),
}
"""Tools whose names and units are documented. Intervals: Kepler's monitor.interval 5 s and
dcgm-exporter's collect-interval 30 s, unless they are set; Scaphandre's is a judgement."""


@dataclass(frozen=True, kw_only=True)
class _Question:
    """What is asked, where, and what the answer is."""

    address: Address
    text: str
    unit: Unit
    series: Callable[[], Iterator[Series]]
    covers: str
    stated_s: float

    def ask(self) -> dict[str, float]:
        """Return the figure of every rail now, W or J."""
        where = self.address.shown
        found = list(self.series())
        if not found:
            raise SensorError(f"{where} has no series for {self.text}; is the exporter running?")
        rails = {_rail(series, found): series.value for series in found}
        if len(rails) < len(found):
            raise SensorError(f"{where} has a series for {self.text} twice; select one of them")
        return {
            name: number(value, name, where) * self.unit.factor for name, value in rails.items()
        }


def named(argument: str) -> NamedInstrument:
    """Return the kind that reads what ``prometheus:`` is followed by.

    Args:
        argument: an address, and after the question mark ``query=``, ``metric=`` or ``preset=``;
            also ``unit=``, ``grade=``, ``component=``, ``update_s=`` and ``insecure=1``.

    Raises:
        UsageError: it is no address, or an option is missing or not understood.
    """
    address = parse_address(argument, "prometheus", OPTIONS)
    options = address.options
    question = _question(address)
    update_s = seconds_called(options.get("update_s"), "prometheus")
    grade = _one_of(options, "grade", tuple(BANDS)) or _grade(question.text)
    component = _one_of(options, "component", get_args(Component)) or _component(question.text)

    def find() -> Instrument:
        return Instrument(
            ask=question.ask,
            kind=question.unit.kind,
            sensor=_sensor(question, cast("Grade", grade)),
            component=cast("Component", component),
            update_s=update_s,
        )

    return NamedInstrument(
        find=find, grade=cast("Grade", grade), component=cast("Component", component)
    )


PROMETHEUS = Nameable(named=named, hint=HINT, grade="A", component="machine")
"""The kind of all metrics."""


def _question(address: Address) -> _Question:
    """Return what the options ask for."""
    options = address.options
    asked = [name for name in ("query", "metric", "preset") if name in options]
    if len(asked) != 1:
        raise UsageError(
            "prometheus: say what to read with one of query=PROMQL (a server), metric=NAME{...} or "
            f"preset={'|'.join(PRESETS)} (an exporter's page)"
        )
    if asked == ["query"]:
        return _of_server(address, options["query"])
    preset = _preset(options["preset"]) if "preset" in options else None
    text = preset.metric if preset else options["metric"]
    selector = parse_selector(text)
    unit = unit_called(preset.unit, "prometheus") if preset else _unit(options, selector.name)
    return _Question(
        address=address,
        text=text,
        unit=unit,
        series=lambda: _of_page(address, selector),
        covers=preset.covers if preset else f"what {text} covers",
        stated_s=preset.update_s if preset else PAGE_UPDATE_S,
    )


def _of_server(address: Address, query: str) -> _Question:
    base = address.path.rstrip("/").removesuffix(API)
    page = address.at(f"{base}{API}")
    try:
        name = parse_selector(query).name
    except UsageError:
        name = None  # an expression, whose unit must be named
    asked = page.at(f"{base}{API}?query={quote(query, safe='')}")
    return _Question(
        address=page,
        text=query,
        unit=_unit(address.options, name),
        series=lambda: _of_reply(ask_json(asked), page.shown),
        covers=f"what {query} covers",
        stated_s=SERVER_UPDATE_S,
    )


def _of_page(address: Address, selector: Selector) -> Iterator[Series]:
    text = ask(address).decode(errors="replace")
    return (series for series in parse_page(text, address.shown) if selector.fits(series))


def _of_reply(reply: object, where: str) -> Iterator[Series]:
    """Yield the series of an instant query's reply: a vector, or one number."""
    kind = pick(reply, "data.resultType", where)
    if kind == "scalar":
        yield Series(labels={NAME: "scalar"}, value=str(pick(reply, "data.result.1", where)))
        return
    found = pick(reply, "data.result", where)
    if kind != "vector" or not isinstance(found, list):
        raise SensorError(f"{where} answers with a {kind}, not with one figure per series; ask for "
                          "its value now, without a range in brackets")  # fmt: skip
    for each in found:
        labels = pick(each, "metric", where)
        value = pick(each, "value.1", where)
        if not isinstance(labels, dict):
            raise SensorError(f"{where} answers without labels; is it a Prometheus server?")
        yield Series(labels={str(key): str(text) for key, text in labels.items()}, value=str(value))


def _rail(series: Series, others: list[Series]) -> str:
    """Return a series' name, and those labels that tell it from the others."""
    name = series.labels.get(NAME, "value")
    labels = [
        f'{label}="{text}"'
        for label, text in sorted(series.labels.items())
        if label != NAME and any(other.labels.get(label) != text for other in others)
    ]
    return f"{name}{{{','.join(labels)}}}" if labels else name


def _preset(name: str) -> Preset:
    if name not in PRESETS:
        raise UsageError(
            f"prometheus: preset={name} is unknown; choose from: {', '.join(PRESETS)}, or name the "
            "metric with metric="
        )
    return PRESETS[name]


def _unit(options: Mapping[str, str], name: str | None) -> Unit:
    """Return the unit that is named, or that the metric's name ends in."""
    if "unit" in options:
        return unit_called(options["unit"], "prometheus")
    words = (name or "").removesuffix("_total")
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if words.endswith(f"_{suffix}"):
            return UNITS[SUFFIXES[suffix]]
    raise UsageError(
        f"prometheus: the name of the metric does not end in its unit; add &unit= and one of "
        f"{', '.join(UNITS)}"
    )


def _one_of(options: Mapping[str, str], option: str, known: tuple[str, ...]) -> str | None:
    value = options.get(option)
    if value is not None and value not in known:
        raise UsageError(
            f"prometheus: {option}={value} is not understood; it is one of {', '.join(known)}"
        )
    return value


def _grade(text: str) -> Grade:
    if SHARED_OUT.search(text):
        return "C"
    return "B" if COUNTED.search(text) else "A"


def _component(text: str) -> Component:
    if "DCGM_" in text:
        return "gpu"
    return "cpu" if COUNTED.search(text) else "machine"


def _sensor(question: _Question, grade: Grade) -> Sensor:
    low_ratio, high_ratio, pair_ratio = BANDS[grade]
    return Sensor(
        name="prometheus",
        grade=grade,
        boundary=f"{question.covers}, idle included",
        rails=(),
        includes_idle=True,
        resolution_j=None,
        update_period_s=question.stated_s,
        low_ratio=low_ratio,
        high_ratio=high_ratio,
        pair_ratio=pair_ratio,
        source=f"Prometheus: {question.text} of {question.address.shown}; its error is a judgement",
    )
