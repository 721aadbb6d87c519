"""Read a smart plug over HTTP (grade A): Shelly, Tasmota, or any that answers in JSON.

It is named by the user and never chosen by itself: ``plug:http://192.168.1.5`` tries the pages that
are known, ``plug:http://HOST/PAGE?path=a.b.c&unit=W`` reads any field of any page. The power is
sampled and added up, as it is renewed every second; a plug's own counter moves in steps of 3.6 J
(Shelly Gen2+), 60 J (Gen1) or 3600 J (Tasmota), so it is read with ``read=energy`` only.

Tested against a local server that answers as the documents below say; never on a plug.

Source: shelly-api-docs.shelly.cloud (Gen1 /status and /meter/0: power in W, total in watt-minutes;
Gen2+ Switch.GetStatus and PM1.GetStatus: apower in W, aenergy.total in Wh); tasmota.github.io/docs,
JSON Status Responses and Commands (Status 8: ENERGY.Power in W, ENERGY.Total in kWh).
"""

from __future__ import annotations

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
    unit_called,
)
from joulewise.meter.rails import UnansweredError

__all__ = ["DIALECTS", "PLUG", "Dialect"]

RAIL = "plug"

OPTIONS = ("path", "unit", "read", "update_s")

HINT = (
    "no plug is named; give its address as in: --meter plug:http://192.168.1.5 (Shelly, Tasmota), "
    "or --meter 'plug:http://HOST/PAGE?path=a.b.c&unit=W'"
)

UPDATE_PERIOD_S = 1.0
"""Time between new figures where none is seen to change, s: a judgement; energy chips add up over
about a second."""

RATIOS, PAIR_RATIO = (0.95, 1.05), 1.02
"""Error of a smart plug, and the part that two programs do not share: judgements.

No bound is published for plugs as sold; their gain, which calibration sets, cancels in a ratio.
"""


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How one make of plug answers.

    Args:
        name: the make.
        page: where it answers.
        power: field with the power, W.
        energy: field with the counter.
        unit: unit of the counter.
        step_j: step of the counter, J.
        valid: field that says whether the figures are; None where there is none.
    """

    name: str
    page: str
    power: str
    energy: str
    unit: str
    step_j: float
    valid: str | None = None

    def fits(self, reply: object) -> bool:
        """Say whether a reply is in this dialect."""
        return has(reply, self.power) and (self.valid is None or has(reply, self.valid))


DIALECTS = (
    Dialect(
        name="Shelly Gen2+",
        page="/rpc/Switch.GetStatus?id=0",
        power="apower",
        energy="aenergy.total",
        unit="Wh",
        step_j=3.6,
    ),
    Dialect(
        name="Tasmota",
        page="/cm?cmnd=Status%208",
        power="StatusSNS.ENERGY.Power",
        energy="StatusSNS.ENERGY.Total",
        unit="kWh",
        step_j=3600.0,
    ),
    Dialect(
        name="Shelly Gen1",
        page="/status",
        power="meters.0.power",
        energy="meters.0.total",
        unit="Wmin",
        step_j=60.0,
        valid="meters.0.is_valid",
    ),
    Dialect(
        name="Shelly Gen1",
        page="/meter/0",
        power="power",
        energy="total",
        unit="Wmin",
        step_j=60.0,
        valid="is_valid",
    ),
)
"""Steps are those of the decimals that are sent: 0.001 Wh, 0.001 kWh (EnergyRes 3) and 1 Wmin."""


@dataclass(frozen=True, kw_only=True)
class _Field:
    """One field of one page, and what it is."""

    address: Address
    path: str
    unit: Unit
    maker: str
    step_j: float | None = None
    valid: str | None = None

    def ask(self) -> dict[str, float]:
        """Return the figure now, W or J."""
        where = self.address.shown
        reply = ask_json(self.address)
        if self.valid is not None and pick(reply, self.valid, where) is not True:
            raise SensorError(
                f"{where} says that its figures are not valid; is the load plugged in?"
            )
        figure = number(pick(reply, self.path, where), self.path, where)
        return {RAIL: figure * self.unit.factor}


def named(argument: str) -> NamedInstrument:
    """Return the kind that reads the plug that ``plug:`` is followed by.

    Args:
        argument: its address, with ``path=``, ``unit=``, ``read=energy``, ``update_s=`` or
            ``insecure=1`` after the question mark.

    Raises:
        UsageError: it is no address, or an option is not understood.
    """
    address = parse_address(argument, "plug", OPTIONS)
    options = address.options
    read = options.get("read", "power")
    if read not in ("power", "energy"):
        raise UsageError(f"plug: read={read} is not understood; write read=power or read=energy")
    if ("path" in options) != ("unit" in options):
        raise UsageError(
            f"plug: path= and unit= belong together, as in path=a.b.c&unit=W; units are "
            f"{', '.join(UNITS)}"
        )
    unit = unit_called(options["unit"], "plug") if "unit" in options else None
    update_s = seconds_called(options.get("update_s"), "plug")

    def find() -> Instrument:
        if unit is not None:
            path = options["path"]
            field = _Field(address=address, path=path, unit=unit, maker=f"the field {path}")
        else:
            field = _field(address, read)
        return _instrument(field, update_s)

    return NamedInstrument(find=find, grade="A", component="machine")


PLUG = Nameable(named=named, hint=HINT, grade="A", component="machine")
"""The kind of all plugs."""


def _field(address: Address, read: str) -> _Field:
    """Find out what a plug answers with; the page that the user named is the only one asked."""
    only_host = address.path in ("", "/")
    pages = [address.at(dialect.page) for dialect in DIALECTS] if only_host else [address]
    refused: SensorError | None = None
    for page in pages:
        try:
            reply = ask_json(page)
        except UnansweredError:
            raise
        except SensorError as error:
            refused = refused or error
            continue
        for dialect in DIALECTS:
            if dialect.fits(reply):
                return _spoken(dialect, page, read)
    if refused is not None and len(pages) == 1:
        raise refused
    raise SensorError(
        f"{address.shown} answers like no Shelly or Tasmota with a power meter"
        f"{f' ({refused})' if refused else ''}; name its page and field: "
        "--meter 'plug:http://HOST/PAGE?path=a.b.c&unit=W'"
    )


def _spoken(dialect: Dialect, address: Address, read: str) -> _Field:
    if read == "power":
        return _Field(
            address=address,
            path=dialect.power,
            unit=UNITS["W"],
            maker=dialect.name,
            valid=dialect.valid,
        )
    return _Field(
        address=address,
        path=dialect.energy,
        unit=UNITS[dialect.unit],
        maker=dialect.name,
        step_j=dialect.step_j,
        valid=dialect.valid,
    )


def _instrument(field: _Field, update_s: float | None) -> Instrument:
    return Instrument(
        ask=field.ask,
        kind=field.unit.kind,
        update_s=update_s,
        sensor=Sensor(
            name="plug",
            grade="A",
            boundary=f"all that the plug {field.address.host} feeds, idle included",
            rails=(RAIL,),
            includes_idle=True,
            resolution_j=field.step_j,
            update_period_s=UPDATE_PERIOD_S,
            low_ratio=RATIOS[0],
            high_ratio=RATIOS[1],
            pair_ratio=PAIR_RATIO,
            source=f"{field.maker}: {field.address.shown}; its error is a judgement of 5 %",
        ),
    )
