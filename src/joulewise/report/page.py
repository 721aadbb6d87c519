"""One HTML file that shows a bundle and needs nothing else: no network, no other file.

The page forbids itself to load anything (Content-Security-Policy), and all that comes from the
user is escaped by the template.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from joulewise.core.energy import Interval, Sensor
from joulewise.core.errors import MissingExtraError
from joulewise.core.records import Bundle
from joulewise.report import text
from joulewise.report.explain import explain_table
from joulewise.report.footprint import (
    carbon_words,
    intensity_words,
    left_out,
    money_words,
)
from joulewise.report.frontier import frontier_spec, plotted
from joulewise.report.plots import plot_script
from joulewise.report.snippet import run_requirement, run_snippet
from joulewise.report.spending import ledger_spec, payback_spec
from joulewise.report.verdict import LABELS, headline, trial_table, verdict_parts

__all__ = ["render_page"]

_BADGES = {
    "cheaper": ("good", "cheaper, with proof"),
    "rerun": ("fair", "same model, run another way"),
    "keep": ("same", "kept as it is"),
}


@dataclass(frozen=True, kw_only=True)
class Plots:
    """The plots of a page.

    Args:
        specs: id of the place -> what is drawn there: "frontier", "ledger", "payback"; those that
            would show nothing are not among them.
        script: draws them.
        note: what the frontier does not show, or why there is none.
    """

    specs: Mapping[str, dict[str, Any]]
    script: str
    note: str


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One row of the ledger; `share_ratio` is its part of the total, in [0, 1]."""

    name: str
    spent_j: Interval
    seconds: float | None
    share_ratio: float


def render_page(bundle: Bundle) -> str:
    """Return the whole report as one HTML file; without altair it has no plots and says so.

    Raises:
        InputError: the bundle announces a winner that no claim in it proves.
    """
    tone, badge = _BADGES.get(bundle.verdict, ("same", bundle.verdict))
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            bundle=bundle,
            tone=tone,
            badge=badge,
            headline=headline(bundle),
            parts=tuple(zip(LABELS, verdict_parts(bundle), strict=True)),
            plots=_plots(bundle),
            rows=trial_table(bundle),
            explained=explain_table(bundle),
            stages=_stages(bundle),
            sensors=_sensors(bundle),
            warnings=_warnings(bundle),
            left_out=_left_out(bundle),
            requirement=run_requirement(bundle),
            snippet=run_snippet(bundle),
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("joulewise", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = (
        "approximate", "change", "count", "counted", "describe_recipe", "gap", "grade_word",
        "graded", "joules", "metric_words", "money", "percent", "ratio", "seconds", "size",
    )  # fmt: skip
    environment.filters.update({name: getattr(text, name) for name in names})
    environment.filters.update(
        carbon=carbon_words, money_words=money_words, intensity=intensity_words
    )
    return environment


def _plots(bundle: Bundle) -> Plots:
    drawn = {"frontier": frontier_spec, "ledger": ledger_spec, "payback": payback_spec}
    try:
        made = {name: draw(bundle) for name, draw in drawn.items()}
        script = plot_script() if any(made.values()) else ""
    except MissingExtraError as error:
        return Plots(specs={}, script="", note=f"No plot: {error}")
    specs = {name: spec for name, spec in made.items() if spec is not None}
    if "frontier" not in specs:
        note = "No plot: no trial has both energy and quality."
        return Plots(specs=specs, script=script, note=note)
    missing = len(bundle.trials) - len(plotted(bundle))
    note = f"{text.counted(missing, 'trial')} only in the table below." if missing else ""
    return Plots(specs=specs, script=script, note=note)


def _stages(bundle: Bundle) -> list[Stage]:
    ledger = bundle.ledger
    total_j = ledger.total_j.central
    return [
        Stage(
            name=name,
            spent_j=spent,
            seconds=ledger.seconds.get(name),
            share_ratio=spent.central / total_j if total_j > 0 else 0.0,
        )
        for name, spent in ledger.stages_j.items()
    ]


def _sensors(bundle: Bundle) -> list[Sensor]:
    """Return every instrument of the trials, once."""
    return _once(trial.measurement.sensor for trial in bundle.trials if trial.measurement)


def _left_out(bundle: Bundle) -> str:
    footprints = bundle.footprints.values()
    return "; ".join(line for f in list(footprints)[:1] for line in left_out(f, _sensors(bundle)))


def _warnings(bundle: Bundle) -> list[str]:
    """Return the bundle's warnings, then those of its measurements, the worst of each kind."""
    measured = (trial.measurement for trial in bundle.trials if trial.measurement)
    return [
        *bundle.warnings,
        *text.worst_of(
            line for m in measured for line in m.warnings if line not in bundle.warnings
        ),
    ]


def _once(values: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found
