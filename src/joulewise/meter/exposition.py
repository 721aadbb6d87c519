"""Read the text page of a Prometheus exporter, and select series of it by name and labels.

Source: prometheus.io/docs/instrumenting/exposition_formats (text format 0.0.4; OpenMetrics adds
exemplars and ``# EOF``) and prometheus.io/docs/prometheus/latest/querying/basics (selectors; a
regular expression is anchored at both ends).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from joulewise.core.errors import SensorError, UsageError

__all__ = ["NAME", "Matcher", "Selector", "Series", "parse_page", "parse_selector"]

NAME = "__name__"
"""The label that holds a metric's name."""

METRIC = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"\s*'
LABELS = re.compile(rf"(?:{LABEL}(?:,|$))")
LINE = re.compile(rf'\s*({METRIC})\s*(?:\{{((?:[^"}}]|"(?:[^"\\]|\\.)*")*)\}})?\s*(\S+)(?:\s.*)?')
SELECTOR = re.compile(rf'\s*({METRIC})?\s*(?:\{{((?:[^"}}]|"(?:[^"\\]|\\.)*")*)\}})?\s*')
ESCAPES: Mapping[str, str] = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a page.

    Args:
        labels: its labels, and its name as NAME.
        value: what is shown, as it is written.
    """

    labels: Mapping[str, str]
    value: str


@dataclass(frozen=True, kw_only=True)
class Matcher:
    """What one label must be.

    Args:
        label: name of the label; one that is absent is empty.
        sign: "=", "!=", "=~" or "!~".
        text: the value or the regular expression.
    """

    label: str
    sign: str
    text: str

    def fits(self, labels: Mapping[str, str]) -> bool:
        """Say whether the label is as asked for."""
        value = labels.get(self.label, "")
        regular = self.sign.endswith("~")
        same = bool(re.fullmatch(self.text, value)) if regular else value == self.text
        return same != self.sign.startswith("!")


@dataclass(frozen=True, kw_only=True)
class Selector:
    """Which series are asked for: all matchers must fit."""

    matchers: tuple[Matcher, ...]

    @property
    def name(self) -> str | None:
        """The one name that it selects; None where there may be several."""
        for matcher in self.matchers:
            if (matcher.label, matcher.sign) == (NAME, "="):
                return matcher.text
        return None

    def fits(self, series: Series) -> bool:
        """Say whether a series is asked for."""
        return all(matcher.fits(series.labels) for matcher in self.matchers)


def parse_selector(text: str) -> Selector:
    """Return the selector that is written as ``name{label="value", other=~"a|b"}``.

    Args:
        text: the selector.

    Raises:
        UsageError: it is none.
    """
    found = SELECTOR.fullmatch(text)
    matchers = _matchers(found[2] or "") if found else None
    if found is None or matchers is None or not (found[1] or matchers):
        raise UsageError(
            f'prometheus: {text!r} selects nothing; write a name and labels as in name{{zone="x"}}'
        )
    named = [Matcher(label=NAME, sign="=", text=found[1])] if found[1] else []
    return Selector(matchers=(*named, *matchers))


def parse_page(text: str, where: str) -> Iterator[Series]:
    """Yield the series of a page.

    Args:
        text: the page.
        where: who answered, for the message.

    Raises:
        SensorError: a line is not of the format, or the last one is cut off.
    """
    if not text.endswith("\n"):
        raise SensorError(f"{where} is no exporter's page, or its reply was cut off; check it")
    for line in text.split("\n"):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = LINE.fullmatch(line)
        matchers = _matchers(found[2] or "") if found else None
        if found is None or matchers is None or any(each.sign != "=" for each in matchers):
            raise SensorError(
                f"{where} is no exporter's page: {line[:40]!r} is no metric; check the address"
            )
        labels = {matcher.label: matcher.text for matcher in matchers}
        yield Series(labels={NAME: found[1]} | labels, value=found[3])


def _matchers(inside: str) -> list[Matcher] | None:
    """Return what is between the braces; None where it is not of the format."""
    matchers, start = [], 0
    while start < len(inside.rstrip()):
        found = LABELS.match(inside, start)
        if found is None:
            return None
        value = re.sub(r"\\.", lambda escape: ESCAPES.get(escape[0], escape[0]), found[3])
        matchers.append(Matcher(label=found[1], sign=found[2], text=value))
        start = found.end()
    try:
        for matcher in matchers:
            if matcher.sign.endswith("~"):
                re.compile(matcher.text)
    except re.error:
        return None
    return matchers
