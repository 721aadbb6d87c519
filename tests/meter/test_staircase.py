from __future__ import annotations

import math
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulewise.core.energy import Sensor
from joulewise.core.errors import ProgramError, SensorError, UsageError
from joulewise.meter.calibration import Calibration
from joulewise.meter.fit import FEWEST_MIXES
from joulewise.meter.mixes import MIXES, Worker
from joulewise.meter.noise import read_load
from joulewise.meter.processes import process_cpu_s
from joulewise.meter.staircase import Climb, Crew, Plan, climb, large_array_bytes, plan_for
from joulewise.testing.machine import FakeMachine, Steps, Updates, Zone
from tests.meter.calibrations import (
    EXACT,
    HOST,
    TABLE_W,
    WATTS,
    FakeLoads,
    drawn_watts,
    fitted,
)
from tests.properties.machines import fake_machine, rapl

PLAN = Plan(
    mixes=("python", "matmul", "stream"), loads=(0, 1, 2), repeats=2, step_s=2.0, settle_s=0.5
)
PACKAGE = "intel-rapl:0"
WANTED, RUNS = 0.94, 100


def silent(_number: int, _mix: str, _cpus: int) -> None:
    """Say nothing."""


def climbed(machine: FakeMachine, loads: FakeLoads, plan: Plan = PLAN) -> Climb:
    with rapl(machine) as meter:
        return climb(
            plan, meter, loads, say=silent, sleep=loads.sleep,
            read=lambda: read_load(machine.proc.root),
        )  # fmt: skip


def machine_of(idle_w: float, seed: int = 0) -> dict[str, object]:
    return {
        "zones": {PACKAGE: Zone(name="package-0", power=Steps((), (idle_w,)))},
        "updates": Updates(seed=seed),
    }


@given(st.integers(1, 512), st.floats(1.0, 1e4))
def test_every_step_of_a_plan_is_taken_once_per_repeat(cpus: int, max_minutes: float) -> None:
    plan = plan_for(EXACT, cpus, expected_w=TABLE_W, max_s=60 * max_minutes)
    assert plan.seconds <= 60 * max_minutes
    assert plan.loads[0] == 0
    assert plan.loads[-1] == cpus
    assert list(plan.loads) == sorted(set(plan.loads))
    assert len(plan.mixes) >= FEWEST_MIXES
    taken = Counter(plan.order())
    assert taken == {(mix, load): plan.repeats for mix in plan.mixes for load in plan.loads}
    assert plan.steps == taken.total()


def test_small_machines_have_all_loads_and_large_ones_some() -> None:
    def loads(cpus: int) -> tuple[int, ...]:
        return plan_for(EXACT, cpus, expected_w=TABLE_W, max_s=math.inf).loads

    assert loads(2) == (0, 1, 2)
    assert loads(5) == (0, 1, 2, 3, 4, 5)
    assert loads(16) == (0, 1, 2, 4, 8, 16)
    assert loads(128) == (0, 1, 3, 11, 38, 128)


def test_order_is_random_and_seeded() -> None:
    assert list(PLAN.order()) == list(PLAN.order())
    assert list(PLAN.order()) != list(replace(PLAN, seed=1).order())
    first, second = list(PLAN.order())[:9], list(PLAN.order())[9:]
    assert sorted(first) == sorted(second)
    assert first != second


@pytest.mark.parametrize(
    ("sensor", "step_s", "settle_s"),
    [
        (replace(EXACT, update_period_s=1e-3), 2.0, 0.5),
        (replace(EXACT, update_period_s=1.0), 100.0, 5.0),
        (replace(EXACT, update_period_s=1.0, resolution_j=360.0), 900.0, 5.0),  # 0.1 Wh, 4 W
    ],
)
def test_steps_are_as_long_as_the_reference_needs(
    sensor: Sensor, step_s: float, settle_s: float
) -> None:
    plan = plan_for(sensor, 2, expected_w=TABLE_W, max_s=math.inf)
    assert (plan.step_s, plan.settle_s) == (step_s, settle_s)


def test_less_time_gives_up_repeats_then_loads_then_mixes() -> None:
    full = plan_for(EXACT, 16, expected_w=TABLE_W, max_s=math.inf)
    assert (len(full.mixes), len(full.loads), full.repeats) == (8, 6, 3)
    shapes = [
        (len(plan.mixes), len(plan.loads), plan.repeats)
        for plan in (
            plan_for(EXACT, 16, expected_w=TABLE_W, max_s=max_s) for max_s in (250, 130, 65, 23)
        )
    ]
    assert shapes == [(8, 6, 2), (8, 6, 1), (8, 3, 1), (3, 3, 1)]


def test_too_little_time_says_how_much_it_takes() -> None:
    slow = replace(EXACT, update_period_s=1.0)
    with pytest.raises(UsageError, match="16 minutes at the least; give --max-minutes 17"):
        plan_for(slow, 2, expected_w=TABLE_W, max_s=600.0)


def test_the_machines_power_function_is_found(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path, **machine_of(30.0))  # type: ignore[arg-type]
    found = climbed(machine, FakeLoads(machine, WATTS))
    assert found.disturbances == ()
    fit = fitted(found.steps)
    assert fit.net_w == pytest.approx(5.5, rel=1e-3)
    assert fit.idle_w == pytest.approx(30.0, rel=1e-3)
    assert fit.line.r2 > 0.98
    order = [(step.mix, step.cpus) for step in found.steps]
    assert order == list(PLAN.order())


def calibrated_run(random: np.random.Generator) -> tuple[Calibration, float, float, float]:
    """Calibrate a machine against its RAPL; return what its idle, slope and a new program are."""
    idle_w, mean_w, exponent = random.uniform(5, 60), random.uniform(2, 12), 1.0
    watts = drawn_watts(random, mean_w, 0.08)
    plan = Plan(mixes=tuple(MIXES), loads=(0, 1, 2), repeats=1, step_s=2.0, settle_s=0.5)
    seed = int(random.integers(2**31))
    with fake_machine(**machine_of(idle_w, seed)) as machine:  # type: ignore[arg-type]
        found = climbed(machine, FakeLoads(machine, watts, exponent), plan)
    return fitted(found.steps), idle_w, mean_w, drawn_watts(random, mean_w, 0.08)["python"]


def test_stated_intervals_hold_the_truth_of_random_machines() -> None:
    """Through the whole chain: loads, counters with jitter and steps, staircase, fit."""
    random, slopes, idles, programs = np.random.default_rng(5), 0, 0, 0
    for _ in range(RUNS):
        fit, idle_w, mean_w, program_w = calibrated_run(random)
        slopes += fit.line.a.low <= mean_w / TABLE_W <= fit.line.a.high
        idles += fit.idle_w == pytest.approx(idle_w, rel=1e-3)
        programs += fit.low_ratio * fit.net_w <= program_w <= fit.high_ratio * fit.net_w
    assert slopes >= WANTED * RUNS
    assert idles == RUNS
    assert programs >= WANTED * RUNS


def test_neighbours_are_told(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path, **machine_of(30.0))  # type: ignore[arg-type]
    found = climbed(machine, FakeLoads(machine, WATTS, neighbour_cpus=2.0))
    assert len(found.disturbances) == 1
    assert "other processes used 25%" in found.disturbances[0]


class Stopped:
    """A reference whose time stands still."""

    def __init__(self, meter: object) -> None:
        self.first = meter.read()  # type: ignore[attr-defined]
        self.sensor, self.idle_w = EXACT, None

    def read(self) -> object:
        return self.first

    def close(self) -> None:
        """Do nothing."""


def test_a_reference_that_stopped_is_one_line(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path, **machine_of(30.0))  # type: ignore[arg-type]
    loads = FakeLoads(machine, WATTS)
    with rapl(machine) as meter, pytest.raises(SensorError, match="did not move on"):
        climb(PLAN, Stopped(meter), loads, say=silent, sleep=loads.sleep)  # type: ignore[arg-type]


@pytest.mark.parametrize("mix", MIXES)
def test_every_mix_does_work(mix: str) -> None:
    iterate = MIXES[mix](1 << 12)
    assert iterate() is not None


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def pids_of(crew: Crew) -> list[int]:
    return [child.pid for child in crew._children]


def test_a_crew_keeps_as_many_busy_as_it_is_told_and_leaves_no_process() -> None:
    with Crew(2, array_bytes=1 << 16) as crew:
        pids = pids_of(crew)
        crew.hold("hash", 1)
        one_s = process_cpu_s(pids[0])
        while process_cpu_s(pids[0]) < one_s + 0.05:
            pass
        crew.hold("hash", 0)
        still = [process_cpu_s(pid) for pid in pids]
        total_s = crew.cpu_s()
        assert total_s >= 0.05
        crew.hold("python", 2)
        while min(process_cpu_s(pid) - s for pid, s in zip(pids, still, strict=True)) < 0.02:
            pass
        assert crew.cpu_s() > total_s
    assert all(map(gone, pids))


def interrupted(pids: list[int]) -> None:
    with Crew(2, array_bytes=1 << 16) as crew:
        pids.extend(pids_of(crew))
        crew.hold("stream", 2)
        raise KeyboardInterrupt


def test_a_crew_ends_where_the_user_interrupts() -> None:
    pids: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted(pids)
    assert len(pids) == 2
    assert all(map(gone, pids))


def test_a_crew_that_lost_a_process_says_so() -> None:
    with Crew(1, array_bytes=1 << 16) as crew:
        os.kill(pids_of(crew)[0], 9)
        with pytest.raises(ProgramError, match="was killed by signal 9"):
            crew.hold("hash", 1)


def test_a_worker_changes_and_stops() -> None:
    worker = Worker()
    worker.start("hash", 1 << 12)
    first = worker._thread
    worker.start("exp", 1 << 12)
    assert first is not None
    assert not first.is_alive()
    assert worker._thread is not first
    worker.stop()
    worker.stop()
    assert worker._thread is None


def test_arrays_are_larger_than_the_cache_as_far_as_memory_allows(tmp_path: Path) -> None:
    for index, size in enumerate(("32K", "1024K", "32M", "odd")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(f"{size}\n")
    host = replace(HOST, memory_bytes=2**34, logical_cpus=4)
    assert large_array_bytes(host, caches=tmp_path) == 32 * 2**20
    assert large_array_bytes(replace(host, memory_bytes=None), caches=tmp_path) == 32 * 2**20
    assert large_array_bytes(host, caches=tmp_path / "none") == 32 * 2**20
    small = replace(host, memory_bytes=2**28, logical_cpus=8)
    assert 3 * 8 * large_array_bytes(small, caches=tmp_path) <= 2**26
