"""Where the time of a call goes: the original, the chosen and the best rejected side by side.

Times are measured on the host of the record; what ran is what its runtime made of the graph, so
the names of operators may differ between columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from joulewise.core.claim import Trial
from joulewise.core.profile import Profile
from joulewise.core.recipe import Recipe
from joulewise.core.records import Bundle
from joulewise.report.text import MISSING, approximate, counted, describe_recipe, plain, seconds

__all__ = ["Cell", "Column", "Table", "explain_lines", "explain_table", "subjects"]

LEAST_RATIO = 0.01
"""Share of a call below which, in every column, an operator type has no row of its own."""

OUTSIDE = "outside operators"
WHOLE = "one call"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Time of a call, s, and its share of the whole call."""

    seconds: float
    share_ratio: float


@dataclass(frozen=True, kw_only=True)
class Column:
    """One program.

    Args:
        role: "original", "chosen" or "best rejected".
        recipe: in words.
        why: why it lost, empty where it did not.
        work: what its products do, in words; empty where that was not counted.
    """

    role: str
    recipe: str
    why: str
    work: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """Times by operator type.

    Args:
        batch_items: items per call.
        columns: the programs.
        rows: name of the row -> one cell per column, None where the program has no such operator.
    """

    batch_items: int
    columns: tuple[Column, ...]
    rows: Mapping[str, tuple[Cell | None, ...]]


def subjects(trials: Sequence[Trial], baseline: Recipe, chosen: Recipe) -> dict[str, Trial]:
    """Return the trials that explain a verdict, by role.

    Args:
        trials: all that were tried.
        baseline: the strongest lossless way to run the original.
        chosen: the winner; the best rejected is the changed model with the lowest ratio besides it.
    """
    known = {trial.recipe.key: trial for trial in trials}
    found = {"original": known.get(baseline.key)}
    if chosen != baseline:
        found["chosen"] = known.get(chosen.key)
    rejected = [
        (trial.ratio.value, number)
        for number, trial in enumerate(trials)
        if trial.ratio is not None and not trial.recipe.lossless and trial.recipe != chosen
    ]
    if rejected:
        found["best rejected"] = trials[min(rejected)[1]]
    return {role: trial for role, trial in found.items() if trial is not None}


def explain_table(bundle: Bundle) -> Table | None:
    """Return the table of a bundle, None where no profile was kept of the three."""
    named = subjects(bundle.trials, bundle.baseline, bundle.recipe)
    told = [(role, x, x.profile) for role, x in named.items() if x.profile is not None]
    if not told:
        return None
    profiles = [profile for _, _, profile in told]
    return Table(
        batch_items=bundle.workload.batch_items,
        columns=tuple(_column(role, trial, profile) for role, trial, profile in told),
        rows=_rows(profiles),
    )


def explain_lines(bundle: Bundle) -> list[str]:
    """Return the table as text, and what its columns are; empty where no profile was kept."""
    table = explain_table(bundle)
    if table is None:
        return []
    roles = [column.role for column in table.columns]
    head = (f"time of a call of {counted(table.batch_items, 'item')}", *roles)
    body = [(name, *map(_cell_words, cells)) for name, cells in table.rows.items()]
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    return [
        *(_aligned(row, widths) for row in (head, *body)),
        *map(_column_line, table.columns),
    ]


def _column(role: str, trial: Trial, profile: Profile) -> Column:
    lost = role == "best rejected"
    return Column(
        role=role,
        recipe=describe_recipe(trial.recipe),
        why=plain(trial.reason or "") if lost else "",
        work=_work_words(profile),
    )


def _work_words(profile: Profile) -> str:
    work = profile.work
    if work is None or not work.mac:
        return ""
    return (
        f"{approximate(work.mac)} multiply-adds per call, {work.mac_per_byte:.2g} for each byte of "
        "weights and values (counted)"
    )


def _rows(profiles: Sequence[Profile]) -> dict[str, tuple[Cell | None, ...]]:
    """Return the rows, the longest first, then what is outside operators, and the whole call."""
    largest: dict[str, float] = {}
    for profile in profiles:
        for kind, share_ratio in profile.shares.items():
            largest[kind] = max(largest.get(kind, 0.0), share_ratio)
    order = sorted(largest, key=lambda kind: (-largest[kind], kind))
    own = [kind for kind in order if largest[kind] >= LEAST_RATIO]
    rest = [kind for kind in order if largest[kind] < LEAST_RATIO]
    rows = {plain(kind): tuple(_cell(profile, [kind]) for profile in profiles) for kind in own}
    if rest:
        name = f"{counted(len(rest), 'other type')} below {100 * LEAST_RATIO:g} %"
        rows[name] = tuple(_cell(profile, rest) for profile in profiles)
    rows[OUTSIDE] = tuple(
        Cell(seconds=profile.outside_s, share_ratio=profile.outside_ratio) for profile in profiles
    )
    rows[WHOLE] = tuple(Cell(seconds=profile.total_s, share_ratio=1.0) for profile in profiles)
    return rows


def _cell(profile: Profile, kinds: Sequence[str]) -> Cell | None:
    taken = [each for each in profile.operators if each.kind in kinds]
    if not taken:
        return None
    taken_s = sum(each.seconds for each in taken)
    return Cell(seconds=taken_s, share_ratio=taken_s / profile.total_s if profile.total_s else 0.0)


def _cell_words(cell: Cell | None) -> str:
    if cell is None:
        return MISSING
    return f"{seconds(cell.seconds)} {100 * cell.share_ratio:5.1f} %"


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(row, widths, strict=True)
    return f"{first[0]:<{first[1]}}" + "".join(f"  {words:>{width}}" for words, width in others)


def _column_line(column: Column) -> str:
    told = f"{column.role}: {column.recipe}"
    return "; ".join(words for words in (told, column.work, column.why) if words)
