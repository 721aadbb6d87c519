"""Write the page of the side-by-side from its records: `python -m benchmarks.field.page`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.conditions import ROOT
from benchmarks.field.run import OURS, Entry, Record
from benchmarks.field.table import NOT_AHEAD, NOT_RUN, PEERS, SCALING_PEERS
from joulewise.core.claim import Ratio
from joulewise.core.records import load
from joulewise.report.plots import altair
from joulewise.report.text import joules, seconds

__all__ = ["in_short", "page", "place_of", "plot", "plot_scaling", "records"]

PAGE = ROOT / "docs" / "field.md"

MOST_LOST = 10.0
"""Points of quality at which the plot ends; what loses more lies on its edge."""

NEAR_THE_EDGE, NAMED_LOST = 2.5, 0.004
"""Points beyond which names stand before their marks; loss, as a fraction, from which up to the end
others than joulewise and the best other have names."""

HEAD = """\
# Side by side with others

Written by `python -m benchmarks.field.page` from `records/field-*.json`. Each optimiser is run as
its documentation says, with defaults where that leaves something open, in an environment of its own
(`benchmarks/field/peers`), and hands back a file within 20 minutes. All files answer the same
held-out items, one at a time and on one thread, and take turns while joules are read. Optimisers of
PyTorch models get the network as a module of torch's own layers, made from the ONNX file. `make
bench WORKLOAD=demo` makes one of the records, `make bench` all of them, `make bench AT_ONCE=2` two
at once, each on half of the CPUs; `make bench SHORT=1` is a short look at two, where nothing
learns. Where it says that versions were made on one CPU, two workloads were at work side by side,
each on a CPU of its own; what they cost was then measured with hardly anything else running (the
records have the load). But Fashion-MNIST without items to learn from, ECG5000, Letters, PP-OCR's
angle and the watch aside, all shared two CPUs with other work while their versions were made and
while they were measured, so of them all that is told in seconds is rather too long. On 20
Newsgroups one way to quantize was ended by hand after 6 minutes. PDF pages were measured twice: the
first time tests ran on the same CPUs, and joulewise's version came out at 1.088 (1.021 to 1.159
without the sensor's band) times OpenVINO's, which is the same program; the second is told here.

joulewise was run on FordA three times. With 20 epochs, and with 40, the taught network that it
chose failed the final test (bounds of -1.10 and -1.84 points, 1 allowed), and LiteRT's dynamic int8
was left. Then training was changed: the last of the epochs that cannot be told apart is kept, not
the one that happens to score best. The third run, with 40 epochs, is told here. All three asked the
same held-out items, so its bound is worth less than that of a first run. Vectors of sentences were
searched twice: the first record judged them by which of their numbers is the largest, which says
nothing of them, and was taken away.

Joules are told over those of the strongest lossless way to run the original, with the whole 95 %
interval, band of the sensor included; so 1 is what choosing runtime and threads alone gives. A
difference of quality is to the original, with its 95 % bound. **Worse** means worse than what went
in: certainly more joules, or a loss of quality that is not certainly within the margin.

![joules over the strongest lossless way against lost quality](field.svg)

Named are joulewise, the best other and what loses 0.4 to 10 points; the tables below have all.
What joulewise tried, and why each lost, stands in the records (`trials`).
"""


SCALING_HEAD = """\
## As batch, data and model grow

Joules per item over those of the strongest lossless way, and what finding the version took. Nothing
learns here. `make scaling` makes the records (`records/scaling-*.json`). Each was made and measured
on one CPU of two, beside other work on the other and at times on the same, so seconds are rather
too long; joules count the CPU's time and suffer less. One item per call is the search of
Fashion-MNIST above, measured again.

![joules and seconds of the search](scaling.svg)
"""

AHEAD, NEARLY_AHEAD = "ahead", "tied; ahead but for the band of the sensor"
TIED, NEARLY_BEHIND = "tied", "tied; behind but for the band of the sensor"
BEHIND = "**behind**"
WORDS = {
    AHEAD: "ahead",
    NEARLY_AHEAD: "tied by the sensor's band alone, else ahead",
    TIED: "tied",
    NEARLY_BEHIND: "tied by the sensor's band alone, else behind",
    BEHIND: "behind",
}
"""Places in the table -> in a sentence."""

AXES = {"batch": "items per call", "items": "items given", "width": "channels, %"}


def records(folder: Path, kind: str = "field") -> tuple[Record, ...]:
    """Return all records of a folder of a kind, "field" or "scaling", by name."""
    return tuple(load(Record, path) for path in sorted(folder.glob(f"{kind}-*.json")))


def page(found: Sequence[Record], scaled: Sequence[Record] = ()) -> str:
    """Return the page as Markdown."""
    parts = [HEAD, *_summary(found), *_costs(found)]
    parts += [part for record in found for part in _workload(record)]
    return "\n".join([*parts, *(_scaling(scaled) if scaled else ())])


def _workload(record: Record) -> Iterator[str]:
    host = record.conditions.host
    taught = "with items to learn from" if record.taught else "without items to learn from"
    yield f"## {record.title}\n"
    yield (
        f"{record.held_out:,} held-out items, margin {100 * record.margin:g} points, joulewise "
        f"{taught}; {host.short}, {record.sensor.name}, grade {record.sensor.grade}; "
        f"versions made on {_cpus(record.made_cpus or host.logical_cpus)}. The "
        f"strongest lossless way is `{record.baseline}`; joulewise chose `{record.recipe}`.\n"
    )
    yield "| | joules | quality, points | | joulewise over it | making it |"
    yield "|---|---|---|---|---|---|"
    for entry in record.entries:
        yield _row(entry, record.margin)
    yield ""


def _cpus(count: int) -> str:
    return "one CPU" if count == 1 else f"{count} CPUs"


def _row(entry: Entry, margin: float) -> str:
    title = f"**{entry.title}**" if entry.peer == OURS else entry.title
    if entry.state == "failed" or entry.difference is None:
        return f"| {title} | failed: {entry.reason} | | | | |"
    difference = entry.difference
    quality = f"{100 * difference.value:+.2f}, bound {100 * difference.lower:+.2f}"
    cells = (
        title, _words(entry.ratio), quality, _verdict(entry, margin), _words(entry.ours_ratio),
        "" if entry.seconds is None else seconds(entry.seconds),
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


def in_short(found: Sequence[Record]) -> str:
    """Return a paragraph for the README."""
    places = [place_of(record) for record in found]
    counts = [f"{places.count(place)} {word}" for place, word in WORDS.items() if place in places]
    means = [
        f"{mean:.2f} on the {number} with items to learn from"
        if taught
        else f"{mean:.2f} on the {number} without"
        for taught, mean, number in _means(found)
    ]
    others = [(r, e) for r in found for e in r.entries if e.peer != OURS and e.state == "measured"]
    worse = sum(entry.harms(record.margin) for record, entry in others)
    return (
        f"On {len(found)} workloads, compared with whichever other way that keeps the quality "
        f"needs the fewest joules: {', '.join(counts)}. The geometric mean of joulewise's joules "
        f"over those of that way is {' and '.join(means)}. Of the {len(others)} models that the "
        f"others gave back {100 * worse / len(others):.0f} % are worse than what went in: "
        "certainly more joules, or quality that is not certainly within the margin."
    )


def _means(found: Sequence[Record]) -> Iterator[tuple[bool, float, int]]:
    """Yield the geometric mean over the best peer and of how many, with and without lessons."""
    for taught in (True, False):
        best = [best_peer(record) for record in found if record.taught is taught]
        over = [each.ours_ratio.value for each in best if each and each.ours_ratio]
        if over:
            yield taught, math.exp(sum(map(math.log, over)) / len(over)), len(over)


def _summary(found: Sequence[Record]) -> Iterator[str]:
    yield "## In all\n"
    yield "| | best other that keeps the quality | joulewise over it | |"
    yield "|---|---|---|---|"
    for record in found:
        best, place = best_peer(record), place_of(record)
        title, over = ("none", "") if best is None else (best.title, _words(best.ours_ratio))
        yield f"| {record.title} | {title} | {over} | {place} |"
    yield ""
    for record in found:
        if record.workload in NOT_AHEAD:
            yield f"- {record.title}: {NOT_AHEAD[record.workload]}."
    yield ""
    for taught, mean, number in _means(found):
        words = "with" if taught else "without"
        yield f"Geometric mean {words} items to learn from: {mean:.3f}, of {number}.\n"
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
    for peer in titles:
        if peer in PEERS and PEERS[peer].note:
            yield f"- {PEERS[peer].title}: {PEERS[peer].note}."
    yield from (f"- {title} is not run: {reason}." for title, reason in NOT_RUN.items())
    yield ""


def place_of(record: Record) -> str:
    """Return where joulewise stands: tied where the interval, the sensor's band included, has 1."""
    best = best_peer(record)
    ours = None if best is None else best.ours_ratio
    if ours is None or ours.high < 1:
        return AHEAD
    if ours.low > 1:
        return BEHIND
    if ours.sampling_high < 1:
        return NEARLY_AHEAD
    return NEARLY_BEHIND if ours.sampling_low > 1 else TIED


def _costs(found: Sequence[Record]) -> Iterator[str]:
    """Tell what those that search need for what they find."""
    made_s = sum(entry.seconds or 0.0 for record in found for entry in record.entries)
    yield "## What the search costs\n"
    yield (
        "All of it, with calibration, training and, of joulewise, the proof; in brackets the "
        "joules of what came back, over those of the strongest lossless way, where the quality is "
        "kept. *As good after* is what the search of joulewise had cost when it first had tried "
        "something that needs no more joules and keeps the quality, as far as the search items "
        "tell: what comes later looks for better, and proves it. Joules of grade D are right "
        "within a factor of five, and their ratios far better. To make all versions on this page, "
        f"joulewise's and the others', took {made_s / 3600:.1f} hours.\n"
    )
    names = [OURS, *SCALING_PEERS]
    yield f"| | {' | '.join(PEERS[name].title if name in PEERS else name for name in names)} |"
    yield f"|---|{'---|' * len(names)}"
    for record in found:
        known = {entry.peer: entry for entry in record.entries}
        cells = [_cost(known.get(name), record.margin) for name in names]
        yield f"| {record.title} | {' | '.join(cells)} |"
    yield ""


def _cost(entry: Entry | None, margin: float) -> str:
    if entry is None or entry.seconds is None or entry.cost_j is None:
        return "" if entry is None else "failed"
    kept = entry.ratio is not None and entry.keeps(margin)
    what = f"{entry.ratio.value:.3f}" if kept and entry.ratio is not None else "not kept"
    words = f"{seconds(entry.seconds)}, {joules(entry.cost_j.central)} ({what})"
    then = entry.reached
    if then is None:
        return words
    return f"{words}; as good after {seconds(then.seconds)}, {joules(then.cost_j.central)}"


def _scaling(scaled: Sequence[Record]) -> Iterator[str]:
    yield SCALING_HEAD
    for axis, words in AXES.items():
        some = _along(scaled, axis)
        if not some:
            continue
        titles = [entry.title for entry in some[0].entries]
        yield f"| {words} | as it is, per item | {' | '.join(titles)} |"
        yield f"|---|---|{'---|' * len(titles)}"
        for record in some:
            item_j = record.baseline_item_j
            first = "" if item_j is None else joules(item_j.central)
            cells = [_cost(entry, record.margin) for entry in record.entries]
            yield f"| {_amount(record)} | {first} | {' | '.join(cells)} |"
        yield ""


def _along(scaled: Sequence[Record], axis: str) -> list[Record]:
    """Return the records of one axis, the smallest first."""
    return sorted((x for x in scaled if x.workload.startswith(f"{axis}-")), key=_amount)


def _amount(record: Record) -> int:
    return int(record.workload.rpartition("-")[2])


def plot_scaling(scaled: Sequence[Record]) -> str:
    """Return joules per item and seconds of the search as SVG, a column per axis.

    Raises:
        MissingExtraError: altair or vl-convert is not installed.
    """
    import vl_convert

    chart = altair()
    rows = []
    for field, words in (("joules", "mJ per item"), ("seconds", "seconds of the search")):
        columns = []
        for axis, title in AXES.items():
            points = [
                {"amount": _amount(record), "who": who, field: value}
                for record in _along(scaled, axis)
                for who, value in _of_scale(record, field)
            ]
            columns.append(
                chart.Chart(chart.Data(values=points), width=200, height=160)
                .mark_line(point=True)
                .encode(
                    x=chart.X("amount:Q", title=title, scale=chart.Scale(type="log")),
                    y=chart.Y(f"{field}:Q", title=words, scale=chart.Scale(type="log")),
                    color=chart.Color("who:N", title=None),
                )
            )
        rows.append(chart.hconcat(*columns))
    return str(vl_convert.vegalite_to_svg(chart.vconcat(*rows).to_dict()))


def _of_scale(record: Record, field: str) -> Iterator[tuple[str, float]]:
    if field == "joules" and record.baseline_item_j is not None:
        yield "as it is", 1000 * record.baseline_item_j.central
    for entry in record.entries:
        if field == "joules" and entry.item_j is not None:
            yield entry.title, 1000 * entry.item_j.central
        if field == "seconds" and entry.seconds is not None:
            yield entry.title, entry.seconds


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
            "name": entry.title if _is_named(record, entry) else "",
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
            "joules:Q",
            title="joules, lossless = 1",
            scale=chart.Scale(type="log", padding=15, nice=False),
        ),
        color=chart.Color("what:N", title=None),
    )
    marks = base.mark_point(filled=True, size=60)
    named = base.encode(text="name:N")
    ours, far = chart.datum.what == OURS, chart.datum.lost > NEAR_THE_EDGE
    names = named.transform_filter(~ours & ~far).mark_text(align="left", dx=6, fontSize=9)
    last = named.transform_filter(~ours & far).mark_text(align="right", dx=-6, fontSize=9)
    own = named.transform_filter(ours).mark_text(align="left", dx=6, dy=11, fontSize=9)
    panels = (marks + names + last + own).properties(width=320, height=220)
    panels = panels.facet(chart.Facet("workload:N", title=None), columns=2)
    return str(vl_convert.vegalite_to_svg(panels.to_dict()))


def _is_named(record: Record, entry: Entry) -> bool:
    """Return whether the plot has room for its name: little loss, and the most, is that of many."""
    best, lost = best_peer(record), 0.0 if entry.difference is None else -entry.difference.value
    ahead = entry.peer == OURS or (best is not None and best.peer == entry.peer)
    return ahead or NAMED_LOST < lost < MOST_LOST / 100


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
    found, scaled = records(asked.records), records(asked.records, "scaling")
    asked.output.write_text(page(found, scaled))
    asked.output.with_suffix(".svg").write_text(plot(found))
    if scaled:
        asked.output.with_name("scaling.svg").write_text(plot_scaling(scaled))


if __name__ == "__main__":
    main()
