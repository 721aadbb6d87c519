"""Under which conditions a record was taken: the machine, the versions, and who else was busy."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.calibration_codecarbon import find_commit
from joulewise.core.host import Host, package_versions, read_host

__all__ = ["ROOT", "Conditions", "conditions_since"]

ROOT = Path(__file__).resolve().parent.parent
"""The checkout."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What may have changed a figure.

    Args:
        created: UTC time, ISO 8601.
        commit: of the checkout, None where unknown.
        host: the machine.
        python: version of the interpreter.
        packages: versions.
        load_before: programs that wanted a CPU in the last 1, 5 and 15 minutes, at the start.
        load_after: the same at the end, our own among them.
    """

    created: str
    commit: str | None
    host: Host
    python: str
    packages: Mapping[str, str]
    load_before: tuple[float, float, float]
    load_after: tuple[float, float, float]


def conditions_since(load_before: tuple[float, float, float]) -> Conditions:
    """Return the conditions of what just ended.

    Args:
        load_before: what os.getloadavg() said before it began.
    """
    return Conditions(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=find_commit(ROOT),
        host=read_host(),
        python=platform.python_version(),
        packages=package_versions(),
        load_before=load_before,
        load_after=os.getloadavg(),
    )
