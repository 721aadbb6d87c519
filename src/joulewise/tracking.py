"""Log what was measured to MLflow, beside the other metrics of a run.

Names have their units and stand under ``joulewise/``; a missing quantity is not logged. Where they
go is MLflow's affair: the run that is active or that MLFLOW_RUN_ID names, else a new one, at
MLFLOW_TRACKING_URI or in MLflow's own local store.

Source: https://mlflow.org/docs/latest/ml/tracking/ (runs, metrics, tags).
"""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext

from joulewise.core.energy import Interval, Measurement, Part
from joulewise.core.errors import JoulewiseError, MissingExtraError, UsageError, one_line
from joulewise.core.records import Bundle
from joulewise.core.supply import Footprint
from joulewise.meter.command import CommandMeasurement
from joulewise.meter.window import Window

__all__ = ["Loggable", "log_to_mlflow", "metrics_of", "require_mlflow", "tags_of"]

Loggable = Window | CommandMeasurement | Measurement | Bundle
"""What a verb of joulewise returns."""

PREFIX = "joulewise"


def require_mlflow() -> None:
    """Raise MissingExtraError where MLflow is not installed, before anything is measured."""
    if importlib.util.find_spec("mlflow") is None:
        raise MissingExtraError("mlflow", "mlflow")


def log_to_mlflow(result: Loggable) -> str:
    """Log joules with their intervals as metrics, and sensor, grade and warnings as tags.

    Args:
        result: of a window, a command, a model or `joulewise.optimize`.

    Returns:
        The id of the run.

    Raises:
        MissingExtraError: MLflow is not installed.
        UsageError: the result is of another kind.
        JoulewiseError: MLflow could not log it.
    """
    metrics, tags = metrics_of(result), tags_of(result)
    require_mlflow()
    import mlflow

    try:
        active = mlflow.active_run()
        with nullcontext(active) if active is not None else mlflow.start_run() as run:
            mlflow.log_metrics(metrics)
            mlflow.set_tags(tags)
            return str(run.info.run_id)
    except Exception as error:  # MLflow's stores raise what their back ends raise
        where = mlflow.get_tracking_uri()
        raise JoulewiseError(f"MLflow cannot log to {where}: {one_line(error)}") from error


def metrics_of(result: Loggable) -> dict[str, float]:
    """Return the numbers of a result by name; unknown ones are left out.

    Raises:
        UsageError: the result is of another kind.
    """
    return {
        f"{_place(result)}/{name}": value for name, value in _numbers(result) if value is not None
    }


def tags_of(result: Loggable) -> dict[str, str]:
    """Return the words of a result by name; empty ones are left out.

    Raises:
        UsageError: the result is of another kind.
    """
    return {f"{_place(result)}/{name}": text for name, text in _words(result) if text}


def _place(result: object) -> str:
    """Return where its names stand; a run may hold several windows."""
    if isinstance(result, Window):
        return f"{PREFIX}/{re.sub(r'[^A-Za-z0-9_. -]', '_', result.name) or '_'}"
    return PREFIX


def _numbers(result: object) -> Iterator[tuple[str, float | None]]:
    if isinstance(result, Bundle):
        yield from _bundle(result)
    elif isinstance(result, Window):
        yield from _interval("net", result.net_j, "j")
        yield from _interval("gross", result.gross_j, "j")
        yield from (("seconds", result.seconds), ("calls", result.calls))
    elif isinstance(result, CommandMeasurement):
        yield from _parts(result.parts)
        yield "exit_code", result.exit_code
    elif isinstance(result, Measurement):
        yield from _interval("net", result.net_j_per_item, "j_per_item")
        yield from _interval("gross", result.gross_j_per_item, "j_per_item")
        yield from (
            ("latency_p50_s", result.latency_p50_s),
            ("latency_p95_s", result.latency_p95_s),
        )
    else:
        raise UsageError(
            f"a {type(result).__name__} cannot be logged; give the result of measure, "
            "measure_command, measure_model or optimize"
        )


def _parts(parts: tuple[Part, ...]) -> Iterator[tuple[str, float | None]]:
    """Yield the joules of each component; those of the first have plain names."""
    for part in parts:
        of = "" if part is parts[0] else f"{part.component}/"
        yield from ((f"{of}{k}", v) for k, v in _interval("net", part.net_j, "j"))
        yield from ((f"{of}{k}", v) for k, v in _interval("gross", part.gross_j, "j"))
        yield f"{of}seconds", sum(block.seconds for block in part.blocks)


def _bundle(bundle: Bundle) -> Iterator[tuple[str, float | None]]:
    claim = bundle.claim
    if claim is not None:
        ratio, difference = claim.ratio, claim.difference
        yield from _interval(
            "energy", Interval(low=ratio.low, central=ratio.value, high=ratio.high), "ratio"
        )
        yield "quality", claim.quality_candidate.value
        yield "quality_of_original", claim.quality_baseline.value
        yield "quality_difference", difference.value
        yield "quality_difference_lower", difference.lower
    yield "margin", bundle.margin
    yield "size_bytes", bundle.artifact.size_bytes
    yield "trials", len(bundle.trials)
    yield from _interval("search", bundle.ledger.total_j, "j")
    yield "search_s", sum(bundle.ledger.seconds.values())
    yield from _interval("break_even", bundle.ledger.break_even_items, "items")
    yield from _footprints(bundle.footprints)


def _footprints(footprints: Mapping[str, Footprint]) -> Iterator[tuple[str, float | None]]:
    for what, footprint in footprints.items():
        of = what.replace(" ", "_")
        if footprint.carbon is not None:
            yield from _interval(of, footprint.carbon.g, "g_co2e")
        if footprint.money is not None:
            yield from _interval(of, footprint.money.amount, footprint.money.price.currency)


def _interval(name: str, value: Interval | None, unit: str) -> Iterator[tuple[str, float]]:
    """Yield the three numbers of an interval; nothing of a missing one."""
    if value is not None:
        yield f"{name}_low_{unit}", value.low
        yield f"{name}_{unit}", value.central
        yield f"{name}_high_{unit}", value.high


def _words(result: object) -> Iterator[tuple[str, str]]:
    if isinstance(result, Bundle):
        yield from (("verdict", result.verdict), ("summary", result.summary))
        yield from (("recipe", str(result.recipe)), ("model", result.workload.model))
        yield from (("grade", result.ledger.grade), ("host", result.host.short))
        yield "warnings", "\n".join(result.warnings)
        places = [f.carbon.intensity for f in result.footprints.values() if f.carbon]
        yield from (("place", place.place) for place in places[:1])
        return
    if isinstance(result, CommandMeasurement):
        yield "command", shlex.join(result.argv)
    parts: Sequence[Measurement] = (
        (result,) if isinstance(result, Measurement) else getattr(result, "parts", ())
    )
    sensors = [part.sensor for part in parts]
    yield "sensor", ", ".join(sensor.name for sensor in sensors)
    yield "grade", max((sensor.grade for sensor in sensors), default="")
    yield "boundary", "; ".join(sensor.boundary for sensor in sensors)
    yield "warnings", "\n".join(warning for part in parts for warning in part.warnings)
