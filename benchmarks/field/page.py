"""Write the page of the side-by-side from its records: `python -m benchmarks.field.page`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.conditions import ROOT
from benchmarks.field.run import OURS, Entry, Record
from joulewise.core.claim import Ratio
from joulewise.core.records import load
from joulewise.report.plots import altair

__all__ = ["page", "plot", "records"]

PAGE = ROOT / "docs" / "field.md"

MOST_LOST = 10.0
"""Points of quality at which the plot ends; what loses more lies on its edge."""

HEAD = """\
# Side by side with others

Written by `python -m benchmarks.field.page` from `records/field-*.json`. Each optimiser is run as
its documentation says, with defaults where that leaves something open, in an environment of its own
(`benchmarks/field/peers`), and hands back a file. All files answer the same held-out items, one at
a time and on one thread, and take turns while joules are read. `make bench WORKLOAD=demo` makes one
of the records.

Joules are told over those of the strongest lossless way to run the original, with the whole 95 %
interval, band of the sensor included; so 1 is what choosing runtime and threads alone gives. A
difference of quality is to the original, with its 95 % bound. **Worse** means worse than what went
in: certainly more joules, or a loss of quality that is not certainly within the margin.

![joules over the strongest lossless way against lost quality](field.svg)
"""


def records(folder: Path) -> tuple[Record, ...]:
    """Return all records of a folder, by name."""
    return tuple(load(Record, path) for path in sorted(folder.glob("field-*.json")))


def page(found: Sequence[Record]) -> str:
    """Return the page as Markdown."""
    parts = [HEAD, *(part for record in found for part in _workload(record)), *_summary(found)]
    return "\n".join(parts)


def _workload(record: Record) -> Iterator[str]:
    host = record.conditions.host
    taught = "with items to learn from" if record.taught else "without items to learn from"
    yield f"## {record.title}\n"
    yield (
        f"{record.held_out:,} held-out items, margin {100 * record.margin:g} points, joulewise "
        f"{taught}; {host.short}, {record.sensor.name}, grade {record.sensor.grade}. The "
        f"strongest lossless way is `{record.baseline}`; joulewise chose `{record.recipe}`.\n"
    )
    yield "| | joules | quality, points | | joulewise over it | making it |"
    yield "|---|---|---|---|---|---|"
    for entry in record.entries:
        yield _row(entry, record.margin)
    yield ""


def _row(entry: Entry, margin: float) -> str:
    title = f"**{entry.title}**" if entry.peer == OURS else entry.title
    if entry.state == "failed" or entry.difference is None:
        return f"| {title} | failed: {entry.reason} | | | | |"
    difference = entry.difference
    quality = f"{100 * difference.value:+.2f}, bound {100 * difference.lower:+.2f}"
    cells = (
        title, _words(entry.ratio), quality, _verdict(entry, margin), _words(entry.ours_ratio),
        "" if entry.seconds is None else f"{entry.seconds:.0f} s",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _verdict(entry: Entry, margin: float) -> str:
    if entry.harms(margin):
        dearer = entry.ratio is not None and entry.ratio.low > 1
        words = ["more joules"] if dearer else []
        words += [] if entry.keeps(margin) else ["quality"]
        return f"**worse**: {' and '.join(words)}"
    return "cheaper" if entry.ratio is not None and entry.ratio.high < 1 else "no difference"


def _words(ratio: Ratio | None) -> str:
    return "" if ratio is None else f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"


def best_peer(record: Record) -> Entry | None:
    """Return the peer with the fewest joules among those that keep the quality."""
    kept = [
        (entry.ratio.value, number)
        for number, entry in enumerate(record.entries)
        if entry.peer != OURS and entry.ratio is not None and entry.keeps(record.margin)
    ]
    return record.entries[min(kept)[1]] if kept else None


def _summary(found: Sequence[Record]) -> Iterator[str]:
    yield "## In all\n"
    yield "| | best other that keeps the quality | joulewise over it |"
    yield "|---|---|---|"
    ratios = []
    for record in found:
        best = best_peer(record)
        if best is None or best.ours_ratio is None:
            yield f"| {record.title} | none | |"
            continue
        ratios.append((record.taught, best.ours_ratio.value))
        yield f"| {record.title} | {best.title} | {_words(best.ours_ratio)} |"
    yield ""
    for taught, words in ((True, "with"), (False, "without")):
        some = [ratio for had, ratio in ratios if had is taught]
        if some:
            mean = math.exp(sum(map(math.log, some)) / len(some))
            yield f"Geometric mean {words} items to learn from: {mean:.3f}, of {len(some)}.\n"
    yield "How often what comes back is worse than what went in:\n"
    yield "| | worse | failed | of |"
    yield "|---|---|---|---|"
    titles = {entry.peer: entry.title for record in found for entry in record.entries}
    for peer, title in titles.items():
        own = [(r, e) for r in found for e in r.entries if e.peer == peer]
        worse = sum(entry.harms(record.margin) for record, entry in own)
        failed = sum(entry.state == "failed" for _, entry in own)
        yield f"| {title} | {worse} | {failed} | {len(own)} |"
    yield ""


def plot(found: Sequence[Record]) -> str:
    """Return joules against lost quality as SVG, a panel per workload.

    Raises:
        MissingExtraError: altair or vl-convert is not installed.
    """
    import vl_convert

    chart = altair()
    points = [
        {
            "workload": record.title,
            "name": entry.title,
            "joules": entry.ratio.value,
            "lost": min(MOST_LOST, max(0.0, -100 * entry.difference.value)),
            "what": _kind(entry, record.margin),
        }
        for record in found
        for entry in record.entries
        if entry.ratio is not None and entry.difference is not None
    ]
    base = chart.Chart(chart.Data(values=points)).encode(
        x=chart.X(
            "lost:Q",
            title="lost quality, points",
            scale=chart.Scale(type="symlog", constant=0.1, domain=[0, MOST_LOST]),
            axis=chart.Axis(values=[0, 0.1, 0.5, 1, 2, 5, 10], format=".2~r"),
        ),
        y=chart.Y(
            "joules:Q", title="joules, lossless = 1", scale=chart.Scale(type="log", padding=15)
        ),
        color=chart.Color("what:N", title=None),
    )
    marks = base.mark_point(filled=True, size=60)
    named = base.encode(text="name:N")
    ours = chart.datum.what == OURS
    names = named.transform_filter(~ours).mark_text(align="left", dx=6, fontSize=9)
    own = named.transform_filter(ours).mark_text(align="left", dx=6, dy=11, fontSize=9)
    panels = (marks + names + own).properties(width=320, height=220)
    panels = panels.facet(chart.Facet("workload:N", title=None), columns=2)
    return str(vl_convert.vegalite_to_svg(panels.to_dict()))


def _kind(entry: Entry, margin: float) -> str:
    if entry.peer == OURS:
        return "joulewise"
    return "worse than what went in" if entry.harms(margin) else "others"


def main(arguments: list[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description="Write the page of the side-by-side.")
    parser.add_argument("--records", type=Path, default=ROOT / "records")
    parser.add_argument("-o", "--output", type=Path, default=PAGE)
    asked = parser.parse_args(arguments)
    found = records(asked.records)
    asked.output.write_text(page(found))
    asked.output.with_suffix(".svg").write_text(plot(found))


if __name__ == "__main__":
    main()
