"""The job as the user gives it: a model, its data in disjoint splits, and how it will be used."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from joulewise.core.errors import InputError
from joulewise.core.records import SplitRecord, WorkloadRecord
from joulewise.core.settings import Settings, Usage
from joulewise.core.statistics import fewest_items, smallest_margin
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


def open_workload(
    model: Path, data: str, usage: Usage, settings: Settings, folder: Path
) -> Workload:
    """Load, check and split; the splits are written below `folder`.

    The search gets as many items as the declared margin needs, if there are enough for both it
    and the hold-out.

    Raises:
        JoulewiseError: whatever is wrong with the model or the data, in one line.
    """
    loaded = load_model(model)
    dataset = load_data(data, loaded)
    check_data(dataset, loaded, usage.batch_items)
    needed = fewest_items(settings.margin, settings.confidence)
    splits = split(dataset.items, seed=settings.seed, search_items=needed)
    dtypes = {spec.name: spec.dtype for spec in loaded.inputs}
    stores = {
        name: write_store(folder / name, dataset.inputs, dtypes, dataset.labels, indices)
        for name, indices in vars(splits).items()
    }
    return Workload(model=loaded, source=data, classes=dataset.classes, usage=usage, **stores)


def check_certifiable(workload: Workload, settings: Settings) -> float:
    """Return the smallest margin that the hold-out can certify, as a fraction.

    Raises:
        InputError: the hold-out or the search split is too small for the declared margin, so that
            no candidate could ever be proved.
    """
    confidence, margin = settings.confidence, settings.margin
    fewest = min(workload.hold_out.items, workload.search.items)
    if fewest < fewest_items(margin, confidence):
        best = f"{100 * smallest_margin(fewest, confidence) + 0.05:.1f}"  # rounded up
        raise InputError(
            f"{workload.hold_out.items} hold-out items and {workload.search.items} for the search "
            f"can certify a loss of {best} points at the best, not {100 * margin:g}; "
            f"give at least {_total_items(margin, confidence):,} items in all, or declare "
            f"--margin {best}"
        )
    return smallest_margin(workload.hold_out.items, confidence)


def workload_record(workload: Workload, metric: Metric) -> WorkloadRecord:
    """Return the job as it goes into the bundle, without the folders of this machine."""
    stores = {
        "calibrate": workload.calibrate, "search": workload.search, "hold-out": workload.hold_out,
    }  # fmt: skip
    return WorkloadRecord(
        model=workload.model.path.name,
        data=Path(workload.source).name,
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


def _total_items(margin: float, confidence: float) -> int:
    """Return how many items leave enough for search and hold-out beside the calibration items."""
    both = 2 * fewest_items(margin, confidence)
    return min(math.ceil(both / 0.9) + 1, both + 512)
