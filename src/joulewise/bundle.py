"""The bundle on disk: what a user gets, and all that a second proof starts from.

It is put together beside its place and moved there whole, so a crash leaves no half bundle.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from joulewise.core.claim import Check
from joulewise.core.errors import InputError, JoulewiseError, UsageError
from joulewise.core.records import (
    SCHEMA,
    Artifact,
    Bundle,
    digest_file,
    dump,
    load,
    write_atomic,
)
from joulewise.core.settings import Usage
from joulewise.proof.prove import Contest
from joulewise.report.card import render_card
from joulewise.report.page import render_page
from joulewise.workload.store import Store, open_store
from joulewise.workload.task import task_of
from joulewise.workload.workload import Workload

__all__ = [
    "contest_of",
    "file_checks",
    "move_whole",
    "open_bundle",
    "open_hold_out",
    "scratch_folder",
    "work_folder",
    "write",
]

RECORD = "joulewise.json"
ORIGINAL = Path("evidence/original")
HOLD_OUT = Path("evidence/hold_out")

WORTH_KEEPING = ("study.db", "study-name", "artifacts")
"""What a run has in its working folder once there is something to go on from."""


@contextmanager
def work_folder(output: Path, *, resume: bool) -> Iterator[Path]:
    """Give the folder beside `output` in which a run keeps what it has found so far.

    It stays when the run is interrupted or fails half-way, and is removed when the bundle is
    written, or when the run fails before its first trial or step.

    Raises:
        UsageError: `output` exists, or the folder of another run is there, and either it is still
            at work or `resume` is False.
        JoulewiseError: the folder cannot be written.
    """
    if os.path.lexists(output):
        raise UsageError(f"{output} already exists; choose another -o, or remove it first")
    folder = output.with_name(f"{output.name}.work")
    new = not os.path.lexists(folder)
    if not (new or resume):
        raise UsageError(
            f"an interrupted run is in {folder}; go on with --resume, or remove that folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JoulewiseError(f"cannot write {folder}: {error.strerror}") from error
    try:
        with _alone(folder):
            yield folder
    except BaseException as error:
        if new and not any((folder / kept).exists() for kept in WORTH_KEEPING):
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EROFS}:
            raise JoulewiseError(
                f"cannot write {folder}: {error.strerror}; free some room and go on with --resume"
            ) from error
        raise
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder; they may come in when this process is gone, however it ends.

    Raises:
        UsageError: another run is in it.
    """
    try:
        import fcntl
    except ImportError:  # where there is none, nobody is kept out
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"another run is at work in {folder}; wait for its end, or choose another -o"
            ) from error
        yield
    finally:
        os.close(handle)


def write(bundle: Bundle, winner: Path, workload: Workload, work: Path, output: Path) -> None:
    """Write the bundle to `output`, whole or not at all.

    Args:
        bundle: the record; its artifact's paths are relative to `output`.
        winner: folder that holds the winner's files.
        workload: gives the original model and the hold-out items.
        work: the run's working folder, on the same file system as `output`.
        output: must not exist.

    Raises:
        JoulewiseError: `output` has come to exist meanwhile.
    """
    made, model = work / "bundle", workload.model
    shutil.rmtree(made, ignore_errors=True)
    for name in bundle.artifact.files:
        _copy(winner / Path(name).relative_to("model"), made / name)
    for name in model.artifact.files:
        _copy(model.path.parent / name, made / ORIGINAL / name)
    shutil.copytree(workload.hold_out.folder, made / HOLD_OUT)
    _copy(work / "study.db", made / "study.db")
    dump(bundle, made / RECORD)
    write_atomic(made / "report.html", render_page(bundle).encode())
    write_atomic(made / "README.md", render_card(bundle).encode())
    move_whole(made, output)


def move_whole(folder: Path, output: Path) -> None:
    """Give a finished folder its place.

    Args:
        folder: on the same file system as `output`.
        output: must not exist.

    Raises:
        JoulewiseError: `output` has come to exist meanwhile.
    """
    try:
        folder.replace(output)
    except OSError as error:
        raise JoulewiseError(
            f"cannot move the result to {output}: {error.strerror}; go on with --resume"
        ) from error


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Give a folder for answers that nobody needs afterwards."""
    with tempfile.TemporaryDirectory(prefix="joulewise-") as folder:
        yield Path(folder)


def open_bundle(folder: Path) -> Bundle:
    """Read a bundle's record.

    Raises:
        InputError: there is no bundle, it was written by another version, or it contradicts itself.
    """
    if not (folder / RECORD).is_file():
        raise InputError(f"{folder} is not a bundle: it has no {RECORD}")
    bundle = load(Bundle, folder / RECORD)
    if bundle.schema != SCHEMA:
        raise InputError(f"{folder} has schema {bundle.schema}; this joulewise reads {SCHEMA}")
    if not _is_coherent(bundle):
        raise InputError(f"{folder / RECORD} contradicts itself; get the bundle again")
    return bundle


def file_checks(folder: Path, bundle: Bundle) -> tuple[Check, ...]:
    """Return whether model, original and hold-out data are those that the claim speaks of."""
    return (
        _unchanged("model files", folder, bundle.artifact),
        _unchanged("original model", folder / ORIGINAL, bundle.workload.model_artifact),
        _hold_out_check(folder, bundle),
    )


def contest_of(folder: Path, bundle: Bundle) -> Contest:
    """Return the final test that a bundle's claim stands for."""
    claim = next(claim for claim in bundle.claims if claim.candidate == bundle.recipe)
    return Contest(
        original=folder / ORIGINAL / bundle.workload.model_artifact.main,
        artifact=folder / bundle.artifact.main,
        candidate=bundle.recipe,
        baseline=claim.baseline,
        as_found=bundle.as_found,
        task=task_of(bundle.workload.metric, bundle.workload.tolerance),
        classes=bundle.workload.classes,
        usage=Usage(
            batch_items=bundle.workload.batch_items,
            latency_p95_s=bundle.workload.latency_p95_s,
            size_bytes=bundle.workload.largest_bytes,
            quality=bundle.workload.least_quality,
        ),
        size_bytes=bundle.artifact.size_bytes,
        margin=bundle.margin,
        confidence=bundle.confidence,
        slice_names=bundle.workload.slices,
        slice_margin=bundle.slice_margin,
    )


def open_hold_out(folder: Path) -> Store:
    """Open the bundle's hold-out items."""
    return open_store(folder / HOLD_OUT)


def _is_coherent(bundle: Bundle) -> bool:
    """Return whether the record names files, a hold-out and, unless it keeps, its claim."""
    named = bundle.artifact.files and bundle.workload.model_artifact.files
    proved = bundle.verdict in {"cheaper", "rerun"} and any(
        claim.candidate == bundle.recipe for claim in bundle.claims
    )
    return (
        bool(named)
        and "hold-out" in bundle.workload.splits
        and (bundle.verdict == "keep" or proved)
    )


def _unchanged(name: str, folder: Path, artifact: Artifact) -> Check:
    for file, digest in artifact.files.items():
        if not (folder / file).resolve().is_relative_to(folder.resolve()):
            return Check(name=name, holds=False, detail=f"{file} lies outside the bundle")
        try:
            found = digest_file(folder / file)
        except InputError as error:
            return Check(name=name, holds=False, detail=str(error))
        if found != digest:
            return Check(name=name, holds=False, detail=f"{file} was altered after the proof")
    return Check(name=name, holds=True, detail="sha256 as recorded")


def _hold_out_check(folder: Path, bundle: Bundle) -> Check:
    name = "hold-out data"
    try:
        digest = open_hold_out(folder).digest()
    except InputError as error:
        return Check(name=name, holds=False, detail=str(error))
    if digest != bundle.workload.splits["hold-out"].digest:
        detail = "items or labels were altered after the proof"
        return Check(name=name, holds=False, detail=detail)
    return Check(name=name, holds=True, detail="sha256 as recorded")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
