from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulewise.core.errors import InputError, JoulewiseError
from joulewise.core.records import digest_file, dump
from joulewise.meter.calibration_store import (
    fingerprint,
    forget,
    keep,
    kept,
    of_other_machines,
    path_of,
)
from tests.meter.calibrations import HOST, fitted, staircase

KEPT = fitted(staircase())


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JOULEWISE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_what_is_kept_is_found_and_forgotten() -> None:
    assert kept(HOST) is None
    written = keep(KEPT)
    found = kept(HOST)
    assert found == written
    assert found is not None
    assert (found.calibration, found.digest) == (KEPT, digest_file(found.path))
    assert forget(HOST) == found.path
    assert kept(HOST) is None
    assert forget(HOST) is None


def test_a_later_calibration_takes_the_place_of_the_former() -> None:
    keep(KEPT)
    keep(replace(KEPT, idle_w=33.0))
    found = kept(HOST)
    assert found is not None
    assert found.calibration.idle_w == 33.0
    assert [path.name for path in found.path.parent.iterdir()] == [found.path.name]


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"cpu": "Intel Xeon"}, "CPU AMD EPYC 7763 (AuthenticAMD family 25 model 1)"),
        ({"model": 17}, "CPU AMD EPYC 7763 (AuthenticAMD family 25 model 1)"),
        ({"system": "Linux 6.2"}, "kernel Linux 6.1"),
        ({"logical_cpus": 2}, "logical CPUs 4"),
        ({"memory_bytes": 2**36}, "memory 16 GiB"),
        ({"hypervisor": True}, "virtual machine no"),
    ],
)
def test_another_machine_has_none_but_is_told_why(
    change: dict[str, object], difference: str
) -> None:
    keep(KEPT)
    other = replace(HOST, **change)  # type: ignore[arg-type]
    assert kept(other) is None
    (line,) = of_other_machines(other)
    assert line == (
        f"the calibration of 2026-11-20 is of another machine and not used here ({difference})"
    )
    assert of_other_machines(HOST) == ()


@given(st.integers(-(2**28), 2**28))
def test_memory_may_differ_by_what_a_kernel_keeps(difference_bytes: int) -> None:
    assert HOST.memory_bytes is not None
    other = replace(HOST, memory_bytes=HOST.memory_bytes + difference_bytes)
    assert fingerprint(other) == fingerprint(HOST)
    assert path_of(other) == path_of(HOST)


def test_other_machines_come_newest_first() -> None:
    for day in (3, 7, 5):
        keep(replace(KEPT, host=replace(HOST, system=f"Linux {day}"), created=f"2026-01-0{day}T"))
    days = [line.partition("2026-01-0")[2][0] for line in of_other_machines(HOST)]
    assert days == ["7", "5", "3"]


def broken(record: dict[str, object], way: str) -> bytes:
    content = json.dumps({**record, "schema": "joulewise/calibration/2"}).encode()
    return {
        "cut": json.dumps(record).encode()[:200],
        "empty": b"",
        "no object": b"[1, 2]",
        "no UTF-8": b'{"schema": "\xff"}',
        "later": content,
        "nonsense": json.dumps({**record, "pair_ratio": 0.1}).encode(),
        "field missing": json.dumps({k: v for k, v in record.items() if k != "line"}).encode(),
    }[way]


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("cut", "is not a record"),
        ("empty", "is not a record"),
        ("no object", "is not a record"),
        ("no UTF-8", "is not a record"),
        ("later", "has schema joulewise/calibration/2, this is joulewise/calibration/1"),
        ("nonsense", "its figures contradict each other"),
        ("field missing", "missing required field `line`"),
    ],
)
def test_a_record_that_cannot_be_read_is_one_line(way: str, words: str) -> None:
    path = keep(KEPT).path
    path.write_bytes(broken(json.loads(path.read_bytes()), way))
    with pytest.raises(InputError) as refused:
        kept(HOST)
    message = str(refused.value)
    assert words in message
    assert message.endswith("calibrate again, or remove it with: joulewise calibrate --forget")
    assert "\n" not in message
    assert of_other_machines(replace(HOST, system="Linux 7")) == ()
    keep(KEPT)
    assert kept(HOST) is not None


def test_a_record_under_another_machines_name_is_refused() -> None:
    keep(KEPT)
    other = replace(HOST, cpu="Intel Xeon")
    dump(KEPT, path_of(other))
    with pytest.raises(InputError, match="is of another machine"):
        kept(other)


def test_it_is_looked_up_once_per_process(home: Path) -> None:
    """A run that began with one grade ends with it, whatever another process keeps meanwhile."""
    assert kept(HOST) is None
    path = path_of(HOST)
    path.parent.mkdir(parents=True)
    dump(KEPT, path)
    assert kept(HOST) is None
    assert path.is_relative_to(home)


def test_the_home_is_what_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert path_of(HOST).parents[1] == tmp_path / "home"
    monkeypatch.delenv("JOULEWISE_HOME")
    assert path_of(HOST).parents[1] == tmp_path / "data" / "joulewise"
    monkeypatch.setenv("XDG_DATA_HOME", "data")  # a relative one is to be ignored
    monkeypatch.setenv("HOME", str(tmp_path))
    assert path_of(HOST).parents[1] == tmp_path / ".local" / "share" / "joulewise"


def test_a_home_that_cannot_be_written_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("JOULEWISE_HOME", str(tmp_path / "file"))
    assert kept(HOST) is None
    with pytest.raises(JoulewiseError, match="set JOULEWISE_HOME to another folder"):
        keep(KEPT)


def test_a_home_that_cannot_be_looked_into_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("JOULEWISE_HOME", str(tmp_path / ("a" * 300)))
    with pytest.raises(
        InputError, match=r"cannot look for a calibration at .*: File name too long"
    ):
        kept(HOST)
    with pytest.raises(JoulewiseError, match="cannot remove"):
        forget(HOST)
