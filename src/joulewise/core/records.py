"""Records: frozen values as versioned JSON, written so that a crash never leaves half a file."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from joulewise.core.claim import Claim, Ledger, Trial
from joulewise.core.errors import InputError, JoulewiseError
from joulewise.core.host import Host
from joulewise.core.recipe import Recipe
from joulewise.core.supply import Footprint

__all__ = [
    "Artifact",
    "Bundle",
    "SplitRecord",
    "WorkloadRecord",
    "describe_artifact",
    "digest_file",
    "dump",
    "load",
    "to_json",
    "write_atomic",
]

SCHEMA = "joulewise/bundle/1"
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """Files that a plain runtime loads without joulewise.

    Args:
        files: path relative to the folder that holds them -> sha256; the first is the one to open.
        format: "onnx", "openvino" or "litert".
        size_bytes: of all files together.
    """

    files: Mapping[str, str]
    format: str
    size_bytes: int

    @property
    def main(self) -> str:
        """Relative path of the file to open."""
        return next(iter(self.files))


@dataclass(frozen=True, kw_only=True)
class SplitRecord:
    """One split: how many items, and the digest of their values and labels."""

    items: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class WorkloadRecord:
    """The job as it was given.

    Args:
        model: file name of the model.
        data: file or folder name of the data, or the Python function that gave them.
        model_artifact: the original model's files and digests.
        metric: what counts as a right answer; see `joulewise.workload.task.Task`.
        splits: "calibrate", "search" and "hold-out".
        batch_items: items per inference call.
        latency_p95_s: largest acceptable 95th percentile of the time of one batch, s.
        expected_items: inferences that the user expects to run, None if not said.
        largest_bytes: largest acceptable size of the model's files, None if not said.
        least_quality: least acceptable quality, as a fraction, None if not said.
        classes: class names, empty if unknown.
        slices: names of the slices of the column that was named; empty where slices are classes.
        tolerance: largest distance to a label that counts as right, in the labels' unit; None
            where the metric has none.
    """

    model: str
    data: str
    model_artifact: Artifact
    metric: str
    splits: Mapping[str, SplitRecord]
    batch_items: int
    latency_p95_s: float | None = None
    expected_items: int | None = None
    largest_bytes: int | None = None
    least_quality: float | None = None
    classes: tuple[str, ...] = ()
    slices: tuple[str, ...] = ()
    tolerance: float | None = None


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """All that a report needs and all that a second proof starts from (``joulewise.json``).

    Args:
        created: UTC time, ISO 8601.
        verdict: "cheaper" (a changed model won), "rerun" (the original, run another way, won)
            or "keep" (nothing beat the model as found).
        summary: why, in one sentence.
        workload: the job.
        host: the machine on which all joules were taken.
        packages: versions.
        seed: of splits and interleaving.
        margin: declared before the search, as a fraction.
        confidence: declared before the search.
        slice_margin: declared before the search, as a fraction; None where slices did not count.
        smallest_margin: smallest margin that the hold-out can certify at all, as a fraction.
        recipe: the winner.
        artifact: the winner's files, relative to the bundle.
        as_found: recipe of the model as the user runs it today.
        baseline: recipe of the strongest lossless way to run the original.
        anchor: recipe of the program that every trial was interleaved with.
        claims: the final tests in the order in which they were made.
        trials: all that was tried, in order.
        ledger: what the search cost.
        warnings: each with its remedy.
        footprints: grams and money of the "search" (the ledger's joules) and of a "million
            inferences" with the winner (net of idle); empty where no place or price was given.
        front: places in `trials`, from 0, of those that none of the others equals or beats in
            joules, quality, latency and size (`joulewise.core.front`); empty in older records.
    """

    created: str
    verdict: str
    summary: str
    workload: WorkloadRecord
    host: Host
    packages: Mapping[str, str]
    seed: int
    margin: float
    confidence: float
    smallest_margin: float
    recipe: Recipe
    artifact: Artifact
    as_found: Recipe
    baseline: Recipe
    anchor: Recipe
    claims: tuple[Claim, ...]
    trials: tuple[Trial, ...]
    ledger: Ledger
    slice_margin: float | None = None
    warnings: tuple[str, ...] = ()
    footprints: Mapping[str, Footprint] = field(default_factory=dict)
    front: tuple[int, ...] = ()
    schema: str = field(default=SCHEMA)

    @property
    def claim(self) -> Claim | None:
        """The claim that proves the winner; None where the original is kept."""
        proofs = (c for c in reversed(self.claims) if c.candidate == self.recipe and c.holds)
        return None if self.verdict == "keep" else next(proofs, None)


def to_json(value: object) -> bytes:
    """Return `value` as indented UTF-8 JSON."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2)


def dump(value: object, path: Path) -> None:
    """Write `value` as JSON to `path`, whole or not at all."""
    write_atomic(path, to_json(value) + b"\n")


def load(kind: type[T], path: Path) -> T:
    """Read a record of type `kind`.

    Raises:
        InputError: the file is missing, no JSON, or a field is missing or has a wrong type.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a record of this version of joulewise: {error}") from error


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` to `path` through a temporary file in the same folder.

    Raises:
        JoulewiseError: the folder cannot be written, or the disk is full.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise JoulewiseError(f"cannot write {path}: {error.strerror}") from error


def digest_file(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal; raises InputError where it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            for part in iter(lambda: stream.read(1 << 20), b""):
                digest.update(part)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()


def describe_artifact(folder: Path, files: Iterable[str], kind: str) -> Artifact:
    """Return the Artifact made of `files` (relative to `folder`); the first is the one to open."""
    names = list(files)
    return Artifact(
        files={name: digest_file(folder / name) for name in names},
        format=kind,
        size_bytes=sum((folder / name).stat().st_size for name in names),
    )
