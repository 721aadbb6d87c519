from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulewise.core.errors import InputError, SensorError, UsageError
from joulewise.core.host import read_host
from joulewise.meter.recording import Log, RecordingMeter, probe
from joulewise.meter.table import meter_opener, open_meter
from tests.clock import Clock

POWER = "time_s,power_w\n100,10\n101,20\n102,20\n"


def no_sleep(_seconds: float) -> None:
    """Wait for nothing."""


@pytest.fixture
def write_log(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str, name: str = "log.csv") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


WriteLog = Callable[[str], Path]


def replay(path: Path, clock: Clock, offset_s: float = 0.0) -> RecordingMeter:
    return RecordingMeter(path, offset_s=offset_s, now=clock, sleep=no_sleep)


def joules_at(path: Path, time_s: float, offset_s: float = 0.0) -> float:
    clock = Clock()
    clock.now_s = time_s
    return replay(path, clock, offset_s).read().total_j


@pytest.mark.parametrize(
    ("time_s", "joules"), [(100.0, 0.0), (100.5, 7.5), (101.0, 15.0), (102.0, 35.0)]
)
def test_power_becomes_joules_by_trapezoid(
    write_log: WriteLog, time_s: float, joules: float
) -> None:
    assert joules_at(write_log(POWER), time_s) == pytest.approx(joules)


@pytest.mark.parametrize(("column", "factor"), [("energy_j", 1.0), ("energy_wh", 3600.0)])
def test_cumulative_energy(write_log: WriteLog, column: str, factor: float) -> None:
    path = write_log(f"time_s,{column}\n0,5\n10,5\n20,7\n")
    assert joules_at(path, 15.0) == pytest.approx(1.0 * factor)
    assert replay(path, Clock()).sensor.resolution_j == pytest.approx(2.0 * factor)


def test_a_counter_that_moves_in_every_row_may_still_be_fine(write_log: WriteLog) -> None:
    path = write_log("time_s,energy_j\n0,0.1\n1,100.3\n2,200.4\n3,300.6\n4,400.8\n")
    assert replay(path, Clock()).sensor.resolution_j == pytest.approx(0.1)
    steady = write_log("time_s,energy_j\n0,0\n1,100\n2,200\n3,300\n")
    assert replay(steady, Clock()).sensor.resolution_j == pytest.approx(100.0)


def test_json_lines_with_iso_times(write_log: WriteLog) -> None:
    path = write_log(
        '{"timestamp": "2026-01-01T00:00:00Z", "power_w": 5, "note": "x"}\n\n'
        '{"timestamp": "2026-01-01T00:00:02+00:00", "power_w": 5}\n'
    )
    assert joules_at(path, 1_767_225_601.0) == pytest.approx(5.0)


def test_timestamp_may_be_seconds(write_log: WriteLog) -> None:
    assert joules_at(write_log("timestamp,power_w\n1,2\n3,2\n"), 2.0) == pytest.approx(2.0)


def test_offset_moves_the_log(write_log: WriteLog) -> None:
    assert joules_at(write_log(POWER), 1101.0, offset_s=1000.0) == pytest.approx(15.0)


@given(
    rows=st.lists(st.tuples(st.floats(1.0, 2.0), st.floats(0.0, 400.0)), min_size=2, max_size=20),
    cuts=st.lists(st.floats(0.0, 1.0), max_size=5),
)
def test_windows_add_up_to_the_whole(
    rows: list[tuple[float, float]], cuts: list[float], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("logs") / "log.csv"
    time_s, lines = 0.0, ["time_s,power_w"]
    for step_s, watts in rows:
        time_s += step_s
        lines.append(f"{time_s!r},{watts!r}")
    path.write_text("\n".join(lines) + "\n")
    clock, first_s = Clock(), rows[0][0]
    meter, readings = replay(path, clock), []
    for part in [0.0, *sorted(cuts), 1.0]:
        clock.now_s = min(first_s + part * (time_s - first_s), time_s)
        readings.append(meter.read().total_j)
    assert readings == sorted(readings)
    whole_j = sum((before[1] + after[1]) / 2 * after[0] for before, after in pairwise(rows))
    assert readings[-1] - readings[0] == pytest.approx(whole_j, rel=1e-6, abs=1e-6)


def test_growing_log_is_followed(write_log: WriteLog) -> None:
    path, clock = write_log(POWER), Clock()

    def grow(_seconds: float) -> None:
        with path.open("a") as file:
            file.write("103,40\n" if "103,4" not in path.read_text() else "")

    clock.now_s = 102.5
    meter = RecordingMeter(path, now=clock, sleep=grow)
    assert meter.read().total_j == pytest.approx(35.0 + 15.0)


def test_reading_of_a_growing_log_does_not_wait(write_log: WriteLog) -> None:
    path, clock = write_log(POWER), Clock()
    waits: list[float] = []
    meter = RecordingMeter(path, now=clock, sleep=waits.append)
    clock.now_s = 102.5
    reading = meter.read()
    assert not waits
    assert reading.time_s == 102.5
    with path.open("a") as file:
        file.write("103,40\n")
    assert reading.rails_j == {"external": pytest.approx(35.0 + 15.0)}
    with pytest.raises(KeyError):
        reading.rails_j["other"]
    assert not waits


def test_row_that_never_comes(write_log: WriteLog) -> None:
    path, clock = write_log(POWER), Clock()
    meter = replay(path, clock)
    clock.now_s = 103.0
    reading = meter.read()
    with pytest.raises(SensorError, match=r"ends 1\.0 s ago"):
        assert reading.total_j


def test_line_that_is_not_finished_is_left_for_later(write_log: WriteLog) -> None:
    path = write_log(POWER + "103,4")
    log = Log(path)
    assert log.times_s[-1] == 102.0
    with path.open("a") as file:
        file.write("0\n")
    log.follow()
    assert log.joules[-1] == pytest.approx(35.0 + 30.0)


@pytest.mark.parametrize(
    ("now_s", "message"), [(200.0, r"ends 98\.0 s ago"), (50.0, "begins in the future")]
)
def test_log_that_does_not_reach_now(write_log: WriteLog, now_s: float, message: str) -> None:
    with pytest.raises(SensorError, match=message):
        joules_at(write_log(POWER), now_s)


def test_hole_inside_the_window_is_an_error(write_log: WriteLog) -> None:
    rows = "".join(f"{t},10\n" for t in [0, 1, 2, 3, 4, 20, 21, 22, 23])
    path, clock = write_log("time_s,power_w\n" + rows), Clock()
    meter = replay(path, clock)
    meter.read()
    clock.now_s = 4.0
    assert meter.read().total_j == pytest.approx(40.0)
    clock.now_s = 22.5
    with pytest.raises(SensorError, match=r"a hole of 16\.0 s"):
        meter.read()


def test_hole_before_the_window_does_not_matter(write_log: WriteLog) -> None:
    rows = "".join(f"{t},10\n" for t in [0, 1, 2, 3, 4, 20, 21, 22, 23])
    path, clock = write_log("time_s,power_w\n" + rows), Clock()
    clock.now_s = 20.5
    meter = replay(path, clock)
    first_j = meter.read().total_j
    clock.now_s = 22.5
    assert meter.read().total_j - first_j == pytest.approx(20.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time_s,power_w\n1,5\n1,5\n", "line 3: its time is not after"),
        ("time_s,power_w\n1,-5\n", "power_w is negative"),
        ("time_s,energy_j\n1,5\n2,4\n", "energy_j fell"),
        ("time_s,volts\n1,5\n", "no column power_w, energy_j, energy_wh"),
        ("when,power_w\n1,5\n", "no column time_s or timestamp"),
        ("time_s,power_w\n1,\n", "power_w '' is no number"),
        ("time_s,power_w\n1,nan\n", "power_w 'nan' is no number"),
        ("time_s,power_w\nnoon,1\n", "time_s 'noon' is no time"),
        ("time_s,power_w\n1\n", "1 cells, the header 2"),
        ('{"time_s": 1,\n', "it is not JSON"),
    ],
)
def test_bad_row_is_named_in_one_line(write_log: WriteLog, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Log(write_log(text))
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="check its path"):
        Log(tmp_path / "none.csv")


def test_one_row_is_too_few(write_log: WriteLog) -> None:
    with pytest.raises(SensorError, match="fewer than two rows"):
        RecordingMeter(write_log("time_s,power_w\n1,5\n"))


def test_opened_by_name_with_offset(write_log: WriteLog) -> None:
    path = write_log("time_s,power_w\n0,5\n5000000000,5\n")
    meter = open_meter([], name=f"recording:{path}?offset_s=1.5")
    before = meter.read()
    after = meter.read()
    assert after.total_j - before.total_j == pytest.approx(
        5.0 * (after.time_s - before.time_s), rel=1e-3, abs=1e-4
    )
    assert (meter.sensor.name, meter.sensor.grade) == ("recording", "A")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("0,5\n", "fewer than two rows"),
        ("0,5\n60,5\n120,5\n", r"60 s apart, so .* 50 min of load; write \?offset_s=SECONDS"),
    ],
)
def test_log_that_cannot_be_aligned_gets_no_load(
    rows: str, message: str, write_log: WriteLog
) -> None:
    path = write_log(f"time_s,power_w\n{rows}")
    with pytest.raises(SensorError, match=message):
        open_meter([], name=f"recording:{path}?align=auto")


@pytest.mark.parametrize(
    "argument",
    ["", "?offset_s=1", "a.csv?offset_s=x", "a.csv?shift=1", "a.csv?align=1", "a.csv?offset_s"],
)
def test_argument_that_is_not_understood(argument: str) -> None:
    with pytest.raises(UsageError, match="write recording:FILE"):
        RecordingMeter.named(argument)


def test_without_a_file_it_says_how() -> None:
    assert "recording:plug.csv" in str(probe())
    with pytest.raises(SensorError, match="recording:plug"):
        open_meter([], name="recording")


def test_the_same_log_is_opened_again_and_again(write_log: WriteLog) -> None:
    opener = meter_opener(f"recording:{write_log(POWER)}", read_host())
    assert all(isinstance(opener([]), RecordingMeter) for _ in range(2))
