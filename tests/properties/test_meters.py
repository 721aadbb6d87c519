"""Laws that hold for every meter, on machines whose true joules are known."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable
from contextlib import ExitStack
from itertools import accumulate, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulewise.core.errors import SensorError
from joulewise.meter.perf import probe
from joulewise.testing.machine import STEP_J, FakeMachine, Steps, Updates, Zone
from joulewise.testing.procfs import TICK_S
from tests.properties.machines import (
    COUNTERS,
    SMALL,
    counted_true_j,
    cpu_time,
    fake_machine,
    rapl,
    rapl_perf,
)

PACKAGE, OTHER, DRAM = "intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"
START_S = 1000.0
UNIT_ERROR = 3e-6
"""What the kernel loses by cutting 61.035156 uJ to 61.035 uJ."""

law = settings(derandomize=True, deadline=None, max_examples=60)

windows = st.lists(st.tuples(st.floats(0.001, 0.3), st.floats(0.0, 200.0)), min_size=1, max_size=8)
"""Seconds and watts of stretches in a row; none spends the 64 J of a SMALL counter."""

Windows = list[tuple[float, float]]


def power_of(stretches: Windows, factor: float = 1.0) -> Steps:
    ends = tuple(accumulate((seconds for seconds, _ in stretches), initial=START_S))[1:]
    return Steps(ends, (*(watts * factor for _, watts in stretches), 0.0))


def lag_j(stretches: Windows, updates: Updates, zones: int = 1) -> float:
    """Return by how much two readings at most miss the truth, J."""
    late_s = updates.period_s * (1 + updates.jitter_ratio)
    highest_w = max(watts for _, watts in stretches)
    return zones * (2 * late_s * highest_w + 2 * STEP_J)


@st.composite
def zone_trees(draw: st.DrawFn) -> dict[str, float]:
    """Draw zone -> its share of a socket's power, from what is found on real machines."""
    shares: dict[str, float] = {}
    sockets = draw(st.integers(1, 2))
    for socket in range(sockets):
        shares[f"intel-rapl:{socket}/package-{socket}"] = 1.0
        inside = draw(st.permutations([("core", 0.6), ("uncore", 0.2), ("dram", 0.3)]))
        for number, (name, share) in enumerate(inside[: draw(st.integers(0, 3))]):
            shares[f"intel-rapl:{socket}:{number}/{name}"] = share
    if draw(st.booleans()):
        shares[f"intel-rapl:{sockets}/psys"] = 1.5 * sockets
    if draw(st.booleans()):
        shares["intel-rapl-mmio:0/package-0"] = 1.0
        shares["intel-rapl-mmio:0:0/dram"] = 0.3
    return shares


@pytest.mark.parametrize("name", COUNTERS)
@law
@given(
    tree=zone_trees(),
    stretches=windows,
    left=st.integers(1, SMALL),
    jitter_ratio=st.sampled_from([0.0, 0.02, 3.0]),
)
def test_windows_add_up_to_the_truth_and_nested_rails_count_once(
    name: str, tree: dict[str, float], stretches: Windows, left: int, jitter_ratio: float
) -> None:
    (opened, steps), updates = COUNTERS[name], Updates(jitter_ratio=jitter_ratio)
    zones = {
        key.split("/")[0]: Zone(
            name=key.split("/")[1],
            power=power_of(stretches, share),
            steps=steps,
            start=steps - left,
        )
        for key, share in tree.items()
    }
    with fake_machine(zones, updates) as machine, opened(machine) as meter:
        readings = [meter.read()]
        for seconds, _ in stretches:
            machine.advance(seconds)
            readings.append(meter.read())
        deltas_j = [after.total_j - before.total_j for before, after in pairwise(readings)]
        counted = len(meter.sensor.rails)
        truth_j = counted_true_j(machine)
    wraps = 1 + len(stretches)
    allowed_j = lag_j(stretches, updates, counted) + counted * wraps * STEP_J
    assert min(deltas_j) >= 0
    assert sum(deltas_j) == pytest.approx(truth_j, rel=UNIT_ERROR, abs=allowed_j)
    assert sum(deltas_j) == pytest.approx(readings[-1].total_j - readings[0].total_j)


@pytest.mark.parametrize("name", COUNTERS)
@law
@given(stretches=windows, left=st.integers(1, SMALL))
def test_a_wrap_at_any_moment_costs_nothing(name: str, stretches: Windows, left: int) -> None:
    (opened, steps), power = COUNTERS[name], power_of(stretches)
    start = steps - left
    zones = {
        PACKAGE: Zone(name="package-0", power=power, steps=steps, start=start),
        OTHER: Zone(name="package-1", power=power, start=SMALL - left),
    }
    with fake_machine(zones) as machine, opened(machine) as meter:
        for seconds, _ in stretches:
            machine.advance(seconds)
            rails_j = meter.read().rails_j
            wraps = math.floor((start * STEP_J + machine.true_j[PACKAGE]) / STEP_J / steps)
            # The kernel gives the range one step too small: a wrap costs up to that step.
            assert abs(rails_j["package-0"] - rails_j["package-1"]) <= wraps * STEP_J + 4e-6


@law
@given(stretches=windows, data=st.data())
def test_the_order_of_windows_does_not_matter(stretches: Windows, data: st.DataObject) -> None:
    def total_j(order: Windows) -> float:
        zones = {PACKAGE: Zone(name="package-0", power=power_of(order), steps=SMALL)}
        with fake_machine(zones) as machine, rapl(machine) as meter:
            for seconds, _ in order:
                machine.advance(seconds)
                meter.read()
            return meter.read().total_j

    shuffled = data.draw(st.permutations(stretches))
    allowed_j = lag_j(stretches, Updates()) + (1 + len(stretches)) * STEP_J
    assert total_j(shuffled) == pytest.approx(total_j(stretches), rel=UNIT_ERROR, abs=allowed_j)


@law
@given(
    stretches=st.lists(
        st.tuples(st.floats(0.001, 0.05), st.floats(0.0, 200.0)), min_size=3, max_size=3
    ),
    start=st.integers(0, SMALL - 1),
)
def test_overlapping_windows_are_union_and_intersection(stretches: Windows, start: int) -> None:
    """Windows [0, 2] and [1, 3], read by four meters that know nothing of each other."""
    zones = {PACKAGE: Zone(name="package-0", power=power_of(stretches), steps=SMALL, start=start)}
    with fake_machine(zones) as machine, ExitStack() as stack:
        first, union = (stack.enter_context(rapl(machine)) for _ in range(2))
        machine.advance(stretches[0][0])
        second, intersection = (stack.enter_context(rapl(machine)) for _ in range(2))
        machine.advance(stretches[1][0])
        a_j, both_j = first.read().total_j, intersection.read().total_j
        machine.advance(stretches[2][0])
        b_j, either_j = second.read().total_j, union.read().total_j
    assert a_j + b_j == pytest.approx(either_j + both_j, abs=1e-9)


@law
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["advance", "wall back", "wall on", "nothing"]), st.floats(0.001, 1.0)
        ),
        min_size=1,
        max_size=8,
    )
)
def test_readings_are_monotonic_in_time_whatever_the_wall_clock_does(
    steps: list[tuple[str, float]],
) -> None:
    zones = {PACKAGE: Zone(name="package-0", power=Steps((), (60.0,)))}
    with fake_machine(zones) as machine, rapl(machine) as counter, rapl_perf(machine) as events:
        machine.proc.start(10)
        meters = (counter, events, cpu_time(machine, 10))
        before = tuple(meter.read() for meter in meters)
        for event, seconds in steps:
            busy_s = seconds if event == "advance" else 0.0
            machine.advance(busy_s, {10: 1.0})
            machine.step_wall({"wall back": -3600.0, "wall on": 3600.0}.get(event, 0.0))
            after = tuple(meter.read() for meter in meters)
            for old, new in zip(before, after, strict=True):
                assert new.time_s - old.time_s == pytest.approx(busy_s)
                assert new.total_j >= old.total_j >= 0
            before = after


FAULTS: dict[str, Callable[[FakeMachine], None]] = {
    "vanished": lambda machine: machine.vanish(DRAM),
    "forbidden": lambda machine: machine.forbid(DRAM),
    "reset": lambda machine: machine.reset(PACKAGE),
    "suspended to memory": lambda machine: machine.suspend(3600.0),
    "suspended to idle": lambda machine: machine.suspend(3600.0, 2.0, reset=False),
    "taken offline": lambda machine: machine.perf.unplug("energy-ram", 0),
}
LOST = ("reset", "suspended to memory", "suspended to idle")
FAULTY = [
    *(("rapl", fault) for fault in ("vanished", "forbidden", *LOST)),
    *(("rapl-perf", fault) for fault in ("taken offline", *LOST)),
]


def faulty_zones(watts: float) -> dict[str, Zone]:
    power = Steps((), (watts,))
    return {PACKAGE: Zone(name="package-0", power=power), DRAM: Zone(name="dram", power=power)}


@pytest.mark.parametrize(("name", "fault"), FAULTY)
@settings(law, max_examples=25)
@given(moments=st.lists(st.floats(0.01, 2.0), min_size=1, max_size=5), watts=st.floats(5, 300))
def test_a_faulty_counter_raises_and_never_gives_a_number(
    name: str, fault: str, moments: list[float], watts: float
) -> None:
    with fake_machine(faulty_zones(watts)) as machine, COUNTERS[name][0](machine) as meter:
        before_j = 0.0
        for seconds in moments:
            machine.advance(seconds)
            before_j, last_j = meter.read().total_j, before_j
            assert before_j >= last_j
        FAULTS[fault](machine)
        with pytest.raises(SensorError):
            meter.read()


@pytest.mark.parametrize("fault", LOST)
@pytest.mark.parametrize("name", COUNTERS)
@settings(law, max_examples=25)
@given(before_s=st.floats(0.1, 10.0), after_s=st.floats(0.1, 1000.0), watts=st.floats(5, 300))
def test_joules_that_were_lost_stay_an_error(
    name: str, fault: str, before_s: float, after_s: float, watts: float
) -> None:
    """Also when the counter has since climbed past its old value, or time explains a wrap."""
    with fake_machine(faulty_zones(watts)) as machine, COUNTERS[name][0](machine) as meter:
        machine.advance(before_s)
        meter.read()
        FAULTS[fault](machine)
        with pytest.raises(SensorError, match="measure again"):
            meter.read()
        machine.advance(after_s)
        with pytest.raises(SensorError, match="measure again"):
            meter.read()


@pytest.mark.parametrize("fault", ["vanished", "forbidden"])
@settings(law, max_examples=25)
@given(before_s=st.floats(0.1, 10.0), after_s=st.floats(0.1, 10.0), watts=st.floats(5, 300))
def test_a_counter_that_is_back_has_lost_nothing(
    fault: str, before_s: float, after_s: float, watts: float
) -> None:
    with fake_machine(faulty_zones(watts)) as machine, rapl(machine) as meter:
        machine.advance(before_s)
        FAULTS[fault](machine)
        with pytest.raises(SensorError):
            meter.read()
        machine.permit()
        machine.advance(after_s)
        total_j = meter.read().total_j
        truth_j = counted_true_j(machine)
    allowed_j = lag_j([(1.0, watts)], Updates(), 2)
    assert total_j == pytest.approx(truth_j, rel=UNIT_ERROR, abs=allowed_j)


@settings(law, max_examples=25)
@given(before_s=st.floats(0.1, 10.0), after_s=st.floats(0.1, 10.0), watts=st.floats(5, 300))
def test_perf_events_stay_open_whatever_becomes_of_the_permission(
    before_s: float, after_s: float, watts: float
) -> None:
    with fake_machine(faulty_zones(watts)) as machine, rapl_perf(machine) as meter:
        machine.advance(before_s)
        machine.perf.forbidden = errno.EACCES
        machine.advance(after_s)
        total_j = meter.read().total_j
        truth_j = counted_true_j(machine)
        assert "perf_event_paranoid" in str(probe(machine.perf.root, opener=machine.perf.open))
    allowed_j = lag_j([(1.0, watts)], Updates(), 2)
    assert total_j == pytest.approx(truth_j, rel=UNIT_ERROR, abs=allowed_j)


events = st.lists(
    st.tuples(st.integers(0, 3), st.floats(0.0, 2.0), st.floats(0.0, 4.0), st.booleans()),
    min_size=1,
    max_size=12,
)
"""Which child runs for how many seconds on how many CPUs, and whether it ends afterwards."""


@law
@given(steps=events, lists=st.booleans())
def test_cpu_time_of_windows_adds_up_to_the_truth(
    steps: list[tuple[int, float, float, bool]], lists: bool
) -> None:
    with fake_machine(lists=lists) as machine:
        machine.proc.start(10)
        machine.proc.start(99)
        meter = cpu_time(machine, 10)
        readings, spent_s, live = [meter.read()], 0.0, set[int]()
        for child, seconds, cpus, ends in steps:
            pid = 20 + child
            if pid not in live:
                machine.proc.start(pid, parent=10)
                live.add(pid)
            machine.advance(seconds, {pid: cpus, 99: 1.0})
            spent_s += seconds * cpus
            if ends:
                machine.proc.end(pid)
                live.remove(pid)
            readings.append(meter.read())
    deltas_j = [after.total_j - before.total_j for before, after in pairwise(readings)]
    tick_j = meter.joules_of(TICK_S)
    assert min(deltas_j) >= 0
    assert sum(deltas_j) == pytest.approx(meter.joules_of(spent_s), abs=tick_j + 1e-9)


@settings(law, max_examples=30)
@given(
    stretches=st.lists(
        st.tuples(st.floats(0.001, 2.0), st.floats(0.0, 4.0)), min_size=3, max_size=3
    ),
    data=st.data(),
)
def test_cpu_time_knows_neither_order_nor_overlap(stretches: Windows, data: st.DataObject) -> None:
    def marks_j(order: Windows) -> list[float]:
        with fake_machine() as machine:
            machine.proc.start(10)
            meter = cpu_time(machine, 10)
            marks = [meter.read().total_j]
            for seconds, cpus in order:
                machine.advance(seconds, {10: cpus})
                marks.append(meter.read().total_j)
            return marks

    start, one, two, end = marks_j(stretches)
    assert (two - start) + (end - one) == pytest.approx((end - start) + (two - one))
    assert marks_j(data.draw(st.permutations(stretches)))[-1] == pytest.approx(end)


def test_cpu_time_of_a_forbidden_process_is_an_error() -> None:
    with fake_machine() as machine:
        machine.proc.start(10)
        meter = cpu_time(machine, 10)
        machine.advance(1.0, {10: 1.0})
        meter.read()
        machine.proc.forbid(10)
        with pytest.raises(SensorError, match="process 10"):
            meter.read()


@law
@given(cpu_s=st.floats(0.5, 100.0))
def test_a_process_that_ends_before_the_first_reading_keeps_what_it_ran(cpu_s: float) -> None:
    with fake_machine() as machine:
        machine.proc.start(10)
        machine.advance(1.0, {10: cpu_s})
        meter = cpu_time(machine, 10)
        machine.proc.end(10)
        assert meter.read().total_j == pytest.approx(meter.joules_of(cpu_s))
