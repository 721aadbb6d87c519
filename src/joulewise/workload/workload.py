"""The job as the user gives it: a model, its data in disjoint splits, and how it will be used."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from joulewise.core.errors import InputError
from joulewise.core.records import SplitRecord, WorkloadRecord
from joulewise.core.settings import Settings, Usage
from joulewise.core.statistics import fewest_items, smallest_margin
from joulewise.workload.data import Dataset, as_asked, check_data, load_data
from joulewise.workload.model import Model, load_model
from joulewise.workload.split import split, split_clusters
from joulewise.workload.store import Store, write_store
from joulewise.workload.task import Task, counted_items

__all__ = ["Workload", "check_certifiable", "open_workload", "unit_words", "workload_record"]


LEAST_LESSONS = 32
"""Fewest items that are worth learning from: a judgement, one batch."""


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
        slice_names: of the slices of the stores; empty where slices are classes.
        usage: how the model is used.
        train: items to learn from, None where the user gave none; never one of the others.
        warnings: what was noticed about the data, each with its remedy.
    """

    model: Model
    source: str
    calibrate: Store
    search: Store
    hold_out: Store
    classes: tuple[str, ...]
    slice_names: tuple[str, ...] = ()
    usage: Usage
    train: Store | None = None
    warnings: tuple[str, ...] = ()


def open_workload(
    model: Path,
    data: str,
    usage: Usage,
    settings: Settings,
    folder: Path,
    train: str | None = None,
) -> Workload:
    """Load, check and split; the splits are written below `folder`.

    The search gets as many items as the declared margin needs, if there are enough for both it
    and the hold-out.

    Args:
        model: an ONNX file.
        data: the items to calibrate, search and prove with.
        usage: how the model is used.
        settings: what is declared before the search.
        folder: for the splits; made if missing.
        train: items to learn from, in the same forms as `data`; those that are among `data` too
            are left out.

    Raises:
        JoulewiseError: whatever is wrong with the model or the data, in one line.
    """
    loaded = load_model(model)
    dataset = as_asked(
        load_data(data, loaded, settings.slice_name, settings.cluster_name), settings.kind
    )
    check_data(dataset, loaded, usage.batch_items, settings.kind)
    if settings.slice_name is not None and dataset.slices is None:
        raise InputError(
            f"{data} has no array {settings.slice_name!r} that says which slice an item belongs "
            "to; add it to the .npz or to what the function returns, or leave --slice out"
        )
    if settings.cluster_name is not None and dataset.clusters is None:
        raise InputError(
            f"{data} has no array {settings.cluster_name!r} that says which items belong together; "
            "add it to the .npz or to what the function returns, or leave --cluster out"
        )
    needed = fewest_items(settings.margin, settings.confidence)
    splits = (
        split(dataset.items, seed=settings.seed, search_items=needed)
        if dataset.clusters is None
        else split_clusters(dataset.clusters, seed=settings.seed, search_clusters=needed)
    )
    dtypes = {spec.name: spec.dtype for spec in loaded.inputs}
    stores = {
        name: write_store(
            folder / name,
            dataset.inputs,
            dtypes,
            dataset.labels,
            indices,
            dataset.targets,
            dataset.slices,
            dataset.clusters,
        )
        for name, indices in vars(splits).items()
    }
    lessons: Store | None = None
    warnings: tuple[str, ...] = ()
    if train is not None:
        taught = as_asked(
            load_data(train, loaded, settings.slice_name, settings.cluster_name), settings.kind
        )
        check_data(taught, loaded, usage.batch_items, settings.kind)
        lessons, warnings = _lessons(taught, dataset, loaded, folder / "train")
    return Workload(
        model=loaded, source=data, classes=dataset.classes, slice_names=dataset.slice_names,
        usage=usage, train=lessons, warnings=warnings, **stores,
    )  # fmt: skip


def check_certifiable(workload: Workload, settings: Settings) -> float:
    """Return the smallest margin that the hold-out can certify, as a fraction.

    Raises:
        InputError: the hold-out or the search split is too small for the declared margin, so that
            no candidate could ever be proved.
    """
    confidence, margin = settings.confidence, settings.margin
    stores = (workload.hold_out, workload.search)
    held_out, searched = (
        min(store.units, counted_items(settings.metric, store.labels, store.items))
        for store in stores
    )
    fewest = min(held_out, searched)
    if fewest < min(store.units for store in stores) and fewest < fewest_items(margin, confidence):
        raise InputError(
            f"the rarest class is too rare for {settings.metric}: a mean over classes is known as "
            f"if all had as few items, {held_out} in the hold-out and {searched} for the search, "
            f"and {100 * margin:g} points need {fewest_items(margin, confidence):,}; give more "
            "items of rare classes, or declare a larger --margin"
        )
    if fewest < fewest_items(margin, confidence):
        best = f"{100 * smallest_margin(fewest, confidence) + 0.05:.1f}"  # rounded up
        units = unit_words(workload)
        raise InputError(
            f"{held_out} hold-out {units} and {searched} for the search "
            f"can certify a loss of {best} points at the best, not {100 * margin:g}; "
            f"give at least {_total_items(margin, confidence):,} {units} in all, or declare "
            f"--margin {best}"
        )
    return smallest_margin(held_out, confidence)


def unit_words(workload: Workload) -> str:
    """Return what the proof counts: items, or clusters where items belong together."""
    return "items" if workload.hold_out.clusters is None else "clusters"


def workload_record(workload: Workload, task: Task) -> WorkloadRecord:
    """Return the job as it goes into the bundle, without the folders of this machine."""
    stores = {
        "calibrate": workload.calibrate, "search": workload.search, "hold-out": workload.hold_out,
        **({} if workload.train is None else {"train": workload.train}),
    }  # fmt: skip
    return WorkloadRecord(
        model=workload.model.path.name,
        data=Path(workload.source).name,
        model_artifact=workload.model.artifact,
        metric=task.metric,
        tolerance=task.tolerance,
        splits={
            name: SplitRecord(items=store.items, digest=store.digest())
            for name, store in stores.items()
        },
        batch_items=workload.usage.batch_items,
        latency_p95_s=workload.usage.latency_p95_s,
        expected_items=workload.usage.expected_items,
        largest_bytes=workload.usage.size_bytes,
        least_quality=workload.usage.quality,
        classes=workload.classes,
        slices=workload.slice_names,
    )


def _lessons(
    lessons: Dataset, dataset: Dataset, model: Model, folder: Path
) -> tuple[Store, tuple[str, ...]]:
    """Write the items to learn from, without those that are also used to judge."""
    kinds = [(each.labels is not None, each.targets is not None) for each in (lessons, dataset)]
    if all(map(any, kinds)) and kinds[0] != kinds[1]:
        raise InputError(
            f"labels of {lessons.source} and {dataset.source} differ: one has classes "
            "(integers), one values (floats); give the same for both"
        )
    if any(kinds[1]) and not any(kinds[0]):
        raise InputError(
            f"{lessons.source} holds no labels, but {dataset.source} does; give them for both"
        )
    if lessons.classes != dataset.classes and lessons.classes and dataset.classes:
        raise InputError(
            f"the classes of {lessons.source} and {dataset.source} differ; give both the same "
            "classes in the same order"
        )
    judged = set(_digests(dataset, model))
    fresh = np.array([digest not in judged for digest in _digests(lessons, model)])
    if dataset.clusters is not None:
        fresh &= _of_other_clusters(lessons, dataset)
    kept = np.flatnonzero(fresh)
    if len(kept) < LEAST_LESSONS:
        raise InputError(
            f"{len(kept)} of the {lessons.items} items of {lessons.source} are not among "
            f"{dataset.source} too; give at least {LEAST_LESSONS} of their own to learn from"
        )
    dtypes = {spec.name: spec.dtype for spec in model.inputs}
    store = write_store(folder, lessons.inputs, dtypes, lessons.labels, kept, lessons.targets)
    if len(kept) == lessons.items:
        return store, ()
    warning = (
        f"{lessons.items - len(kept)} of the {lessons.items} items to learn from are among the "
        "items to judge with; they were left out"
    )
    return store, (warning,)


def _digests(dataset: Dataset, model: Model) -> list[bytes]:
    """Return a digest of every item as the model takes it."""
    found = []
    for number in range(dataset.items):
        digest = hashlib.blake2b(digest_size=16)
        for spec in model.inputs:
            digest.update(dataset.inputs[spec.name][number].astype(spec.dtype).tobytes())
        found.append(digest.digest())
    return found


def _total_items(margin: float, confidence: float) -> int:
    """Return how many items leave enough for search and hold-out beside the calibration items."""
    both = 2 * fewest_items(margin, confidence)
    return min(math.ceil(both / 0.9) + 1, both + 512)


def _of_other_clusters(lessons: Dataset, dataset: Dataset) -> npt.NDArray[np.bool_]:
    """Return which items to learn from are of no cluster that is also used to judge, bool [n]."""
    if lessons.clusters is None:
        raise InputError(
            f"{lessons.source} does not say which items belong together, but {dataset.source} does;"
            " add the array of --cluster there too"
        )
    known = np.isin(lessons.cluster_names, dataset.cluster_names)
    return np.asarray(~known[lessons.clusters])
