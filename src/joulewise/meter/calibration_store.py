"""Where the calibration of a machine is kept: one record per machine, in the user's data folder.

The folder is ``$JOULEWISE_HOME``, else ``$XDG_DATA_HOME/joulewise``, else
``~/.local/share/joulewise``; the file is called after the machine's fingerprint, as a home folder
may be shared by many machines.

Invariants: a record is of this very machine or is not used; one that cannot be read is an error,
never an uncalibrated estimate; it is looked up once per process, so that one run has one grade.
What reads and writes records is imported only where there is one: every start looks for it.

Source: XDG Base Directory Specification 0.8, which has relative paths ignored.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from joulewise.core.errors import InputError, JoulewiseError
from joulewise.core.host import Host
from joulewise.meter.calibration import SCHEMA, Calibration

__all__ = [
    "Kept",
    "fingerprint",
    "forget",
    "keep",
    "kept",
    "of_other_machines",
    "path_of",
    "prepare",
]

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A calibration on disk.

    Args:
        calibration: what it says.
        path: its file.
        digest: sha256 of the file.
    """

    calibration: Calibration
    path: Path
    digest: str


def fingerprint(host: Host) -> Mapping[str, str]:
    """Return what must be the same for a calibration to hold, by name.

    Main memory counts in whole GiB, as kernels differ in how much they keep for themselves.
    """
    memory = "unknown" if host.memory_bytes is None else f"{round(host.memory_bytes / GIB)} GiB"
    return {
        "CPU": f"{host.cpu} ({host.vendor} family {host.family} model {host.model})",
        "logical CPUs": str(host.logical_cpus),
        "memory": memory,
        "virtual machine": "yes" if host.hypervisor else "no",
        "kernel": host.system,
        "architecture": host.architecture,
    }


def kept(host: Host) -> Kept | None:
    """Return the calibration of a machine, None where there is none.

    Raises:
        InputError: there is one that cannot be read, is of a later joulewise or of another machine.
    """
    return _kept(host, path_of(host))


def keep(calibration: Calibration) -> Kept:
    """Write a calibration, in place of the one that its machine had.

    Raises:
        JoulewiseError: the folder cannot be written.
    """
    from joulewise.core.records import digest_file, dump

    path = prepare(calibration.host)
    dump(calibration, path)
    _kept.cache_clear()
    return Kept(calibration=calibration, path=path, digest=digest_file(path))


def prepare(host: Host) -> Path:
    """Make the folder for a machine's calibration and return its file.

    Raises:
        JoulewiseError: the folder cannot be written.
    """
    path = path_of(host)
    if not path.is_absolute():
        raise JoulewiseError(
            "there is no home folder; set JOULEWISE_HOME to a folder to keep it in"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "Permission denied")
    except OSError as error:
        raise JoulewiseError(
            f"cannot write {path.parent}: {error.strerror}; set JOULEWISE_HOME to another folder"
        ) from error
    return path


def forget(host: Host) -> Path | None:
    """Remove the calibration of a machine and return its file, None where there was none.

    Raises:
        JoulewiseError: the file cannot be removed.
    """
    path = path_of(host)
    try:
        path.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise JoulewiseError(f"cannot remove {path}: {error.strerror}") from error
    finally:
        _kept.cache_clear()
    return path


def of_other_machines(host: Host) -> tuple[str, ...]:
    """Return a line for each readable calibration of another machine, newest first: what differs.

    A kernel that was updated makes another machine of the same one.
    """
    return tuple(_differences(_others(path_of(host)), fingerprint(host)))


def path_of(host: Host) -> Path:
    """Return the file of a machine's calibration, whether it is there or not."""
    words = json.dumps(fingerprint(host), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    key = hashlib.sha256(words.encode()).hexdigest()
    return _home() / "calibrations" / f"{key[:16]}.json"


def _home() -> Path:
    own, shared = os.environ.get("JOULEWISE_HOME"), os.environ.get("XDG_DATA_HOME", "")
    if own:
        return Path(own).absolute()
    if os.path.isabs(shared):  # noqa: PTH117  (an empty one is no path)
        return Path(shared) / "joulewise"
    return Path(os.path.expanduser("~/.local/share/joulewise"))  # noqa: PTH111  (never raises)


@lru_cache(maxsize=8)
def _kept(host: Host, path: Path) -> Kept | None:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(
            f"cannot look for a calibration at {path}: {error.strerror}; give yourself access, or "
            "set JOULEWISE_HOME to another folder"
        ) from error
    from joulewise.core.records import digest_file

    calibration = _read(path)
    if fingerprint(calibration.host) != fingerprint(host):
        raise InputError(f"the calibration {path} is of another machine; {_REMEDY}")
    return Kept(calibration=calibration, path=path, digest=digest_file(path))


_REMEDY = "calibrate again, or remove it with: joulewise calibrate --forget"


@dataclass(frozen=True, kw_only=True)
class _Versioned:
    schema: str


def _read(path: Path) -> Calibration:
    """Read a record, its schema first, as a later one may lack any other field."""
    from joulewise.core.records import load

    try:
        schema = load(_Versioned, path).schema
        if schema == SCHEMA:
            return load(Calibration, path)
    except InputError as error:
        raise InputError(f"{error}; {_REMEDY}") from error
    raise InputError(f"the calibration {path} has schema {schema}, this is {SCHEMA}; {_REMEDY}")


def _others(own: Path) -> Iterable[Calibration]:
    for path in own.parent.glob("*.json"):
        with suppress(InputError):
            if path != own:
                yield _read(path)


def _differences(others: Iterable[Calibration], here: Mapping[str, str]) -> Iterable[str]:
    for other in sorted(others, key=lambda each: each.created, reverse=True):
        there = fingerprint(other.host)
        differing = [f"{name} {there[name]}" for name in here if there[name] != here[name]]
        yield (
            f"the calibration of {other.created[:10]} is of another machine and not used here "
            f"({', '.join(differing)})"
        )
