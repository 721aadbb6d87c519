"""Put place, building and price together; the one public way to grams and money."""

from __future__ import annotations

from joulewise.carbon.table import find_intensity
from joulewise.core.errors import UsageError
from joulewise.core.supply import Intensity, Price, Supply

__all__ = ["supply"]


def supply(
    place: str | None = None,
    *,
    service: str | None = None,
    pue: float | None = None,
    price: float | None = None,
    currency: str | None = None,
) -> Supply:
    """Return where electricity comes from, which turns joules into grams and money.

    ::

        joulewise.supply("DE", pue=1.2).footprint(3.6e6).carbon.g

    Args:
        place: a country ("DE"), a US subregion ("us:CAMX"), a cloud region ("gcp:europe-west1") or
            "world"; None counts no grams. ``joulewise carbon --list`` shows all.
        service: a service to ask for the present intensity instead of the tables: "uk",
            "electricitymaps" or "energidataservice"; it goes over the network, once.
        pue: energy of the whole building for each joule of its computers, 1 or more; None adds no
            overhead.
        price: of a kWh; None counts no money.
        currency: of the price, as in "EUR".

    Raises:
        UsageError: a value cannot be meant, or the place is unknown.
        InputError: the service gave no figure.
    """
    if (price is None) != (currency is None):
        raise UsageError("a price needs its currency: give both --price 0.25 and --currency EUR")
    return Supply(
        intensity=_intensity(place, service),
        pue=pue,
        price=None
        if price is None or currency is None
        else Price(per_kwh=price, currency=currency.upper()),
    )


def _intensity(place: str | None, service: str | None) -> Intensity | None:
    if service is not None:
        from joulewise.carbon.services import ask_service

        return ask_service(service, place)
    return None if place is None else find_intensity(place)
