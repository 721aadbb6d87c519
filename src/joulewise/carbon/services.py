"""What a kilowatt-hour brings right now, from services that are asked only when they are named.

Nothing here runs unless ``--service NAME`` or ``service="NAME"`` says so. A service is asked once,
before anything is measured; a failure is one line and never a figure. All three give averages,
location-based and with imports; the range of a direct figure is raised to the life cycle as in the
tables.

The address of a service can be replaced with JOULEWISE_SERVICE_URL, for a cache that answers alike.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

from joulewise.carbon.table import life_cycle_high
from joulewise.core.energy import Interval
from joulewise.core.errors import InputError, UsageError, one_line
from joulewise.core.registry import Entry, Registry
from joulewise.core.supply import Basis, Intensity

__all__ = [
    "SERVICES",
    "Service",
    "ask_service",
    "electricity_maps",
    "energi_data_service",
    "uk_carbon_intensity",
]

TIMEOUT_S = 10.0
"""How long a service may take to answer, s."""

MAX_BYTES = 1 << 20
"""No answer is anywhere near as long."""

URL, TOKEN = "JOULEWISE_SERVICE_URL", "ELECTRICITYMAPS_TOKEN"

UK_REGIONS = 17
"""Regions of Great Britain at the UK service, from 1; 15 to 17 are England, Scotland and Wales."""

Service = Callable[[str | None], Intensity]
"""Takes the place as the user gave it, None where none was given."""

SERVICES: Registry[Service] = Registry(
    "carbon service",
    {
        "uk": Entry(
            target="joulewise.carbon.services:uk_carbon_intensity",
            summary="NESO Carbon Intensity API: GB or gb:1 to gb:17, half-hours, no key",
        ),
        "electricitymaps": Entry(
            target="joulewise.carbon.services:electricity_maps",
            summary=f"Electricity Maps: any of its zones, hours; needs a token in {TOKEN}",
        ),
        "energidataservice": Entry(
            target="joulewise.carbon.services:energi_data_service",
            summary="Energi Data Service: Denmark, dk:DK1 or dk:DK2, five minutes, no key",
        ),
    },
    group="joulewise.carbon",
)


def ask_service(source: str, place: str | None) -> Intensity:
    """Ask a service for the present intensity.

    Args:
        source: name in SERVICES.
        place: as the service knows it; None where it covers one country only.

    Raises:
        UsageError: there is no such service, or it does not know the place.
        InputError: it cannot be reached, or its answer cannot be read.
    """
    return SERVICES.load(source)(place)


def uk_carbon_intensity(place: str | None) -> Intensity:
    """Return the present half-hour of Great Britain or of one of its regions.

    The range spans the forecast and, for the whole, the estimate of what it really was.

    Args:
        place: "GB", None for the same, or "gb:13" (London).

    Source: https://carbon-intensity.github.io/api-definitions/, ``/intensity`` and
    ``/regional/regionid/{id}``; grams from burning at power stations, imports included.
    """
    region = _region(place)
    if region is None:
        answer = _ask("https://api.carbonintensity.org.uk", "/intensity")
        period = _at(answer, "data", 0)
        name = "Great Britain"
    else:
        answer = _ask("https://api.carbonintensity.org.uk", f"/regional/regionid/{region}")
        period = _at(answer, "data", 0, "data", 0)
        name = f"Great Britain, {_at(answer, 'data', 0, 'shortname')}"
    told = _at(period, "intensity")
    grams = [_grams(told[key]) for key in ("actual", "forecast") if told.get(key) is not None]
    return _intensity(
        place="GB" if region is None else f"gb:{region}",
        name=name,
        grams=grams,
        basis="direct",
        period=str(_at(period, "from")),
        source="NESO Carbon Intensity API, https://api.carbonintensity.org.uk",
        licence="CC-BY-4.0",
    )


def electricity_maps(place: str | None) -> Intensity:
    """Return the present hour of a zone of Electricity Maps.

    Args:
        place: the zone, as in "DE" or "US-CAL-CISO".

    Source: https://portal.electricitymaps.com/developer-hub/api/reference,
    ``/v3/carbon-intensity/latest``: life cycle, with imports.
    """
    if place is None:
        raise UsageError("Electricity Maps wants a zone: add e.g. --place DE")
    token = os.environ.get(TOKEN)
    if not token:
        raise UsageError(f"Electricity Maps wants a token: get one from it and set {TOKEN}")
    query = urlencode({"zone": place.upper(), "emissionFactorType": "lifecycle"})
    answer = _ask(
        "https://api.electricitymaps.com",
        f"/v3/carbon-intensity/latest?{query}",
        headers={"auth-token": token},
    )
    estimated = ", estimated" if answer.get("isEstimated") else ""
    return _intensity(
        place=str(_at(answer, "zone")),
        name=f"zone {_at(answer, 'zone')}{estimated}",
        grams=[_grams(_at(answer, "carbonIntensity"))],
        basis="direct" if answer.get("emissionFactorType") == "direct" else "life-cycle",
        period=str(_at(answer, "datetime")),
        source="Electricity Maps, https://www.electricitymaps.com",
        licence="as in your contract with Electricity Maps",
    )


def energi_data_service(place: str | None) -> Intensity:
    """Return the latest five minutes of Denmark or of one of its two price areas.

    Args:
        place: "DK", None for the same, "dk:DK1" or "dk:DK2"; the range of the whole spans both.

    Source: https://www.energidataservice.dk/tso-electricity/CO2Emis: grams from burning for the
    power consumed, imports included.
    """
    wanted = (place or "DK").upper().removeprefix("DK:")
    if wanted not in {"DK", "DK1", "DK2"}:
        raise UsageError(f"Energi Data Service knows DK, dk:DK1 and dk:DK2, not {place!r}")
    areas = ["DK1", "DK2"] if wanted == "DK" else [wanted]
    query = urlencode(
        {
            "limit": len(areas),
            "sort": "Minutes5UTC DESC",
            "filter": json.dumps({"PriceArea": areas}),
        },
        quote_via=quote,
    )
    answer = _ask("https://api.energidataservice.dk", f"/dataset/CO2Emis?{query}")
    newest = _at(answer, "records", 0)
    return _intensity(
        place="DK" if wanted == "DK" else f"dk:{wanted}",
        name="Denmark" if wanted == "DK" else f"Denmark, {wanted}",
        grams=[_grams(_at(record, "CO2Emission")) for record in answer["records"]],
        basis="direct",
        period=f"{_at(newest, 'Minutes5UTC')}Z",
        source="Energinet, Energi Data Service, CO2Emis, https://www.energidataservice.dk",
        licence="as in Energinet's terms",
    )


def _intensity(
    *,
    place: str,
    name: str,
    grams: Sequence[float],
    basis: Basis,
    period: str,
    source: str,
    licence: str,
) -> Intensity:
    """Return the mean of what was told; the range spans it, raised to the life cycle."""
    if not grams:
        raise InputError(
            f"{source} has no figure for {place} now; try again, or leave --service out"
        )
    high = max(grams)
    return Intensity(
        place=place,
        name=name,
        g_per_kwh=Interval(
            low=min(grams),
            central=sum(grams) / len(grams),
            high=life_cycle_high(high) if basis == "direct" else high,
        ),
        basis=basis,
        period=period,
        source=source,
        licence=licence,
    )


def _region(place: str | None) -> int | None:
    """Return the number in "gb:13"; None for all of Great Britain."""
    if place is None or place.upper() in {"GB", "UK"}:
        return None
    kind, _, number = place.lower().partition(":")
    if kind != "gb" or not number.isdecimal() or not 1 <= int(number) <= UK_REGIONS:
        raise UsageError(
            f"the UK service knows GB and gb:1 to gb:{UK_REGIONS} (13 is London), not {place!r}"
        )
    return int(number)


def _ask(base: str, path: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """Return the JSON object that a service answers with.

    Raises:
        InputError: it cannot be reached in TIMEOUT_S, refuses, or answers something else.
    """
    url = f"{os.environ.get(URL, base).rstrip('/')}{path}"
    host = url.split("/")[2] if "://" in url else url
    try:
        request = Request(url, headers={"Accept": "application/json", **(headers or {})})  # noqa: S310  (checked below)
        if request.type not in {"http", "https"}:
            raise UsageError(f"{URL} must begin with https:// or http://, not {request.type}:")
        with urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            found = json.loads(answer.read(MAX_BYTES))
    except HTTPError as error:
        raise InputError(f"{host} refused: {error.code} {error.reason}{_advice(error)}") from error
    except (URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise InputError(
            f"cannot reach {host}: {one_line(reason if isinstance(reason, Exception) else error)}; "
            "try again, or leave --service out"
        ) from error
    except ValueError as error:
        raise InputError(f"{host} did not answer in JSON: {one_line(error)}") from error
    if not isinstance(found, dict):
        raise InputError(f"{host} answered something else than expected; leave --service out")
    return found


def _advice(error: HTTPError) -> str:
    with error:
        if error.code in {401, 403}:
            return f"; check the token in {TOKEN}"
        return "; check the place" if error.code in {400, 404} else "; try again later"


def _at(found: Any, *path: str | int) -> Any:  # noqa: ANN401  (JSON)
    """Return what is at a path inside an answer; raises InputError where nothing is."""
    for step in path:
        try:
            found = found[step]
        except (KeyError, IndexError, TypeError) as error:
            wanted = ".".join(map(str, path))
            raise InputError(
                f"the answer of the service has no {wanted}; try again, or leave --service out"
            ) from error
    return found


def _grams(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 10_000:
        return float(value)
    raise InputError(f"the service told {value!r} g/kWh, which cannot be; leave --service out")
