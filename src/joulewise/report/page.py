"""One HTML file that shows a bundle and needs nothing else: no network, no other file.

The page forbids itself to load anything (Content-Security-Policy), and all that comes from the
user is escaped by the template.
"""

from __future__ import annotations

from collections.abc import Iterable
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
from joulewise.report.frontier import frontier_spec, plot_script, plotted
from joulewise.report.snippet import run_requirement, run_snippet
from joulewise.report.verdict import LABELS, headline, trial_table, verdict_parts

__all__ = ["render_page"]

_BADGES = {
    "cheaper": ("good", "cheaper, with proof"),
    "rerun": ("fair", "same model, run another way"),
    "keep": ("same", "kept as it is"),
}


@dataclass(frozen=True, kw_only=True)
class Plot:
    """The frontier plot of a page: `spec` and `script` draw it, `note` says what is not in it."""

    spec: dict[str, Any] | None
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
    """Return the whole report as one HTML file; without altair it has no plot and says so.

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
            plot=_plot(bundle),
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


def _plot(bundle: Bundle) -> Plot:
    try:
        spec = frontier_spec(bundle)
        script = plot_script() if spec else ""
    except MissingExtraError as error:
        return Plot(spec=None, script="", note=f"No plot: {error}")
    if spec is None:
        return Plot(spec=None, script="", note="No plot: no trial has both energy and quality.")
    missing = len(bundle.trials) - len(plotted(bundle))
    note = f"{text.counted(missing, 'trial')} only in the table below." if missing else ""
    return Plot(spec=spec, script=script, note=note)


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
