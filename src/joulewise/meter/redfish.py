"""Read a server's power from its BMC through Redfish (grade A).

Named by the user and never chosen by itself: ``redfish:https://BMC`` looks for the chassis that has
a power meter, ``redfish:https://BMC/redfish/v1/Chassis/1/Power`` reads that resource. A counter of
joules is read where there is one, else the power is sampled and added up; EnergykWh moves in steps
of at best minutes and is read with ``read=kwh`` only. User and password come from
JOULEWISE_REDFISH_USER and JOULEWISE_REDFISH_PASSWORD.

Invariant: one resource of one chassis is read, as a chassis may contain others and power supplies
and processors lie inside it.

Tested against a local server that answers as the schemas say; never on a BMC.

Source: DMTF DSP2046, Redfish schemas: Power.PowerControl[].PowerConsumedWatts ("the actual power
being consumed by the chassis"), EnvironmentMetrics.PowerWatts, EnergyJoules and EnergykWh
(excerpts of a Sensor, with Reading); DMTF DSP0266: HTTP Basic authentication for every request.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from joulewise.core.energy import Sensor
from joulewise.core.errors import SensorError, UsageError
from joulewise.meter.network import Address, ask_json, parse_address
from joulewise.meter.polled import (
    UNITS,
    Instrument,
    Nameable,
    NamedInstrument,
    Unit,
    has,
    number,
    pick,
    seconds_called,
)

__all__ = ["FIELDS", "REDFISH", "Figure"]

RAIL = "chassis"

ROOT = "/redfish/v1/Chassis"
"""The collection of chassis. Source: DSP0266, service root."""

BASES = ("", "/redfish", "/redfish/v1")
"""Paths that name the BMC only."""

OPTIONS = ("read", "update_s")

HINT = (
    "no BMC is named; set JOULEWISE_REDFISH_USER and JOULEWISE_REDFISH_PASSWORD and give its "
    "address as in: --meter redfish:https://BMC"
)

UPDATE_PERIOD_S = 10.0
"""Time between new figures where none is seen to change, s: a judgement; BMCs differ from 1 s to
1 min, and no schema says."""

RATIOS, PAIR_RATIO = (0.9, 1.1), 1.05
"""Error of a BMC's power meter, and the part that two programs do not share: judgements.

It is the power supplies' own meter, rounded to 1 W at best; makers rarely publish a bound.
"""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A field that tells joules or watts.

    Args:
        read: the option that asks for it.
        path: the field.
        unit: see UNITS.
    """

    read: str
    path: str
    unit: str


FIELDS = (
    Figure(read="joules", path="EnergyJoules.Reading", unit="J"),
    Figure(read="power", path="PowerWatts.Reading", unit="W"),
    Figure(read="power", path="PowerControl.0.PowerConsumedWatts", unit="W"),
    Figure(read="kwh", path="EnergykWh.Reading", unit="kWh"),
)
"""The best first."""

LINKS = ("EnvironmentMetrics", "Power")
"""Resources of a chassis that have such fields, the newer first."""


@dataclass(frozen=True, kw_only=True)
class _Found:
    """One field of one resource."""

    address: Address
    path: str
    unit: Unit

    def ask(self) -> dict[str, float]:
        """Return the figure now, W or J."""
        where = self.address.shown
        value = pick(ask_json(self.address), self.path, where)
        return {RAIL: number(value, self.path, where) * self.unit.factor}


def named(argument: str) -> NamedInstrument:
    """Return the kind that reads the BMC that ``redfish:`` is followed by.

    Args:
        argument: its address, with ``read=joules|power|kwh``, ``update_s=`` or ``insecure=1`` after
            the question mark.

    Raises:
        UsageError: it is no address, or an option is not understood.
    """
    address = parse_address(argument, "redfish", OPTIONS)
    read = address.options.get("read")
    known = sorted({figure.read for figure in FIELDS})
    if read is not None and read not in known:
        raise UsageError(f"redfish: read={read} is not understood; use one of {', '.join(known)}")
    update_s = seconds_called(address.options.get("update_s"), "redfish")
    return NamedInstrument(
        find=lambda: _instrument(_find(address, read), update_s), grade="A", component="machine"
    )


REDFISH = Nameable(named=named, hint=HINT, grade="A", component="machine")
"""The kind of all BMCs."""


def _find(address: Address, read: str | None) -> _Found:
    """Return the field to read; a resource that is named is the only one looked at."""
    place = address.at(ROOT) if address.path.rstrip("/") in BASES else address
    reply = ask_json(place)
    if has(reply, "Members"):
        found = list(_in_members(place, reply, read))
    else:
        one = _in_resource(place, reply, read) or _in_chassis(place, reply, read)
        found = [one] if one else []
    if len(found) == 1:
        return found[0]
    if found:
        raise SensorError(
            f"{place.shown} has several chassis with a power meter, and one may contain another; "
            f"name one: {', '.join(f'redfish:{each.address.shown}' for each in found)}"
        )
    raise SensorError(
        f"{place.shown} tells no {' or '.join(figure.path for figure in FIELDS[:3])}; name the "
        "resource that does, or log its power and use --meter recording:FILE"
    )


def _in_members(address: Address, reply: object, read: str | None) -> Iterator[_Found]:
    members = pick(reply, "Members", address.shown)
    for member in members if isinstance(members, list) else []:
        chassis = _linked(address, member)
        found = _in_chassis(chassis, ask_json(chassis), read) if chassis else None
        if found is not None:
            yield found


def _in_chassis(address: Address, reply: object, read: str | None) -> _Found | None:
    """Return the best field of the resources that a chassis links to."""
    for link in LINKS:
        resource = _linked(address, reply.get(link)) if isinstance(reply, dict) else None
        found = _in_resource(resource, ask_json(resource), read) if resource else None
        if found is not None:
            return found
    return None


def _in_resource(address: Address, reply: object, read: str | None) -> _Found | None:
    for figure in FIELDS:
        wanted = figure.read == read or (read is None and figure.read != "kwh")
        if wanted and has(reply, figure.path) and pick(reply, figure.path, "") is not None:
            return _Found(address=address, path=figure.path, unit=UNITS[figure.unit])
    return None


def _linked(address: Address, reference: object) -> Address | None:
    """Return the address that a reference names; it is on the same host."""
    path = reference.get("@odata.id") if isinstance(reference, dict) else None
    return address.at(path) if isinstance(path, str) and path.startswith("/") else None


def _instrument(found: _Found, update_s: float | None) -> Instrument:
    return Instrument(
        ask=found.ask,
        kind=found.unit.kind,
        update_s=update_s,
        sensor=Sensor(
            name="redfish",
            grade="A",
            boundary=f"the chassis {found.address.shown}, idle included",
            rails=(RAIL,),
            includes_idle=True,
            resolution_j=None,
            update_period_s=UPDATE_PERIOD_S,
            low_ratio=RATIOS[0],
            high_ratio=RATIOS[1],
            pair_ratio=PAIR_RATIO,
            source=f"{found.path}: {found.address.shown}; its error is a judgement of 10 %",
        ),
    )
