from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from joulewise.core.errors import SensorError
from joulewise.meter.align import (
    MOST_LOAD_S,
    Pattern,
    align,
    align_log,
    make_load,
    pattern_bits,
    stretch_s,
)
from joulewise.meter.recording import Log, RecordingMeter
from tests.clock import Clock

Kind = Literal["samples", "averages", "averages stamped at their end", "counter"]


def pattern_for(step_s: float, start_s: float = 1000.0) -> Pattern:
    length_s = stretch_s(step_s)
    edges_s = tuple(start_s + length_s * number for number in range(len(pattern_bits()) + 1))
    return Pattern(edges_s=edges_s, busy=pattern_bits())


@dataclass(frozen=True, kw_only=True)
class World:
    """An external meter, and what it sees."""

    kind: Kind
    step_s: float = 1.0
    busy_w: float = 30.0
    noise_w: float = 2.0
    rounded_to: float = 1.0

    @property
    def lag_s(self) -> float:
        """By how much its rows are stamped too late, s."""
        return self.step_s / 2 if self.kind.endswith("end") else 0.0

    def log(self, path: Path, pattern: Pattern, offset_s: float, seed: int) -> Log:
        """Write what the meter does, on a clock to which `offset_s` must be added."""
        random = np.random.default_rng(seed)
        first_s = pattern.edges_s[0] - 25 + random.uniform(0, self.step_s)
        ours_s = np.arange(first_s, pattern.edges_s[-1] + 15, self.step_s)
        ours_s += random.normal(0, 0.01 * self.step_s, len(ours_s))
        drift_w = 60 + 0.02 * (ours_s - first_s)
        half_s = {"samples": 1e-6}.get(self.kind, self.step_s / 2)
        middle_s = ours_s - self.lag_s
        power_w = (
            drift_w
            + self.busy_w * pattern.mean_between(middle_s - half_s, middle_s + half_s)
            + random.normal(0, self.noise_w, len(ours_s))
        )
        column, values = "power_w", power_w
        if self.kind == "counter":
            column = "energy_j"
            busy_j = self.busy_w * pattern.mean_between(ours_s[:-1], ours_s[1:])
            noise_w = random.normal(60, self.noise_w, len(ours_s) - 1)
            values = np.cumsum(np.maximum(busy_j + noise_w, 0) * np.diff(ours_s))
            ours_s = ours_s[1:]
        shown = np.round(values / self.rounded_to) * self.rounded_to
        rows = (f"{t - offset_s:.6f},{v:.6f}\n" for t, v in zip(ours_s, shown, strict=True))
        path.write_text(f"time_s,{column}\n" + "".join(rows))
        return Log(path)


WORLDS = [
    World(kind="samples"),
    World(kind="averages"),
    World(kind="averages stamped at their end"),
    World(kind="counter", rounded_to=3.6),
    World(kind="averages", busy_w=12.0, noise_w=4.0),
    World(kind="averages", step_s=0.2, rounded_to=0.1),
    World(kind="samples", step_s=5.0, noise_w=4.0),
]
RUNS = 20


def test_offset_lies_within_its_uncertainty_in_95_percent_of_logs(tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    within: list[bool] = []
    for number, world in enumerate(WORLDS):
        pattern = pattern_for(world.step_s)
        for run in range(RUNS):
            offset_s = random.uniform(-5000, 5000)
            log = world.log(tmp_path / "log.csv", pattern, offset_s, seed=100 * number + run)
            found = align(log, pattern, offset_s - 20, offset_s + 10)
            within.append(abs(found.offset_s - offset_s + world.lag_s) <= found.error_s)
            assert found.error_s < 1.5 * world.step_s
            assert found.fit > 0.65
    assert sum(within) >= 0.95 * len(within)


@pytest.mark.parametrize("noise_w", [0.0, 0.5, 10.0])
@pytest.mark.parametrize("kind", ["samples", "counter"])
def test_log_without_the_load_is_refused(kind: Kind, noise_w: float, tmp_path: Path) -> None:
    pattern = pattern_for(1.0)
    for seed in range(10):
        world = World(kind=kind, busy_w=0.0, noise_w=noise_w)
        log = world.log(tmp_path / "log.csv", pattern, 0.0, seed=seed)
        with pytest.raises(SensorError, match="load that joulewise made is not clear in the log"):
            align(log, pattern, -20, 10)


def test_bursts_of_somebody_else_are_not_taken_for_ours(tmp_path: Path) -> None:
    pattern, path = pattern_for(1.0), tmp_path / "log.csv"
    times_s = np.arange(pattern.edges_s[0] - 120, pattern.edges_s[-1] + 15, 1.0)
    for seed in range(20):
        random = np.random.default_rng(seed)
        busy = np.cumsum(random.random(len(times_s)) < 0.3) % 2
        rows = (f"{t},{60 + 30 * on}\n" for t, on in zip(times_s, busy, strict=True))
        path.write_text("time_s,power_w\n" + "".join(rows))
        with pytest.raises(SensorError, match="is not clear"):
            align(Log(path), pattern, -15, 100)


def test_load_that_lowers_the_power_is_not_ours(tmp_path: Path) -> None:
    pattern = pattern_for(1.0)
    log = World(kind="averages", busy_w=-30.0).log(tmp_path / "log.csv", pattern, 0.0, seed=1)
    with pytest.raises(SensorError, match="is not clear"):
        align(log, pattern, -20, 10)


def test_load_that_repeats_fits_more_than_once(tmp_path: Path) -> None:
    alternating = tuple(number % 2 == 0 for number in range(31))
    pattern = Pattern(edges_s=pattern_for(1.0).edges_s, busy=alternating)
    log = World(kind="averages").log(tmp_path / "log.csv", pattern, 0.0, seed=1)
    with pytest.raises(SensorError, match="is not clear"):
        align(log, pattern, -20, 10)


def test_sequence_fits_itself_at_one_shift_only() -> None:
    """A maximal sequence has one busy stretch more than idle ones, and correlates -1/31 shifted."""
    signs = np.where(pattern_bits(), 1, -1)
    assert signs.sum() == 1
    assert {int(signs @ np.roll(signs, shift)) for shift in range(1, 31)} == {-1}


def test_mean_of_the_load_between_moments() -> None:
    pattern = Pattern(edges_s=(10.0, 12.0, 14.0, 16.0), busy=(True, False, True))
    means = pattern.mean_between(
        np.array([0.0, 9.0, 11.0, 12.5, 15.0]), np.array([5.0, 11.0, 15.0, 13.0, 17.0])
    )
    assert means == pytest.approx([0.0, 0.5, 0.5, 0.0, 0.5])


def test_rows_that_are_too_far_apart() -> None:
    assert stretch_s(1.0) * 31 == pytest.approx(50.2, abs=0.1)
    assert stretch_s(0.01) == stretch_s(0.5)
    with pytest.raises(SensorError, match=r"60 s apart, so .* 50 min of load"):
        stretch_s(60.0)
    with pytest.raises(SensorError, match="min of load"):
        stretch_s(MOST_LOAD_S)


@dataclass
class Machine:
    """A machine whose load is known, and a meter that logs it on a clock of its own."""

    path: Path
    offset_s: float
    writes: bool = True
    late_s: float = 3.0
    busy: bool = False
    held: list[int] = field(default_factory=list)
    closed: bool = False

    def __post_init__(self) -> None:
        self.clock = Clock()
        self.clock.now_s = 50_000.0
        self.rows: list[str] = []
        self.path.write_text("time_s,power_w\n")
        self.sleep(10.0)

    def hold(self, mix: str, cpus: int) -> None:
        assert mix
        self.clock.now_s += 0.004
        self.held.append(cpus)
        self.busy = cpus > 0

    @contextmanager
    def load(self) -> Iterator[Machine]:
        try:
            yield self
        finally:
            self.closed = True

    def sleep(self, seconds: float) -> None:
        """Let time pass; a row per whole second, which reaches the file late."""
        end_s = self.clock.now_s + seconds
        for second in range(int(self.clock.now_s) + 1, int(end_s) + 1):
            watts = 40.0 + 25.0 * self.busy + 0.5 * np.sin(second)
            self.rows.append(f"{second - self.offset_s},{watts}\n")
        self.clock.now_s = end_s
        if self.writes:
            shown = len(self.rows) - int(self.late_s)
            self.path.write_text("time_s,power_w\n" + "".join(self.rows[: max(shown, 2)]))

    def align(self) -> tuple[float, float]:
        found = align_log(Log(self.path), self.load, 4, now=self.clock, sleep=self.sleep)
        return found.offset_s, found.error_s


@pytest.mark.parametrize("offset_s", [0.0, 3600.25, -7.5])
def test_clock_of_a_growing_log_is_found(offset_s: float, tmp_path: Path) -> None:
    machine = Machine(tmp_path / "log.csv", offset_s)
    found_s, error_s = machine.align()
    assert abs(found_s - offset_s) <= error_s < 1.0
    assert machine.closed
    assert set(machine.held) == {0, 4}
    assert machine.held[-1] == 0


def test_finished_log_cannot_be_aligned(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "log.csv", 0.0)
    machine.writes = False
    with pytest.raises(SensorError, match=r"no row came into the log .*offset_s=SECONDS"):
        machine.align()
    assert machine.closed


def test_load_that_the_meter_does_not_see(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "log.csv", 0.0)
    hold: Callable[[str, int], None] = machine.hold
    machine.hold = lambda mix, cpus: hold(mix, 0 * cpus)  # type: ignore[method-assign]
    with pytest.raises(SensorError, match="is not clear in the log") as caught:
        machine.align()
    assert "\n" not in str(caught.value)


def test_changes_of_load_are_dated_halfway() -> None:
    clock, held = Clock(), list[float]()

    class Slow:
        def hold(self, _mix: str, _cpus: int) -> None:
            clock.now_s += 0.1
            held.append(clock.now_s - 0.05)

    pattern = make_load(Slow(), 2, 2.0, now=clock, sleep=clock.sleep)
    bits = (False, *pattern_bits(), False)
    changes_s = [
        edge_s
        for number, edge_s in enumerate(pattern.edges_s)
        if bits[number] != bits[number + 1] or number == 31
    ]
    assert changes_s == pytest.approx(held)
    assert pattern.slack_s == pytest.approx(0.1)
    assert pattern.stretch_s == pytest.approx(2.0, abs=0.01)


def test_offset_that_was_found_widens_the_band_and_is_told(tmp_path: Path) -> None:
    path = tmp_path / "plug.csv"
    path.write_text("time_s,power_w\n" + "".join(f"{t},40\n" for t in range(100)))
    clock = Clock()
    known = RecordingMeter(path, offset_s=-3.0, now=clock).sensor
    found = RecordingMeter(path, offset_s=-3.0, offset_error_s=0.5, now=clock).sensor
    assert found.low_ratio == pytest.approx(known.low_ratio * (1 - 2 * 0.5 / 100))
    assert found.high_ratio == pytest.approx(known.high_ratio * (1 + 2 * 0.5 / 100))
    assert found.source.endswith("its times are moved by -3.00 s, found to 0.50 s by a load")
