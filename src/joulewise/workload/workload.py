"""The job as the user gives it: a model, its data in disjoint splits, and how it will be used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from joulewise.core.errors import InputError
from joulewise.core.records import SplitRecord, WorkloadRecord
from joulewise.core.settings import Usage
from joulewise.core.statistics import smallest_margin
from joulewise.workload.data import check_data, load_data
from joulewise.workload.model import Model, load_model
from joulewise.workload.split import split
from joulewise.workload.store import Store, write_store
from joulewise.workload.task import Metric

__all__ = ["Workload", "check_certifiable", "open_workload", "workload_record"]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A model and its data, checked and split.

    Args:
        model: the original.
        source: the data as the user named them.
        calibrate: items from which passes take ranges.
        search: items on which candidates are compared.
        hold_out: items of the final test.
        classes: class names by label, empty if unknown.
        usage: how the model is used.
    """

    model: Model
    source: str
    calibrate: Store
    search: Store
    hold_out: Store
    classes: tuple[str, ...]
    usage: Usage


def open_workload(model: Path, data: str, usage: Usage, seed: int, folder: Path) -> Workload:
    """Load, check and split; the splits are written below `folder`.

    Raises:
        JoulewiseError: whatever is wrong with the model or the data, in one line.
    """
    loaded = load_model(model)
    dataset = load_data(data, loaded)
    check_data(dataset, loaded, usage.batch_items)
    splits = split(dataset.items, seed=seed)
    dtypes = {spec.name: spec.dtype for spec in loaded.inputs}
    stores = {
        name: write_store(folder / name, dataset.inputs, dtypes, dataset.labels, indices)
        for name, indices in vars(splits).items()
    }
    return Workload(model=loaded, source=data, classes=dataset.classes, usage=usage, **stores)


def check_certifiable(items: int, margin: float, confidence: float) -> float:
    """Return the smallest margin that `items` hold-out items can certify.

    Raises:
        InputError: it is larger than `margin`, so that no candidate could ever be proved.
    """
    smallest = smallest_margin(items, confidence)
    if smallest > margin:
        needed = items
        while smallest_margin(needed, confidence) > margin:
            needed = round(needed * 1.02) + 1
        raise InputError(
            f"{items} hold-out items can certify a loss of {100 * smallest:.1f} points at the "
            f"best, not {100 * margin:g}; give about {_total(needed) - _total(items):,} more "
            f"items, or declare --margin {_ceiling(100 * smallest)}"
        )
    return smallest


def workload_record(workload: Workload, metric: Metric) -> WorkloadRecord:
    """Return the job as it goes into the bundle."""
    stores = {
        "calibrate": workload.calibrate, "search": workload.search, "hold-out": workload.hold_out,
    }  # fmt: skip
    return WorkloadRecord(
        model=str(workload.model.path),
        data=workload.source,
        model_artifact=workload.model.artifact,
        metric=metric,
        splits={
            name: SplitRecord(items=store.items, digest=store.digest())
            for name, store in stores.items()
        },
        batch_items=workload.usage.batch_items,
        latency_p95_s=workload.usage.latency_p95_s,
        expected_items=workload.usage.expected_items,
        classes=workload.classes,
    )


def _total(hold_out_items: int) -> int:
    """Items that leave so many for the hold-out: 10 % (at most 512) and 30 % of the rest go."""
    rest = hold_out_items / 0.7
    return round(min(rest / 0.9, rest + 512))


def _ceiling(points: float) -> str:
    return f"{points + 0.05:.1f}"
