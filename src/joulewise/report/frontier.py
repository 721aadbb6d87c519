"""The frontier plot: energy of every trial against its quality, as a Vega-Lite specification.

Colour is never alone: every state has its own shape too. A line in steps joins the trials that no
plotted one equals or beats in both; latency and size are left to the table's front.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

from joulewise.core.claim import Trial
from joulewise.core.front import non_dominated
from joulewise.core.records import Bundle
from joulewise.report.plots import altair, specification
from joulewise.report.text import gap
from joulewise.report.verdict import TrialRow, trial_table

__all__ = ["frontier_spec", "plotted"]

_STATES = ("chosen", "measured", "rejected", "failed")
_COLOURS = ("#009E73", "#3B8EDB", "#E07B00", "#CC79A7")  # near Okabe and Ito 2008, lighter blue
_SHAPES = ("diamond", "circle", "triangle-up", "cross")
_TOOLTIP = (
    "recipe",
    "verdict",
    "energy ratio",
    "joules per item",
    "quality",
    "p95",
    "size",
    "reason",
)
_LINE = "#8A8F98"
_WIDE = 8.0  # largest over smallest ratio from which the axis is logarithmic
_LARGEST_LOSS = 0.1  # trials that lose more quality than this would flatten the picture


def frontier_spec(bundle: Bundle) -> dict[str, Any] | None:
    """Return the plot of the `plotted` trials, None where there are none.

    Raises:
        MissingExtraError: altair is not installed.
    """
    alt = altair()
    values = plotted(bundle)
    if not values:
        return None
    layers = [*_margin(alt, bundle), *_marks(alt, values)]
    return specification(alt.layer(*layers).properties(width="container", height=380))


def plotted(bundle: Bundle) -> list[dict[str, Any]]:
    """Return one point per trial with a ratio and a quality, unless it is far below the original.

    Those that are left out stay in the table.
    """
    original = _original_quality(bundle)
    floor = 0.0 if original is None else original - _LARGEST_LOSS
    pairs = zip(bundle.trials, trial_table(bundle), strict=True)
    points = [
        point
        for trial, row in pairs
        if (point := _point(trial, row)) is not None and point["y"] >= floor
    ]
    kept = non_dominated([(point["x"], -point["y"]) for point in points])
    return [{**point, "front": best} for point, best in zip(points, kept, strict=True)]


def _point(trial: Trial, row: TrialRow) -> dict[str, Any] | None:
    if trial.ratio is None or trial.quality is None:
        return None
    return {
        "low": trial.ratio.low,
        "x": trial.ratio.value,
        "high": trial.ratio.high,
        "y": trial.quality.value,
        "label": "chosen" if row.verdict == "chosen" else row.role,
        "recipe": row.recipe,
        "verdict": row.verdict,
        "energy ratio": row.ratio,
        "joules per item": row.joules,
        "quality": row.quality,
        "p95": row.latency,
        "size": row.size,
        "reason": row.reason,
    }


def _marks(alt: ModuleType, values: list[dict[str, Any]]) -> list[Any]:
    """Return the front, interval bars, points and labels."""
    x, low = _x_axis(alt, "x", values), _x_axis(alt, "low", values)
    y, state = _y_axis(alt), _states(alt, values)
    base = alt.Chart(alt.Data(values=values))
    bars = base.mark_rule(strokeWidth=2, opacity=0.5).encode(
        x=low, x2="high:Q", y=y, color=state["color"]
    )
    front = base.transform_filter("datum.front").mark_line(
        interpolate="step-after", strokeWidth=1.5, color=_LINE, opacity=0.8
    )
    front = front.encode(x=x, y=y, order="x:Q")
    symbols = base.mark_point(filled=True, opacity=1).encode(
        x=x,
        y=y,
        size=alt.condition("datum.verdict == 'chosen'", alt.value(240), alt.value(90)),
        tooltip=[alt.Tooltip(f"{name}:N") for name in _TOOLTIP],
        **state,
    )
    found = "datum.label == 'as found'"  # below its mark: it often lies beside the baseline's
    above = base.transform_filter(f"!({found})").mark_text(dy=-15, fontSize=12)
    below = base.transform_filter(found).mark_text(dy=18, fontSize=12)
    labels = [marks.encode(x=x, y=y, text="label:N") for marks in (above, below)]
    return [front, bars, symbols, *labels]


def _x_axis(alt: ModuleType, field: str, values: list[dict[str, Any]]) -> Any:  # noqa: ANN401  altair's types
    low, high = min(v["low"] for v in values), max(v["high"] for v in values)
    wide = low > 0 and high / low > _WIDE
    scale = alt.Scale(type="log" if wide else "linear", zero=False, nice=False, padding=24)
    title = "energy ratio to the anchor"
    return alt.X(f"{field}:Q", title=title, scale=scale)


def _y_axis(alt: ModuleType) -> Any:  # noqa: ANN401  altair's types
    scale = alt.Scale(zero=False, nice=False, padding=28)
    axis = alt.Axis(format=".2%", titlePadding=18)
    return alt.Y("y:Q", title="quality on the search split", scale=scale, axis=axis)


def _states(alt: ModuleType, values: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the encodings of a trial's state, with a legend of the states that occur."""
    present = [state for state in _STATES if any(v["verdict"] == state for v in values)]
    chosen = [_STATES.index(state) for state in present]
    legend = alt.Legend(orient="top", title=None, labelFontSize=12)
    colours = alt.Scale(domain=present, range=[_COLOURS[i] for i in chosen])
    shapes = alt.Scale(domain=present, range=[_SHAPES[i] for i in chosen])
    return {
        "color": alt.Color("verdict:N", scale=colours, legend=legend),
        "shape": alt.Shape("verdict:N", scale=shapes, legend=legend),
    }


def _margin(alt: ModuleType, bundle: Bundle) -> list[Any]:
    """Return the line below which a trial loses more quality than was declared acceptable."""
    original = _original_quality(bundle)
    if original is None:
        return []
    metric = bundle.workload.metric
    text = f"margin {gap(bundle.margin, metric, signed=False)} below the original"
    relative = metric == "perplexity"  # drawn as its inverse
    least = original * math.exp(-bundle.margin) if relative else original - bundle.margin
    base = alt.Chart(alt.Data(values=[{"y": least, "text": text}]))
    y = _y_axis(alt)
    line = base.mark_rule(strokeDash=[6, 4], strokeWidth=1.5, color=_LINE).encode(y=y)
    label = base.mark_text(align="right", dy=11, fontSize=11).encode(
        x=alt.value("width"), y=y, text="text:N"
    )
    return [line, label]


def _original_quality(bundle: Bundle) -> float | None:
    """Return quality of the original on the search split, from the trial with the most items."""
    found = [
        trial.quality
        for trial in bundle.trials
        if trial.quality is not None and trial.recipe in (bundle.as_found, bundle.baseline)
    ]
    return max(found, key=lambda quality: quality.items).value if found else None
