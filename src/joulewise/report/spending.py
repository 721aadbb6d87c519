"""Plots of what a search has cost: its joules by cause, and how inferences pay them back."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from joulewise.core.energy import Interval
from joulewise.core.records import Bundle
from joulewise.report.plots import altair, specification
from joulewise.report.text import approximate, grade_word, joules, plain, seconds, span
from joulewise.report.verdict import winning_claim

__all__ = ["ledger_spec", "payback_spec"]

_BAR, _BASELINE, _CHOSEN, _GREY = "#3B8EDB", "#E07B00", "#009E73", "#8A8F98"
_ROW_HEIGHT = 30
_ROOM = 24  # the page's font is wider than the one that labels are measured in
_MOST_BEYOND = 4.0  # times the break-even, to which the inferences reach at the most


def ledger_spec(bundle: Bundle) -> dict[str, Any] | None:
    """Return bars of the joules by cause with their intervals, None where nothing was billed.

    Raises:
        MissingExtraError: altair is not installed.
    """
    alt, ledger = altair(), bundle.ledger
    if not ledger.total_j.central > 0:
        return None
    rows = [
        {
            "cause": plain(cause),
            "low": spent.low,
            "x": spent.central,
            "high": spent.high,
            "joules": f"{joules(spent.central)} ({span(spent, joules)})",
            "time": seconds(ledger.seconds.get(cause)),
            "grade": f"{ledger.grade}, {grade_word(ledger.grade)}",
        }
        for cause, spent in ledger.stages_j.items()
    ]
    title = f"joules ({grade_word(ledger.grade)}, grade {ledger.grade})"
    base = alt.Chart(alt.Data(values=rows)).encode(
        y=alt.Y("cause:N", sort=None, title=None, axis=alt.Axis(labelFontSize=12, ticks=False)),
        tooltip=[alt.Tooltip(f"{name}:N") for name in ("cause", "joules", "time", "grade")],
    )
    axis = alt.Axis(format="~s", titlePadding=10)
    bars = base.mark_bar(color=_BAR, height={"band": 0.6}).encode(
        x=alt.X("x:Q", title=title, axis=axis)
    )
    intervals = base.mark_rule(color=_GREY, strokeWidth=2).encode(x="low:Q", x2="high:Q")
    chart = alt.layer(bars, intervals).properties(
        width="container",
        height=alt.Step(_ROW_HEIGHT),
        padding={"left": _ROOM, "right": 5, "top": 5, "bottom": 5},
    )
    return specification(chart)


def payback_spec(bundle: Bundle) -> dict[str, Any] | None:
    """Return joules against inferences, the baseline's and the winner's with its search.

    The winner's line begins with what the search cost. The lines cross at the break-even of the
    ledger, and its interval is that of the energy ratio: one sensor tells cost and saving, so the
    band of its absolute joules moves both lines alike, and their crossing stays where it is.

    Returns:
        None where nothing is saved.

    Raises:
        InputError: the bundle announces a winner that no claim in it proves.
        MissingExtraError: altair is not installed.
    """
    alt, claim, even = altair(), winning_claim(bundle), bundle.ledger.break_even_items
    baseline = None if claim is None else claim.measurements.get("baseline")
    per_item = None if baseline is None else baseline.net_j_per_item
    if claim is None or even is None or per_item is None:
        return None
    ratio, cost_j = claim.ratio, bundle.ledger.total_j.central
    shares = Interval(low=ratio.low, central=ratio.value, high=ratio.high)
    whole = Interval(low=1.0, central=1.0, high=1.0)
    items = min(1.5 * even.high, _MOST_BEYOND * even.central)
    rows = [
        *_line("baseline", whole.scaled(per_item.central), 0.0, items),
        *_line("chosen, and the search", shares.scaled(per_item.central), cost_j, items),
    ]
    grade = f"{grade_word(bundle.ledger.grade)}, grade {bundle.ledger.grade}"
    layers = [*_crossing(alt, even, items), *_lines(alt, rows, f"joules ({grade})")]
    return specification(alt.layer(*layers).properties(width="container", height=300))


def _line(program: str, per_item_j: Interval, first_j: float, items: float) -> list[dict[str, Any]]:
    """Return the two ends of a line that begins at `first_j`."""
    return [
        {
            "program": program,
            "items": number,
            "low": first_j + per_item_j.low * number,
            "y": first_j + per_item_j.central * number,
            "high": first_j + per_item_j.high * number,
        }
        for number in (0.0, items)
    ]


def _lines(alt: ModuleType, rows: list[dict[str, Any]], title: str) -> list[Any]:
    """Return both lines, and the interval of the winner's."""
    programs = list(dict.fromkeys(row["program"] for row in rows))
    legend = alt.Legend(orient="top", title=None, labelFontSize=12, labelLimit=0)
    scale = alt.Scale(domain=programs, range=[_BASELINE, _CHOSEN])
    axis, across = alt.Axis(format="~s", titlePadding=18), alt.Axis(format="~s", tickCount=8)
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("items:Q", title="inferences", axis=across, scale=alt.Scale(nice=False)),
        color=alt.Color("program:N", scale=scale, legend=legend),
    )
    band = base.mark_area(opacity=0.25).encode(
        y=alt.Y("low:Q", title=title, axis=axis), y2="high:Q"
    )
    dashes = alt.Scale(domain=programs, range=[[6, 4], [1, 0]])
    line = base.mark_line(strokeWidth=2.5).encode(
        y=alt.Y("y:Q", title=title, axis=axis),
        strokeDash=alt.StrokeDash("program:N", scale=dashes, legend=legend),
    )
    return [band, line]


def _crossing(alt: ModuleType, even: Interval, items: float) -> list[Any]:
    """Return the break-even with its interval, as far as the inferences go."""
    words = f"pays back after {approximate(even.central)} ({span(even, approximate)})"
    row = {"low": even.low, "x": even.central, "high": min(even.high, items), "text": words}
    base = alt.Chart(alt.Data(values=[row]))
    band = base.mark_rect(color=_GREY, opacity=0.25).encode(x="low:Q", x2="high:Q")
    rule = base.mark_rule(color=_GREY, strokeWidth=1.5, strokeDash=[3, 3]).encode(x="x:Q")
    label = base.mark_text(align="left", dx=6, dy=-6, fontSize=12).encode(
        x="x:Q", y=alt.value("height"), text="text:N"
    )
    return [band, rule, label]
