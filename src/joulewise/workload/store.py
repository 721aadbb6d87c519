"""Splits on disk: one .npy file per input, read by programs and passes in other processes.

The values stay in the small type in which the user gave them (uint8 pixels, say) and are cast to
the model's type batch by batch.
"""

from __future__ import annotations

import hashlib
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from joulewise.core.errors import InputError, one_line
from joulewise.core.records import dump, load

__all__ = ["Store", "open_store", "write_store"]

Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]
Targets = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

UNREADABLE = (EOFError, OSError, SyntaxError, TypeError, ValueError, tokenize.TokenError)
"""What numpy's parser of headers raises on damaged files."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One input: the file that holds it and the type in which the model takes it."""

    file: str
    dtype: str


@dataclass(frozen=True, kw_only=True)
class Index:
    """What lies in a store folder (``index.json``)."""

    items: int
    columns: Mapping[str, Column]
    labels: str | None
    targets: str | None = None
    slices: str | None = None
    clusters: str | None = None


@dataclass(frozen=True, kw_only=True)
class Store:
    """A split, memory-mapped.

    Args:
        folder: where it lies.
        items: number of items.
        inputs: name -> array whose first axis is items, in the stored type.
        dtypes: name -> type in which the model takes it.
        labels: classes, int64 [items], or tokens or several classes, [items, ...]; None if unknown.
        targets: labels that are values, float64 [items, ...], or None.
        slices: that items belong to besides their class, int64 [items], or None.
        clusters: of items that belong together, int64 [items]; None where each stands for itself.
    """

    folder: Path
    items: int
    inputs: Mapping[str, Array]
    dtypes: Mapping[str, str]
    labels: np.ndarray[tuple[int, ...], np.dtype[np.int64]] | None
    targets: Targets | None = None
    slices: np.ndarray[tuple[int], np.dtype[np.int64]] | None = None
    clusters: np.ndarray[tuple[int], np.dtype[np.int64]] | None = None

    @property
    def units(self) -> int:
        """How many independent units there are: clusters, where items belong together."""
        return self.items if self.clusters is None else len(np.unique(self.clusters))

    def batch(self, start: int, items: int) -> dict[str, Array]:
        """Return `items` items from `start` in the model's types, going round at the end."""
        index = np.arange(start, start + items) % self.items
        return {
            name: np.ascontiguousarray(values[index], dtype=self.dtypes[name])
            for name, values in self.inputs.items()
        }

    def batches(self, batch_items: int, limit: int | None = None) -> Iterator[dict[str, Array]]:
        """Yield batches of exactly `batch_items` that cover the first `limit` items (or all)."""
        for start in range(0, min(limit or self.items, self.items), batch_items):
            yield self.batch(start, batch_items)

    def digest(self) -> str:
        """Return the sha256 over names, types, shapes, values and labels."""
        digest = hashlib.sha256()
        columns = dict(self.inputs)
        for name in sorted(columns):
            _feed(digest, name, columns[name], self.dtypes[name])
        if self.labels is not None:
            _feed(digest, "", self.labels, "int64")  # no input has an empty name
        if self.targets is not None:
            _feed(digest, "", self.targets, "float64")
        if self.slices is not None:
            _feed(digest, "/", self.slices, "int64")
        if self.clusters is not None:
            _feed(digest, "//", self.clusters, "int64")
        return digest.hexdigest()


def write_store(
    folder: Path,
    inputs: Mapping[str, Array],
    dtypes: Mapping[str, str],
    labels: Array | None,
    indices: np.ndarray[tuple[int], np.dtype[np.int64]],
    targets: Array | None = None,
    slices: Array | None = None,
    clusters: Array | None = None,
) -> Store:
    """Write the items at `indices` to `folder` and return them opened.

    Args:
        folder: made if missing.
        inputs: name -> array of all items.
        dtypes: name -> type in which the model takes it.
        labels: classes of all items, None if unknown.
        indices: which items.
        targets: labels that are values, of all items; None if there are none.
        slices: that items belong to besides their class; None if there are none.
        clusters: of items that belong together; None if there are none.

    Raises:
        InputError: the folder cannot be written, or the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        columns = {}
        for number, (name, values) in enumerate(inputs.items()):
            columns[name] = Column(file=f"input_{number}.npy", dtype=dtypes[name])
            np.save(folder / columns[name].file, values[indices], allow_pickle=False)
        if labels is not None:
            np.save(folder / "labels.npy", labels[indices].astype(np.int64), allow_pickle=False)
        if targets is not None:
            values = targets[indices].astype(np.float64)
            np.save(folder / "targets.npy", values, allow_pickle=False)
        if slices is not None:
            np.save(folder / "slices.npy", slices[indices].astype(np.int64), allow_pickle=False)
        if clusters is not None:
            values = clusters[indices].astype(np.int64)
            np.save(folder / "clusters.npy", values, allow_pickle=False)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}") from error
    index = Index(
        items=len(indices),
        columns=columns,
        labels=None if labels is None else "labels.npy",
        targets=None if targets is None else "targets.npy",
        slices=None if slices is None else "slices.npy",
        clusters=None if clusters is None else "clusters.npy",
    )
    dump(index, folder / "index.json")
    return open_store(folder)


def open_store(folder: Path) -> Store:
    """Open a store; nothing is unpickled.

    Raises:
        InputError: a file is missing, damaged, of the wrong length, or outside the folder.
    """
    index = load(Index, folder / "index.json")
    inputs = {name: _open(folder, column.file) for name, column in index.columns.items()}
    labels = None if index.labels is None else _open(folder, index.labels)
    targets = None if index.targets is None else _open(folder, index.targets)
    slices = None if index.slices is None else _open(folder, index.slices)
    clusters = None if index.clusters is None else _open(folder, index.clusters)
    beside = [
        ("labels", labels, "iu"),
        ("targets", targets, "f"),
        ("slices", slices, "iu"),
        ("clusters", clusters, "iu"),
    ]
    for name, values in [*inputs.items(), *((name, values) for name, values, _ in beside)]:
        if values is not None and (values.ndim == 0 or len(values) != index.items):
            raise InputError(f"{folder}: {name!r} does not hold {index.items} items")
    for name, values, kinds in beside:
        if values is not None and values.dtype.kind not in kinds:
            raise InputError(f"{folder}: {name!r} are {values.dtype.name}; get the data again")
    return Store(
        folder=folder,
        items=index.items,
        inputs=inputs,
        dtypes={name: column.dtype for name, column in index.columns.items()},
        labels=None if labels is None else np.asarray(labels, dtype=np.int64),
        targets=None if targets is None else np.asarray(targets, dtype=np.float64),
        slices=None if slices is None else np.asarray(slices, dtype=np.int64),
        clusters=None if clusters is None else np.asarray(clusters, dtype=np.int64),
    )


def _open(folder: Path, name: str) -> Array:
    if Path(name).name != name:
        raise InputError(f"{folder}: refusing the file name {name!r} outside the folder")
    try:
        values: Any = np.load(folder / name, mmap_mode="r", allow_pickle=False)
    except UNREADABLE as error:
        raise InputError(f"cannot read {folder / name}: {one_line(error)}") from error
    if not isinstance(values, np.ndarray):  # numpy opens archives under any name
        values.close()
        raise InputError(f"cannot read {folder / name}: it is not a single array")
    array: Array = values
    return array


def _feed(digest: hashlib._Hash, name: str, values: Array, dtype: str) -> None:
    digest.update(f"{name}|{values.dtype.str}|{dtype}|{values.shape}|".encode())
    for start in range(0, len(values), 4096):
        digest.update(np.ascontiguousarray(values[start : start + 4096]).data)
