"""Quantities and recipes as text for people: prefixes, percentages and words are added only here.

Invariants: a missing quantity is shown as MISSING, never as 0; joules carry three significant
digits; text that came from outside cannot break a line or steer a terminal.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Protocol

from joulewise.core.energy import Grade, Interval
from joulewise.core.recipe import Recipe, RunSettings, Step

__all__ = [
    "MISSING",
    "approximate",
    "change",
    "count",
    "counted",
    "describe_recipe",
    "describe_run",
    "fixed",
    "gap",
    "grade_word",
    "graded",
    "grams",
    "joules",
    "metric_words",
    "money",
    "percent",
    "plain",
    "points",
    "quality",
    "ratio",
    "seconds",
    "size",
    "span",
    "worst_of",
]

MISSING = "–"

_PERCENT = re.compile(r"([\d.]+) ?%")

_PREFIXES = {-9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G"}
_GRADE_WORDS: Mapping[Grade, str] = {
    "A": "measured",
    "B": "measured",
    "C": "estimated",
    "D": "estimated",
    "E": "predicted",
}
_METRICS = {
    "top1": "accuracy",
    "agreement": "agreement with the original",
    "values": "within 5 % of the original's values",
    "neighbour": "same nearest neighbour as the original",
    "neighbour label": "nearest neighbour of the same label",
    "macro_f1": "F1 score (mean over classes)",
    "correlation": "rank correlation with the labels",
    "perplexity": "perplexity",
    "average_precision": "average precision (mean over classes)",
}
_RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "litert": "LiteRT"}


def joules(value_j: float | None) -> str:
    """Return joules with an SI prefix and three significant digits: 0.00123 -> ``1.23 mJ``."""
    return _prefixed(value_j, "J")


def grams(value_g: float | None) -> str:
    """Return grams with an SI prefix and three significant digits: 0.00123 -> ``1.23 mg``."""
    return _prefixed(value_g, "g")


def money(value: float | None, currency: str) -> str:
    """Return an amount with three significant digits: 0.00012345 -> ``0.000123 EUR``.

    Below a ten-thousandth it has an exponent: ``1.23e-07 EUR``.
    """
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{fixed(value) if value >= 1e-4 or not value else f'{value:.2e}'} {currency}"


def fixed(value: float) -> str:
    """Return three significant digits without an exponent: 0.0000123 -> ``0.0000123``."""
    return f"{Decimal(f'{value:.2e}'):,f}" if value else "0"


def size(value_bytes: float | None) -> str:
    """Return bytes with an SI prefix: 3740000 -> ``3.74 MB``, 12 -> ``12 B``."""
    if value_bytes is not None and abs(value_bytes) < 1000:
        return f"{value_bytes:.0f} B"
    return _prefixed(value_bytes, "B")


def seconds(value_s: float | None) -> str:
    """Return a duration: 0.0123 -> ``12.3 ms``, 75 -> ``1 min 15 s``, 7500 -> ``2 h 05 min``."""
    if value_s is None or not math.isfinite(value_s):
        return MISSING
    if value_s < 59.95:
        return _prefixed(value_s, "s")
    if round(value_s) < 3600:
        minutes, rest = divmod(round(value_s), 60)
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(round(value_s / 60), 60)
    return f"{hours} h {minutes:02} min"


def ratio(value: float | None) -> str:
    """Return a ratio with three significant digits: 0.4 -> ``0.400``."""
    return _prefixed(value, "", prefixes=False)


def change(value: float | None) -> str:
    """Return a ratio as a signed change: 0.402 -> ``-59.8 %``."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{_no_negative_zero((value - 1) * 100, 1):+.1f} %"


def percent(fraction: float | None) -> str:
    """Return a fraction in [0, 1] as a percentage: 0.9375 -> ``93.75 %``."""
    if fraction is None or not math.isfinite(fraction):
        return MISSING
    return f"{_no_negative_zero(fraction * 100, 2):.2f} %"


def points(fraction: float | None, *, signed: bool = True) -> str:
    """Return a difference of fractions in percentage points: -0.0015 -> ``-0.15 pp``."""
    if fraction is None or not math.isfinite(fraction):
        return MISSING
    value = _no_negative_zero(fraction * 100, 2)
    return f"{value:+.2f} pp" if signed else f"{value:.2f} pp"


def quality(value: float | None, metric: str) -> str:
    """Return a quality: a percentage; of "perplexity", which is kept as its inverse, itself."""
    if metric != "perplexity" or not value or not math.isfinite(value):
        return percent(value)
    return f"{1 / value:.4g}"


def gap(fraction: float | None, metric: str, *, signed: bool = True) -> str:
    """Return a difference of qualities: in points, or as a fraction of perplexity in percent."""
    text = points(fraction, signed=signed)
    return text.replace(" pp", " %") if metric == "perplexity" else text


def count(value: int | None) -> str:
    """Return an exact count with separators: 87000 -> ``87,000``."""
    return MISSING if value is None else f"{value:,}"


def approximate(value: float | None) -> str:
    """Return a count that is an estimate, rounded to three significant digits."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{float(f'{value:.2e}'):,.0f}"


def counted(value: int, noun: str) -> str:
    """Return a count with its noun, which takes an s in the plural: 1 -> ``1 thread``."""
    return f"{count(value)} {noun}" if value == 1 else f"{count(value)} {noun}s"


def span(interval: Interval | None, render: Callable[[float], str]) -> str:
    """Return both bounds of `interval`, each written by `render`."""
    if interval is None:
        return MISSING
    return f"{render(interval.low)} to {render(interval.high)}"


def grade_word(grade: Grade) -> str:
    """Return ``measured`` for grades A and B, ``estimated`` for C and D, ``predicted`` for E."""
    return _GRADE_WORDS[grade]


def graded(value_j: float | None, grade: Grade) -> str:
    """Return joules with the grade beside them: ``1.23 mJ [D]``."""
    text = joules(value_j)
    return text if text == MISSING else f"{text} [{grade}]"


class Metric(Protocol):
    """What names a metric, as `Quality` and `WorkloadRecord` do."""

    @property
    def metric(self) -> str: ...
    @property
    def tolerance(self) -> float | None: ...


def metric_words(named: Metric) -> str:
    """Return what counts as a right answer: within, 0.42 -> ``within 0.42 of the label``."""
    if named.metric == "within" and named.tolerance is not None:
        return f"within {named.tolerance:.3g} of the label"
    return _METRICS.get(named.metric, plain(named.metric))


def plain(text: str) -> str:
    """Return `text` with every character escaped that breaks a line or steers a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def worst_of(lines: Iterable[str]) -> list[str]:
    """Return lines once; of those that differ in a percentage alone, the one with the largest."""
    found: dict[str, list[str]] = {}
    for line in lines:
        found.setdefault(_PERCENT.sub("%", line), []).append(line)
    return [_worst(same) for same in found.values()]


def _worst(lines: Sequence[str]) -> str:
    worst = max(lines, key=lambda line: max(map(float, _PERCENT.findall(line)), default=0.0))
    others = len(set(lines)) > 1
    return f"{worst} (the worst of {len(lines)} measurements)" if others else worst


def describe_recipe(recipe: Recipe) -> str:
    """Return a recipe in words: what was done to the weights, then how the result is run."""
    done = ", then ".join(_describe_step(step) for step in recipe.steps) or "original weights"
    return f"{done}, run on {describe_run(recipe.run)}"


def describe_run(run: RunSettings) -> str:
    """Return run settings in words; what was left to the runtime is not mentioned."""
    words = [_RUNTIMES.get(run.runtime, plain(run.runtime))]
    if run.threads is not None:
        words.append(counted(run.threads, "thread"))
    if run.spinning is not None:
        words.append("spinning threads" if run.spinning else "no spinning")
    if run.graph is not None:
        words.append(f"{plain(run.graph)} graph optimisation")
    if run.precision is not None:
        words.append(f"{plain(run.precision)} arithmetic")
    return " with ".join(words[:2]) + "".join(f", {word}" for word in words[2:])


def _describe_step(step: Step) -> str:
    inside = ", ".join(_describe_parameter(k, v) for k, v in sorted(step.parameters.items()))
    return _spaced(step.name) + (f" ({inside})" if inside else "")


def _describe_parameter(key: str, value: str | float | bool) -> str:
    if isinstance(value, bool):
        return _spaced(key) if value else f"not {_spaced(key)}"
    return f"{_spaced(key)} {plain(str(value))}"


def _spaced(name: str) -> str:
    return plain(name).replace("_", " ").replace("-", " ")


def _prefixed(value: float | None, unit: str, *, prefixes: bool = True) -> str:
    """Return three significant digits; the exponent is read after rounding (999.9 m -> 1.00)."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return f"0 {unit}".rstrip()
    exponent = int(f"{value:.2e}".partition("e")[2])
    shift = min(max(exponent // 3 * 3, min(_PREFIXES)), max(_PREFIXES)) if prefixes else 0
    digits = max(0, 2 - (exponent - shift))
    rounded = float(f"{value:.2e}") / 10.0**shift
    return f"{rounded:.{digits}f} {_PREFIXES[shift]}{unit}".rstrip()


def _no_negative_zero(value: float, digits: int) -> float:
    """Return `value` rounded to `digits`, where -0.0 becomes 0.0."""
    return round(value, digits) + 0.0
