"""The fake machine against independent routes: the other tests trust it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from joulewise.testing.machine import STEP_J, FakeMachine, Steps, Updates, Zone, range_uj
from joulewise.testing.powercap import RANGE_UJ
from tests.properties.machines import fake_machine

PACKAGE = "intel-rapl:0"
IDEAL = Updates(period_s=1e-6, jitter_ratio=0.0)


def shown_j(machine: FakeMachine, zone: str = PACKAGE) -> float:
    return int((machine.powercap.folder(zone) / "energy_uj").read_text()) * 1e-6


def test_full_range_is_that_of_a_real_counter() -> None:
    assert range_uj(2**32) == RANGE_UJ


def test_piecewise_joules_are_the_sum_of_rectangles() -> None:
    steps = Steps((1.0, 3.0), (10.0, 20.0, 40.0))
    assert steps.joules(0.5, 3.5) == pytest.approx(0.5 * 10 + 2 * 20 + 0.5 * 40)
    assert steps.joules(1.0, 1.0) == 0.0
    assert steps.joules(3.0, 5.0) == pytest.approx(80.0)
    grid = np.linspace(0.5, 3.5, 30_001)[:-1] + 5e-5
    assert steps.joules(0.5, 3.5) == pytest.approx(np.mean([steps(t) for t in grid]) * 3.0)


def test_piecewise_power_needs_one_power_more_than_ends() -> None:
    with pytest.raises(ValueError, match="2 powers"):
        Steps((1.0,), (1.0,))


def test_any_function_of_time_is_power() -> None:
    with fake_machine({PACKAGE: Zone(name="package-0", power=lambda t: 5 + math.sin(t))}) as m:
        m.advance(3.0)
        assert m.true_j[PACKAGE] == pytest.approx(15 + math.cos(1000) - math.cos(1003))


def test_counter_shows_whole_steps_of_the_truth() -> None:
    with fake_machine({PACKAGE: Zone(name="package-0", power=Steps((), (33.3,)))}, IDEAL) as m:
        for _ in range(5):
            m.advance(0.0101)
            assert 0 <= m.true_j[PACKAGE] - shown_j(m) < STEP_J + 33.3e-6 + 2e-6


def test_counter_waits_for_its_update() -> None:
    late = Updates(period_s=0.01, jitter_ratio=0.0)
    with fake_machine({PACKAGE: Zone(name="package-0", power=Steps((), (100.0,)))}, late) as m:
        m.advance(0.0099)
        assert shown_j(m) == 0.0
        m.advance(0.0002)
        assert shown_j(m) == pytest.approx(1.0, abs=STEP_J + 1e-5)


def test_last_update_is_the_latest_that_is_over() -> None:
    updates = Updates(period_s=1.0, jitter_ratio=2.5, seed=3)
    everything = [updates._update_s(n) for n in range(40)]
    for time_s in np.linspace(10.0, 30.0, 57):
        assert updates.last_s(time_s) == max(u for u in everything if u <= time_s)


def test_counter_with_a_gain_keeps_the_truth() -> None:
    with fake_machine({PACKAGE: Zone(name="package-0", power=Steps((), (50.0,)))}, IDEAL) as m:
        m.gain[PACKAGE] = 1.1
        m.advance(2.0)
        assert m.true_j[PACKAGE] == pytest.approx(100.0)
        assert shown_j(m) == pytest.approx(110.0, rel=1e-4)


def test_processes_draw_power_and_use_cpu_time(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path, {PACKAGE: Zone(name="package-0", power=Steps((), (10.0,)))})
    machine.proc.start(10)
    machine.advance(2.0, {10: 1.5}, watts_per_cpu=4.0)
    assert machine.true_j[PACKAGE] == pytest.approx(2 * (10 + 1.5 * 4))
    assert machine.proc.clock(10) == pytest.approx(3.0)
    assert (tmp_path / "proc" / "stat").read_text() == "cpu  300 0 0 1300 0 0 0 0 0 0\n"


def test_suspend_stops_the_monotonic_clock_only() -> None:
    with fake_machine({PACKAGE: Zone(name="package-0", power=Steps((), (10.0,)))}) as m:
        m.advance(1.0)
        before_s, wall_s = m.monotonic_s(), m.wall_s()
        m.suspend(60.0, watts=1.0)
        assert (m.monotonic_s(), m.wall_s()) == (before_s, wall_s + 60.0)
        assert m.true_j[PACKAGE] == pytest.approx(70.0)
        assert shown_j(m) == 0.0
