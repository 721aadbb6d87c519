from __future__ import annotations

import csv
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulewise.core.energy import Block, Component, Grade, Part, Sensor
from joulewise.core.errors import InputError, JoulewiseError
from joulewise.report.series import (
    COLUMNS,
    Result,
    append_csv,
    check,
    prometheus_text,
    write_prometheus,
)

NOON = datetime(2026, 7, 1, 14, 0, tzinfo=timezone(timedelta(hours=2)))
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def part(
    *,
    grade: Grade = "D",
    component: Component = "cpu",
    name: str = "cpu-time",
    idle_w: float | None = 2.0,
    includes_idle: bool = False,
) -> Part:
    sensor = Sensor(
        name=name, grade=grade, boundary="b", rails=("r",), includes_idle=includes_idle,
        resolution_j=None, update_period_s=None, low_ratio=0.5, high_ratio=2.0, pair_ratio=1.0,
        source="s",
    )  # fmt: skip
    block = Block(items=1, seconds=4.0, reading_j=10.0, cpu_s=1.5)
    return Part(sensor=sensor, blocks=(block,), idle_w=idle_w, component=component)


def result(*parts: Part, name: str = "sleep 2") -> Result:
    return Result(name=name, parts=parts or (part(),), exit_code=0, at=NOON)


def parsed(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Read the text exposition format 0.0.4, as a scraper would."""
    types: dict[str, str] = {}
    samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            types[name] = kind
        elif not line.startswith("# HELP "):
            match = re.fullmatch(r"(\w+)\{(.*)\} (\S+)", line)
            assert match is not None, line
            assert types[match[1]] == "counter"
            labels = frozenset(LABEL.findall(match[2]))
            assert (match[1], labels) not in samples
            samples[match[1], labels] = float(match[3])
    return samples


def series(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


CPU = {"component": "cpu", "sensor": "cpu-time", "grade": "D"}
JOULES, SECONDS = "joulewise_energy_joules_total", "joulewise_energy_seconds_total"


def test_prometheus_text_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "j.prom"
    write_prometheus(path, result())
    assert parsed(path.read_text()) == {
        series(JOULES, **CPU, kind="net"): 10.0,
        series(JOULES, **CPU, kind="gross"): 18.0,
        series(SECONDS, **CPU): 4.0,
    }
    assert [each.name for each in tmp_path.iterdir()] == ["j.prom"]


def test_prometheus_counters_grow_from_run_to_run(tmp_path: Path) -> None:
    path = tmp_path / "j.prom"
    for _ in range(3):
        write_prometheus(path, result())
    write_prometheus(path, result(part(component="gpu", name="nvml", grade="B")))
    samples = parsed(path.read_text())
    assert samples[series(JOULES, **CPU, kind="net")] == 30.0
    gpu = {"component": "gpu", "sensor": "nvml", "grade": "B"}
    assert samples[series(SECONDS, **gpu)] == 4.0


def test_unknown_joules_are_left_out_of_prometheus(tmp_path: Path) -> None:
    path = tmp_path / "j.prom"
    write_prometheus(path, result(part(idle_w=None, includes_idle=True)))
    kinds = [dict(labels).get("kind") for _, labels in parsed(path.read_text())]
    assert sorted(map(str, kinds)) == ["None", "gross"]


@pytest.mark.parametrize("name", ['quo"te', "back\\slash", "li\nne", "bra{ce}"])
def test_odd_names_stay_one_sample_and_grow(tmp_path: Path, name: str) -> None:
    path = tmp_path / "j.prom"
    for _ in range(2):
        write_prometheus(path, result(part(name=name)))
    samples = parsed(path.read_text())
    assert sorted(samples.values()) == [8.0, 20.0, 36.0]


@given(st.floats(0.0, 1e12, allow_nan=False))
def test_prometheus_values_are_exact(value: float) -> None:
    (found,) = parsed(prometheus_text({f'{SECONDS}{{grade="B"}}': value})).values()
    assert found == value


def test_prometheus_file_of_others_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "node.prom"
    path.write_text("# TYPE node_load1 gauge\nnode_load1 0.5\n")
    with pytest.raises(InputError, match="holds other metrics than joulewise's; name another"):
        check(None, path)
    with pytest.raises(InputError, match="other metrics"):
        write_prometheus(path, result())
    assert path.read_text().endswith("node_load1 0.5\n")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_csv_gets_a_header_once_and_a_row_per_run(tmp_path: Path) -> None:
    path = tmp_path / "j.csv"
    append_csv(path, result(name='echo "a, b"\necho c'))
    append_csv(path, result())
    first, second = rows(path)
    assert tuple(first) == COLUMNS
    assert (first["name"], second["name"]) == ('echo "a, b"\necho c', "sleep 2")
    assert first["time_utc"] == NOON.astimezone(UTC).isoformat() == "2026-07-01T12:00:00+00:00"
    told = [second[key] for key in ("component", "sensor", "grade", "duration_s", "cpu_s")]
    assert told == ["cpu", "cpu-time", "D", "4.0", "1.5"]
    assert [second[f"net_{key}"] for key in ("low_j", "j", "high_j")] == ["5.0", "10.0", "20.0"]
    assert (second["gross_j"], second["idle_w"], second["exit_code"]) == ("18.0", "2.0", "0")


def test_csv_leaves_unknown_joules_empty_and_has_a_row_per_meter(tmp_path: Path) -> None:
    path = tmp_path / "j.csv"
    unknown = part(component="gpu", idle_w=None, includes_idle=True)
    append_csv(path, replace(result(part(), unknown), exit_code=None))
    cpu, gpu = rows(path)
    assert (cpu["net_j"], gpu["net_j"], gpu["gross_j"]) == ("10.0", "", "10.0")
    assert gpu["exit_code"] == ""


def test_csv_of_others_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="has other columns than joulewise's; name another"):
        check(path, None)
    with pytest.raises(InputError, match="has other columns"):
        append_csv(path, result())
    assert path.read_text() == "a,b\n1,2\n"


def test_runs_that_end_together_lose_nothing(tmp_path: Path) -> None:
    table, samples = tmp_path / "j.csv", tmp_path / "j.prom"

    def end(_number: int) -> None:
        append_csv(table, result())
        write_prometheus(samples, result())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(end, range(16)))
    assert len(rows(table)) == 16
    assert parsed(samples.read_text())[series(SECONDS, **CPU)] == 64.0


@pytest.mark.parametrize("write", [append_csv, write_prometheus])
def test_missing_folder_is_one_line(tmp_path: Path, write: Callable[[Path, Result], None]) -> None:
    path = tmp_path / "no" / "file"
    with pytest.raises(JoulewiseError, match=r"cannot write .*file: No such file"):
        write(path, result())
    with pytest.raises(JoulewiseError, match="name a file in a folder that you may write"):
        check(path, path)


def test_binary_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"cannot read .*name another file"):
        check(path, None)


def test_new_files_pass_the_check(tmp_path: Path) -> None:
    check(tmp_path / "a.csv", tmp_path / "b.prom")
    check(None, None)
    assert not list(tmp_path.iterdir())
