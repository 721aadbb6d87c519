"""Results as series for other tools: rows of a CSV file, samples for Prometheus.

Units are in the names of columns and metrics. Both writers take the lock of the file's folder, so
that programs which end at the same moment lose nothing of each other's, and both refuse a file
that is not theirs; check() does so before anything is measured.

Source: Prometheus text exposition format 0.0.4,
https://prometheus.io/docs/instrumenting/exposition_formats/; the files are meant for the textfile
collector of the node exporter, which reads every ``*.prom`` of one folder.
"""

from __future__ import annotations

import csv
import io
import itertools
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from joulewise.core.energy import Interval, Part
from joulewise.core.errors import InputError, JoulewiseError
from joulewise.core.records import write_atomic

__all__ = [
    "COLUMNS",
    "Result",
    "append_csv",
    "check",
    "prometheus_text",
    "samples_of",
    "write_prometheus",
]

COLUMNS = (
    "time_utc",
    "name",
    "exit_code",
    "component",
    "sensor",
    "grade",
    "duration_s",
    "cpu_s",
    "net_low_j",
    "net_j",
    "net_high_j",
    "gross_low_j",
    "gross_j",
    "gross_high_j",
    "idle_w",
)

JOULES, SECONDS = "joulewise_energy_joules_total", "joulewise_energy_seconds_total"
HELP = {
    JOULES: "Joules of all measured programs, net of idle power or gross, central figure.",
    SECONDS: "Seconds for which programs were measured.",
}
SAMPLE = re.compile(r"(?P<series>[a-z_]+\{[^{}\n]*\}) (?P<value>[0-9.e+-]+)")


@dataclass(frozen=True, kw_only=True)
class Result:
    """One measured program.

    Args:
        name: the command or window.
        parts: what each meter saw.
        exit_code: of a command, None for a window.
        at: when it ended; with time zone.
    """

    name: str
    parts: tuple[Part, ...]
    exit_code: int | None
    at: datetime


def check(table: Path | None, samples: Path | None) -> None:
    """Refuse files that could not be written once the joules are known.

    Args:
        table: the CSV file, which need not exist.
        samples: the file for Prometheus, which need not exist.

    Raises:
        InputError: a file holds something else.
        JoulewiseError: a file or its folder cannot be read and written.
    """
    for path in (table, samples):
        if path is not None and not os.access(path if path.exists() else path.parent, os.W_OK):
            raise JoulewiseError(f"cannot write {path}; name a file in a folder that you may write")
    if table is not None:
        _check_header(table)
    if samples is not None:
        _samples_in(samples)


def append_csv(path: Path, result: Result) -> None:
    """Append one row per meter, and the header where the file is new or empty.

    Args:
        path: the file.
        result: what to append.

    Raises:
        InputError: the file has other columns.
        JoulewiseError: it cannot be written.
    """
    with _locked(path):
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        if _check_header(path):
            writer.writeheader()
        writer.writerows(_row(result, part) for part in result.parts)
        try:
            with path.open("ab", buffering=0) as stream:
                stream.write(text.getvalue().encode())
        except OSError as error:
            raise JoulewiseError(f"cannot write {path}: {error.strerror}") from error


def write_prometheus(path: Path, result: Result) -> None:
    """Add a result to the counters in a file, whole or not at all.

    Args:
        path: the file; the textfile collector wants a name that ends in ``.prom``.
        result: what to add.

    Raises:
        InputError: the file holds something else.
        JoulewiseError: it cannot be written.
    """
    with _locked(path):
        totals = _samples_in(path)
        for series, value in samples_of(result.parts):
            totals[series] = totals.get(series, 0.0) + value
        write_atomic(path, prometheus_text(totals).encode())


def prometheus_text(totals: Mapping[str, float]) -> str:
    """Return samples in the text exposition format.

    Args:
        totals: name and labels, as in ``joulewise_energy_seconds_total{grade="B"}`` -> value.
    """
    lines = []
    for name, told in HELP.items():
        lines += [f"# HELP {name} {told}", f"# TYPE {name} counter"]
        lines += [
            f"{key} {value!r}" for key, value in totals.items() if key.startswith(f"{name}{{")
        ]
    return "\n".join(lines) + "\n"


def _row(result: Result, part: Part) -> dict[str, object]:
    cpu_s = [block.cpu_s for block in part.blocks if block.cpu_s is not None]
    return {
        "time_utc": result.at.astimezone(UTC).isoformat(timespec="seconds"),
        "name": result.name,
        "exit_code": result.exit_code,
        "component": part.component,
        "sensor": part.sensor.name,
        "grade": part.sensor.grade,
        "duration_s": _seconds(part),
        "cpu_s": sum(cpu_s) if cpu_s else None,
        **_bounds("net", part.net_j),
        **_bounds("gross", part.gross_j),
        "idle_w": part.idle_w,
    }


def _bounds(kind: str, joules: Interval | None) -> dict[str, object]:
    """Return the three columns of an interval; a missing one leaves them empty."""
    if joules is None:
        return {}
    return {
        f"{kind}_low_j": joules.low,
        f"{kind}_j": joules.central,
        f"{kind}_high_j": joules.high,
    }


def samples_of(parts: Iterable[Part]) -> Iterator[tuple[str, float]]:
    """Yield name with labels, and value, of each counter of some parts: joules and seconds."""
    for part in parts:
        labels = (
            f'component="{part.component}",sensor="{_escaped(part.sensor.name)}",'
            f'grade="{part.sensor.grade}"'
        )
        for kind, joules in (("net", part.net_j), ("gross", part.gross_j)):
            if joules is not None:
                yield f'{JOULES}{{{labels},kind="{kind}"}}', joules.central
        yield f"{SECONDS}{{{labels}}}", _seconds(part)


def _seconds(part: Part) -> float:
    return sum(block.seconds for block in part.blocks)


def _escaped(label: str) -> str:
    r"""Return a label's value with \, " and line feeds escaped; braces are left out."""
    text = label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return text.replace("{", "").replace("}", "")


def _samples_in(path: Path) -> dict[str, float]:
    """Return the samples that an earlier run wrote; none where there is no file."""
    found: dict[str, float] = {}
    for line in _text_of(path).splitlines():
        match = SAMPLE.fullmatch(line)
        if match and match["series"].partition("{")[0] in HELP:
            found[match["series"]] = float(match["value"])
        elif line and not line.startswith("# "):
            raise InputError(f"{path} holds other metrics than joulewise's; name another file")
    return found


def _check_header(path: Path) -> bool:
    """Return whether the header is still to be written; refuse a file with another one."""
    first = _text_of(path, lines=1).rstrip("\n")
    if first and first.split(",") != list(COLUMNS):
        raise InputError(f"{path} has other columns than joulewise's; name another file")
    return not first


def _text_of(path: Path, *, lines: int | None = None) -> str:
    try:
        with path.open(encoding="utf-8") as stream:
            return "".join(itertools.islice(stream, lines))
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}; name another file") from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of the folder of `path`, where the system has such locks."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    try:
        handle = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise JoulewiseError(f"cannot write {path}: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
