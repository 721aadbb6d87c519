"""Fake programs and a fake meter on a virtual clock, so every figure is exact."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulewise.core.energy import Block, Measurement, Meter, Reading, Sensor, Timing
from joulewise.core.errors import ProgramError, SensorError
from joulewise.meter.interleave import (
    MIN_UPDATES_PER_BLOCK,
    Plan,
    block_joules_per_item,
    interleave,
    ratio_of,
)

IDLE_W = 5.0
SENSOR = Sensor(
    name="fake",
    grade="B",
    boundary="a fake package",
    rails=("package-0",),
    includes_idle=True,
    resolution_j=1e-6,
    update_period_s=1e-3,
    low_ratio=1.0,
    high_ratio=1.0,
    pair_ratio=1.0,
    source="this file",
)
PLAN = Plan(rounds=8, block_s=0.5)


def steady(_now_s: float) -> float:
    return 1.0


@dataclass
class Machine:
    """A virtual clock, a joule counter that counts idle power too, and who ran when."""

    slowness: Callable[[float], float] = steady
    idle_w: Callable[[float], float] = lambda _now_s: IDLE_W
    now_s: float = 0.0
    joules: float = 0.0
    ran: list[tuple[str, int, float]] = field(default_factory=list)
    open_meters: int = 0

    def work(self, seconds: float, above_idle_w: float) -> float:
        """Let a program work; return how long it took on this machine at this hour."""
        lasted_s = seconds * self.slowness(self.now_s)
        self.now_s += lasted_s
        self.joules += lasted_s * (self.idle_w(self.now_s - lasted_s / 2) + above_idle_w)
        return lasted_s


@dataclass
class Program:
    machine: Machine
    name: str
    batch_s: float
    above_idle_w: float
    batch_items: int = 4
    pid: int = 1
    fails_after: int | None = None

    def block(self, batches: int) -> Timing:
        if self.fails_after is not None and len(self.machine.ran) >= self.fails_after:
            raise ProgramError("the program died")
        seconds = self.machine.work(batches * self.batch_s, self.above_idle_w)
        self.machine.ran.append((self.name, batches, seconds))
        return Timing(
            items=batches * self.batch_items,
            seconds=seconds,
            cpu_s=seconds,
            p50_s=seconds / batches,
            p95_s=2 * seconds / batches,
        )


class FakeMeter:
    """A counter of the whole machine, or, without idle, of what is above it."""

    def __init__(self, machine: Machine, sensor: Sensor = SENSOR) -> None:
        self.sensor = sensor
        self.idle_w: float | None = IDLE_W
        self._machine = machine
        machine.open_meters += 1

    def read(self) -> Reading:
        machine = self._machine
        idle_j = 0.0 if self.sensor.includes_idle else IDLE_W * machine.now_s
        return Reading(time_s=machine.now_s, rails_j={"package-0": machine.joules - idle_j})

    def close(self) -> None:
        self._machine.open_meters -= 1


def opener(machine: Machine, sensor: Sensor = SENSOR) -> Callable[[Sequence[int]], Meter]:
    return lambda _pids: FakeMeter(machine, sensor)


def pair(machine: Machine) -> dict[str, Program]:
    """A baseline, and a candidate of exactly 0.4 times its net joules per item."""
    return {
        "baseline": Program(machine, "baseline", batch_s=0.010, above_idle_w=20.0),
        "candidate": Program(machine, "candidate", batch_s=0.005, above_idle_w=16.0),
    }


NET_J = {"baseline": 0.010 * 20.0 / 4, "candidate": 0.005 * 16.0 / 4}
GROSS_J = {"baseline": 0.010 * 25.0 / 4, "candidate": 0.005 * 21.0 / 4}


@pytest.mark.parametrize("includes_idle", [True, False])
def test_joules_per_item_are_recovered_exactly(includes_idle: bool) -> None:
    machine = Machine()
    sensor = replace(SENSOR, includes_idle=includes_idle)
    taken = interleave(pair(machine), opener(machine, sensor), PLAN)
    for name, measurement in taken.items():
        assert block_joules_per_item(measurement, "net") == pytest.approx([NET_J[name]] * 8)
        assert block_joules_per_item(measurement, "gross") == pytest.approx([GROSS_J[name]] * 8)
        assert measurement.net_j_per_item is not None
        assert measurement.net_j_per_item.central == pytest.approx(NET_J[name])


@given(
    batch_s=st.floats(1e-5, 2.0),
    above_idle_w=st.floats(0.5, 200.0),
    batch_items=st.integers(1, 64),
    block_s=st.floats(0.01, 2.0),
)
@settings(max_examples=50, deadline=None)
def test_any_program_is_recovered(
    batch_s: float, above_idle_w: float, batch_items: int, block_s: float
) -> None:
    machine = Machine()
    program = Program(machine, "p", batch_s, above_idle_w, batch_items)
    taken = interleave({"p": program}, opener(machine), Plan(rounds=3, block_s=block_s))["p"]
    wanted = batch_s * above_idle_w / batch_items
    assert block_joules_per_item(taken, "net") == pytest.approx([wanted] * 3, rel=1e-6)
    assert taken.latency_p50_s == pytest.approx(batch_s)
    assert taken.latency_p95_s == pytest.approx(2 * batch_s)


def test_ratio_is_exact_on_a_steady_machine() -> None:
    machine = Machine()
    taken = interleave(pair(machine), opener(machine), PLAN)
    ratio = ratio_of(taken["baseline"], taken["candidate"], 0.95)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((0.4, 0.4, 0.4))
    assert (ratio.pairs, ratio.grade, ratio.objective) == (8, "B", "net of idle")
    gross = ratio_of(taken["baseline"], taken["candidate"], 0.95, "gross")
    assert gross.value == pytest.approx(0.42)
    assert gross.objective == "gross"


def test_pairs_cancel_a_machine_that_gets_slower() -> None:
    def slower(now_s: float) -> float:
        return 1.0 + now_s / 50

    machine = Machine(slowness=slower)
    taken = interleave(pair(machine), opener(machine), Plan(rounds=60, block_s=0.5))
    assert machine.slowness(machine.now_s) > 2
    ratio = ratio_of(taken["baseline"], taken["candidate"], 0.95)
    assert ratio.value == pytest.approx(0.4, rel=0.01)
    assert ratio.low < 0.4 < ratio.high

    machine = Machine(slowness=slower)
    means = {
        name: np.mean(
            block_joules_per_item(
                interleave({name: program}, opener(machine), Plan(rounds=60, block_s=0.5))[name],
                "net",
            )
        )
        for name, program in pair(machine).items()
    }
    unpaired = float(means["candidate"] / means["baseline"])
    assert abs(unpaired / 0.4 - 1) > 0.1


def orders(seed: int, *, mirrored: bool = False) -> list[tuple[str, ...]]:
    """Who ran in each round, warm-up left out."""
    machine = Machine()
    programs = {
        name: Program(machine, name, batch_s=0.01, above_idle_w=10.0) for name in ("a", "b", "c")
    }
    plan = Plan(rounds=20, block_s=0.1, seed=seed, mirrored=mirrored)
    interleave(programs, opener(machine), plan)
    names = [name for name, _, _ in machine.ran[-60:]]
    return [tuple(names[i : i + 3]) for i in range(0, 60, 3)]


def test_every_round_holds_each_program_once_in_random_order() -> None:
    rounds = orders(seed=0)
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
    assert len(set(rounds)) > 3


def test_mirrored_rounds_cancel_a_steady_drift() -> None:
    rounds = orders(seed=0, mirrored=True)
    assert all(b == a[::-1] for a, b in zip(rounds[::2], rounds[1::2], strict=True))
    assert len(set(rounds[::2])) > 1


def test_order_follows_the_seed() -> None:
    assert orders(seed=1) == orders(seed=1)
    assert orders(seed=1) != orders(seed=2)


def test_order_does_not_depend_on_the_order_of_the_mapping() -> None:
    first, second = Machine(), Machine()
    interleave(pair(first), opener(first), PLAN)
    backwards = dict(reversed(pair(second).items()))
    interleave(backwards, opener(second), PLAN)
    assert [x[0] for x in first.ran[-16:]] == [x[0] for x in second.ran[-16:]]


def test_each_meter_watches_its_own_program() -> None:
    machine, asked = Machine(), []
    programs = pair(machine)
    programs["candidate"].pid = 2

    def open_meter(pids: Sequence[int]) -> Meter:
        asked.append(list(pids))
        return FakeMeter(machine)

    interleave(programs, open_meter, PLAN)
    assert asked == [[1], [2]]


@pytest.mark.parametrize("period_s", [0.001, 0.05])
def test_blocks_last_many_updates_of_the_counter(period_s: float) -> None:
    machine = Machine()
    sensor = replace(SENSOR, update_period_s=period_s)
    taken = interleave(pair(machine), opener(machine, sensor), Plan(rounds=2, block_s=0.2))
    least_s = max(0.2, MIN_UPDATES_PER_BLOCK * period_s)
    for measurement in taken.values():
        for block in measurement.blocks:
            assert least_s * 0.95 < block.seconds < least_s * 1.05


def test_blocks_of_a_sensor_without_period_are_as_long_as_planned() -> None:
    machine = Machine()
    sensor = replace(SENSOR, update_period_s=None)
    taken = interleave(pair(machine), opener(machine, sensor), Plan(rounds=2, block_s=0.2))
    assert taken["baseline"].blocks[0].seconds == pytest.approx(0.2, rel=0.05)


def test_one_batch_longer_than_a_block_is_still_measured() -> None:
    machine = Machine()
    program = Program(machine, "p", batch_s=3.0, above_idle_w=10.0)
    taken = interleave({"p": program}, opener(machine), Plan(rounds=2, block_s=0.1))
    assert [block.items for block in taken["p"].blocks] == [4, 4]


def test_warm_up_waits_for_a_flat_rate() -> None:
    machine = Machine(slowness=lambda now_s: 1.0 if now_s > 2.0 else 3.0)
    program = Program(machine, "p", batch_s=0.01, above_idle_w=10.0)
    plan = Plan(rounds=4, block_s=0.5, warm_up_s=10.0)
    taken = interleave({"p": program}, opener(machine), plan)["p"]
    assert len({round(block.seconds / block.items, 9) for block in taken.blocks}) == 1


def test_warm_up_ends_at_its_limit() -> None:
    random = np.random.default_rng(0)
    machine = Machine(slowness=lambda _now_s: float(random.uniform(0.5, 5.0)))
    program = Program(machine, "p", batch_s=0.01, above_idle_w=10.0)
    interleave({"p": program}, opener(machine), Plan(rounds=1, block_s=0.5, warm_up_s=2.0))
    assert sum(seconds for _, _, seconds in machine.ran[:-1]) < 2.0 + 5 * 0.5


def test_meters_are_closed_at_the_end() -> None:
    machine = Machine()
    interleave(pair(machine), opener(machine), PLAN)
    assert machine.open_meters == 0


@pytest.mark.parametrize("fails_after", [0, 3, 12])
def test_meters_are_closed_when_a_program_fails(fails_after: int) -> None:
    machine = Machine()
    programs = pair(machine)
    programs["candidate"].fails_after = fails_after
    with pytest.raises(ProgramError, match="died"):
        interleave(programs, opener(machine), PLAN)
    assert machine.open_meters == 0


def test_meters_are_closed_when_a_later_one_does_not_open() -> None:
    machine = Machine()

    def open_meter(_pids: Sequence[int]) -> Meter:
        if machine.open_meters:
            raise SensorError("no second counter")
        return FakeMeter(machine)

    with pytest.raises(SensorError, match="second"):
        interleave(pair(machine), open_meter, PLAN)
    assert machine.open_meters == 0


# ---------------------------------------------------------------- idle power within the rounds


def ignorant(machine: Machine, sensor: Sensor = SENSOR) -> Callable[[Sequence[int]], Meter]:
    """Open meters that include idle power and do not know it."""

    def open_meter(_pids: Sequence[int]) -> Meter:
        meter = FakeMeter(machine, sensor)
        meter.idle_w = None
        return meter

    return open_meter


def rest(machine: Machine) -> Callable[[float], None]:
    """Return what lets time pass on a machine that does nothing."""

    def sleep(seconds: float) -> None:
        machine.now_s += seconds
        machine.joules += seconds * machine.idle_w(machine.now_s - seconds / 2)
        machine.ran.append(("sleep", 0, seconds))

    return sleep


def test_unknown_idle_power_is_watched_in_every_round() -> None:
    machine = Machine()
    taken = interleave(pair(machine), ignorant(machine), PLAN, sleep=rest(machine))
    for name, measurement in taken.items():
        assert len(measurement.idle_blocks) == len(measurement.blocks) == PLAN.rounds
        assert measurement.idle_w == pytest.approx(IDLE_W)
        assert block_joules_per_item(measurement, "net") == pytest.approx([NET_J[name]] * 8)
    ratio = ratio_of(taken["baseline"], taken["candidate"], 0.95)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((0.4, 0.4, 0.4))
    assert (ratio.pairs, ratio.grade, ratio.objective) == (8, "B", "net of idle")


def test_idle_is_watched_at_a_random_place_of_each_round() -> None:
    machine, plan = Machine(), Plan(rounds=20, block_s=0.5)
    interleave(pair(machine), ignorant(machine), plan, sleep=rest(machine))
    blocks = [name for name, _, seconds in machine.ran if name != "sleep" or seconds > 0.1]
    rounds = [tuple(blocks[i - 3 : i]) for i in range(len(blocks), len(blocks) - 60, -3)]
    assert all(sorted(names) == ["baseline", "candidate", "sleep"] for names in rounds)
    assert {names.index("sleep") for names in rounds} == {0, 1, 2}


@pytest.mark.parametrize(
    ("batch_s", "period_s", "wanted_s"), [(0.01, 0.001, 0.5), (9.0, 0.001, 5.0), (0.01, 0.5, 10.0)]
)
def test_idle_is_watched_as_long_as_a_block_or_a_few_seconds_or_a_few_updates(
    batch_s: float, period_s: float, wanted_s: float
) -> None:
    machine, sensor = Machine(), replace(SENSOR, update_period_s=period_s)
    program = Program(machine, "p", batch_s=batch_s, above_idle_w=10.0)
    taken = interleave({"p": program}, ignorant(machine, sensor), PLAN, sleep=rest(machine))
    later = taken["p"].idle_blocks[1:]  # there may be no block before the first
    assert [block.seconds for block in later] == pytest.approx([wanted_s] * 7, rel=0.05)


@pytest.mark.parametrize("sensor", [SENSOR, replace(SENSOR, includes_idle=False)])
def test_idle_is_not_watched_where_it_is_known_or_left_out(sensor: Sensor) -> None:
    machine = Machine()
    open_meter = opener(machine) if sensor.includes_idle else ignorant(machine, sensor)
    taken = interleave(pair(machine), open_meter, PLAN, sleep=rest(machine))
    assert not [name for name, _, _ in machine.ran if name == "sleep"]
    assert taken["baseline"].idle_blocks == ()


def test_idle_power_that_drifts_does_not_shift_the_ratio() -> None:
    """Nor widen it much; watched once, before the first round, it would shift it."""
    machine = Machine(idle_w=lambda now_s: IDLE_W + now_s / 10)
    plan = Plan(rounds=60, block_s=0.5)
    taken = interleave(pair(machine), ignorant(machine), plan, sleep=rest(machine))
    ratio = ratio_of(taken["baseline"], taken["candidate"], 0.95)
    assert ratio.value == pytest.approx(0.4, rel=0.002)
    assert ratio.low < 0.4 < ratio.high
    once = [replace(each, idle_w=IDLE_W, idle_blocks=()) for each in taken.values()]
    assert abs(ratio_of(once[0], once[1], 0.95).value / 0.4 - 1) > 0.04


def test_each_look_sees_whole_rounds() -> None:
    machine, seen = Machine(), []

    def enough(found: Mapping[str, Measurement]) -> bool:
        seen.append({(len(each.blocks), len(each.idle_blocks)) for each in found.values()})
        return len(seen) == 3

    interleave(pair(machine), ignorant(machine), PLAN, enough, sleep=rest(machine))
    assert seen == [{(1, 1)}, {(2, 2)}, {(3, 3)}]


def test_single_blocks_may_lie_below_idle_but_not_all() -> None:
    idle = tuple(Block(items=0, seconds=2.0, reading_j=2.0) for _ in range(3))

    def taken(*joules: float) -> Measurement:
        return replace(measurement(joules), idle_blocks=idle)

    ratio = ratio_of(taken(7.0, 8.0, 9.0), taken(1.9, 6.0, 8.0), 0.95)
    assert ratio.value == pytest.approx((1.9 + 6 + 8 - 6) / (7 + 8 + 9 - 6))
    with pytest.raises(SensorError, match="did not rise above idle; stop other work"):
        ratio_of(taken(7.0, 8.0, 9.0), taken(1.0, 2.0, 2.5), 0.95)


@pytest.mark.parametrize(
    ("cpu_s", "band"),
    [((1.0, 1.05), 1.2), ((1.0, 2.0), 1.8), ((2.0, 1.0), 1.8), ((None, 1.0), 1.8)],
    ids=["as busy", "busier", "less busy", "unknown"],
)
def test_programs_that_load_the_machine_differently_have_a_wider_band(
    cpu_s: tuple[float | None, float | None], band: float
) -> None:
    sensor = replace(SENSOR, includes_idle=False, pair_ratio=1.2, load_ratio=1.5)
    one, other = (
        replace(taken, blocks=tuple(replace(block, cpu_s=busy_s) for block in taken.blocks))
        for taken, busy_s in zip([measurement(sensor=sensor)] * 2, cpu_s, strict=True)
    )
    ratio = ratio_of(one, other, 0.95)
    assert (ratio.low, ratio.high) == pytest.approx((1 / band, band))
    assert ratio_of(replace(one, sensor=SENSOR), replace(other, sensor=SENSOR), 0.95).high == 1.0


# ---------------------------------------------------------------- figures of a measurement


def measurement(
    joules: Sequence[float] = (10.0, 10.0), *, sensor: Sensor = SENSOR, idle_w: float | None = 1.0
) -> Measurement:
    """Blocks of 2 s and 5 items."""
    blocks = tuple(Block(items=5, seconds=2.0, reading_j=j) for j in joules)
    return Measurement(sensor=sensor, blocks=blocks, idle_w=idle_w)


@pytest.mark.parametrize(
    ("includes_idle", "objective", "wanted_j"),
    [(True, "net", 1.6), (True, "gross", 2.0), (False, "net", 2.0), (False, "gross", 2.4)],
)
def test_net_and_gross(includes_idle: bool, objective: str, wanted_j: float) -> None:
    taken = measurement(sensor=replace(SENSOR, includes_idle=includes_idle))
    assert block_joules_per_item(taken, objective) == pytest.approx([wanted_j] * 2)


@pytest.mark.parametrize(("includes_idle", "objective"), [(True, "net"), (False, "gross")])
def test_unknown_idle_is_an_error_where_it_is_needed(includes_idle: bool, objective: str) -> None:
    taken = measurement(sensor=replace(SENSOR, includes_idle=includes_idle), idle_w=None)
    with pytest.raises(SensorError, match=f"no {objective} figure"):
        block_joules_per_item(taken, objective)


@pytest.mark.parametrize(("includes_idle", "objective"), [(True, "gross"), (False, "net")])
def test_unknown_idle_does_not_matter_elsewhere(includes_idle: bool, objective: str) -> None:
    taken = measurement(sensor=replace(SENSOR, includes_idle=includes_idle), idle_w=None)
    assert block_joules_per_item(taken, objective) == pytest.approx([2.0] * 2)


@pytest.mark.parametrize("joules", [(10.0, 2.0), (1.0, 10.0)])
def test_a_block_that_is_not_above_idle_is_an_error(joules: tuple[float, float]) -> None:
    with pytest.raises(SensorError, match="did not rise above idle; stop other work"):
        ratio_of(measurement(), measurement(joules), 0.95)


@pytest.mark.parametrize(
    "other", [replace(SENSOR, name="other"), replace(SENSOR, grade="D")], ids=["name", "grade"]
)
def test_sensors_and_grades_never_mix_in_a_ratio(other: Sensor) -> None:
    with pytest.raises(SensorError, match="different sensors"):
        ratio_of(measurement(), measurement(sensor=other), 0.95)


def test_ratio_keeps_the_sensors_share_of_the_band() -> None:
    sensor = replace(SENSOR, pair_ratio=1.2)
    ratio = ratio_of(measurement(sensor=sensor), measurement((6.0, 6.0), sensor=sensor), 0.9)
    assert ratio.value == pytest.approx(0.5)
    assert (ratio.sampling_low, ratio.sampling_high) == pytest.approx((0.5, 0.5))
    assert (ratio.low, ratio.high) == pytest.approx((0.5 / 1.2, 0.5 * 1.2))
