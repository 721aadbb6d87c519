"""Climb a load staircase: idle, then 1, 2, ... CPUs busy with each of several instruction mixes.

Every mix has steps at every load, idle among them, so that each tells its own idle power and slow
drifts of the machine fall on all alike; the order is random within each repeat. A step is read once
the machine has settled, and lasts as long as the reference needs for a good reading.

Invariant: the processes that make the load end with `Crew`, whatever happens; the kernel ends them
where this process is killed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from joulewise.core.child import Child
from joulewise.core.energy import Meter, Sensor
from joulewise.core.errors import SensorError, UsageError
from joulewise.core.host import Host
from joulewise.meter.calibration import Step
from joulewise.meter.fit import FEWEST_MIXES, STEPS_OF_COUNTER
from joulewise.meter.mixes import MIXES
from joulewise.meter.noise import Load, read_load, warnings_of
from joulewise.meter.processes import ProcessTree

__all__ = ["Climb", "Crew", "Loads", "Plan", "climb", "large_array_bytes", "plan_for"]

SHORTEST_STEP_S = 2.0
"""Shortest step, s: 200 ticks of /proc/stat, and longer than a clock's reaction to load."""

SETTLE_S = 0.5
"""Wait before a step is read, s: power supplies and clocks have settled. A judgement."""

SETTLE_UPDATES = 5
"""Updates of the reference that the same wait lasts at the least: it may average. A judgement."""

MIN_UPDATES = 100
"""Updates of the reference in one step at the least (as in every block that is measured)."""

MOST_LOADS, MOST_REPEATS = 5, 3

ONE_THREAD = dict.fromkeys(
    (
        "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS",
    ),
    "1",
)  # fmt: skip
"""Environment that holds every linear algebra library to one thread."""

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
UNKNOWN_CACHE_BYTES = 1 << 25
LARGEST_MEMORY_RATIO = 0.25
"""Share of main memory that all large arrays together may take."""

ARRAYS = 3
"""Large arrays of a process at the most."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is climbed, in which order, and how long it takes.

    Args:
        mixes: names in MIXES, at least FEWEST_MIXES.
        loads: numbers of busy CPUs, rising from 0.
        repeats: how often each step is taken.
        step_s: length of a step as it is read, s.
        settle_s: wait before each, s.
        seed: of the order.
    """

    mixes: tuple[str, ...]
    loads: tuple[int, ...]
    repeats: int
    step_s: float
    settle_s: float
    seed: int = 0

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.mixes) * len(self.loads) * self.repeats

    @property
    def seconds(self) -> float:
        """Time that it takes, s."""
        return self.steps * (self.step_s + self.settle_s)

    def order(self) -> Iterator[tuple[str, int]]:
        """Yield mix and busy CPUs of each step, all of them once per repeat in random order."""
        random = np.random.default_rng(self.seed)
        each = [(mix, cpus) for mix in self.mixes for cpus in self.loads]
        for _ in range(self.repeats):
            for place in random.permutation(len(each)):
                yield each[place]


def plan_for(
    sensor: Sensor, logical_cpus: int, *, expected_w: float, max_s: float, seed: int = 0
) -> Plan:
    """Return the largest plan that fits into the time.

    Repeats are given up first, then loads between one CPU and all, then mixes.

    Args:
        sensor: the reference; its update period and its counter's step decide the steps' length.
        logical_cpus: CPUs that may be kept busy.
        expected_w: what one busy CPU is expected to add, W.
        max_s: longest time, s.
        seed: of the order.

    Raises:
        UsageError: not even the smallest plan fits.
    """
    update_s = sensor.update_period_s or 0.0
    counted_s = STEPS_OF_COUNTER * (sensor.resolution_j or 0.0) / expected_w
    largest = Plan(
        mixes=tuple(MIXES),
        loads=_loads(logical_cpus, MOST_LOADS),
        repeats=MOST_REPEATS,
        step_s=max(SHORTEST_STEP_S, MIN_UPDATES * update_s, counted_s),
        settle_s=max(SETTLE_S, SETTLE_UPDATES * update_s),
        seed=seed,
    )
    for plan in _smaller(largest):
        if plan.seconds <= max_s:
            return plan
    raise UsageError(
        f"{sensor.name} needs steps of {plan.step_s:.3g} s, so calibration takes "
        f"{plan.seconds / 60:.0f} minutes at the least; give --max-minutes "
        f"{plan.seconds / 60 + 1:.0f} or a faster meter"
    )


class Loads(Protocol):
    """What puts the machine under load."""

    def hold(self, mix: str, cpus: int) -> None:
        """Keep so many CPUs busy with a mix, and no others, until told otherwise."""
        ...

    def cpu_s(self) -> float:
        """CPU time of all that it ever ran, s."""
        ...


class Crew:
    """Processes that keep one CPU busy each.

    Args:
        size: how many there are.
        array_bytes: size of each large array, bytes.

    Raises:
        ProgramError: a process could not be started, or ended by itself.
    """

    def __init__(self, size: int, array_bytes: int) -> None:
        self._array_bytes = array_bytes
        self._busy: list[Child] = []
        with ExitStack() as opened:
            self._children = [
                opened.enter_context(Child("joulewise.meter.mixes", ONE_THREAD))
                for _ in range(size)
            ]
            for child in self._children:
                child.ask("stop")  # answers once it has started, which is work too
            self._tree = ProcessTree([child.pid for child in self._children])
            self._opened = opened.pop_all()

    def hold(self, mix: str, cpus: int) -> None:
        """Keep so many CPUs busy with a mix, and no others, until told otherwise."""
        for child in self._busy:
            child.ask("stop")
        self._busy = self._children[:cpus]
        for child in self._busy:
            child.ask("start", mix=mix, array_bytes=self._array_bytes)

    def cpu_s(self) -> float:
        """Return the CPU time of all processes, s."""
        return self._tree.cpu_s()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._opened.__exit__(kind, error, trace)


@dataclass(frozen=True, kw_only=True)
class Climb:
    """What a staircase gave.

    Args:
        steps: in the order in which they were taken.
        disturbances: what spoilt them, each in one line.
    """

    steps: tuple[Step, ...]
    disturbances: tuple[str, ...]


def climb(
    plan: Plan,
    reference: Meter,
    crew: Loads,
    *,
    say: Callable[[int, str, int], None],
    sleep: Callable[[float], object] = time.sleep,
    read: Callable[[], Load | None] = read_load,
) -> Climb:
    """Take every step of a plan and read the reference around it.

    Args:
        plan: what is climbed.
        reference: an open meter that includes idle power.
        crew: makes the load.
        say: told the number of each step that begins, from 1, its mix and its busy CPUs.
        sleep: waits so many seconds; another function in tests.
        read: reads the machine's CPU times; another function in tests.

    Raises:
        SensorError: the reference failed.
        ProgramError: a process of the crew failed.
    """
    steps = []
    before, own_s = read(), crew.cpu_s()
    for number, (mix, cpus) in enumerate(plan.order(), start=1):
        say(number, mix, cpus)
        crew.hold(mix, cpus)
        sleep(plan.settle_s)
        steps.append(_taken(mix, cpus, plan.step_s, reference, crew, sleep))
    crew.hold(plan.mixes[0], 0)
    return Climb(steps=tuple(steps), disturbances=warnings_of(before, read(), crew.cpu_s() - own_s))


def _taken(
    mix: str,
    cpus: int,
    seconds: float,
    reference: Meter,
    crew: Loads,
    sleep: Callable[[float], object],
) -> Step:
    before, before_s = reference.read(), crew.cpu_s()
    sleep(seconds)
    after, after_s = reference.read(), crew.cpu_s()
    passed_s = after.time_s - before.time_s
    if passed_s <= 0:
        raise SensorError(
            "the reference did not move on in a whole step; is it still running? calibrate again"
        )
    return Step(
        mix=mix,
        cpus=cpus,
        seconds=passed_s,
        cpu_s=after_s - before_s,
        reference_j=after.total_j - before.total_j,
    )


def large_array_bytes(host: Host, *, caches: Path = CACHES) -> int:
    """Return the size of an array that no cache holds, as far as memory allows, bytes.

    Args:
        host: the machine.
        caches: folder of the kernel's description of the caches; another folder in tests.
    """
    sizes = [_size_bytes(path) for path in caches.glob("index*/size")]
    wanted = max(sizes, default=UNKNOWN_CACHE_BYTES)
    if host.memory_bytes is None:
        return wanted
    shared = LARGEST_MEMORY_RATIO * host.memory_bytes / (ARRAYS * host.logical_cpus)
    return min(wanted, int(shared))


def _size_bytes(path: Path) -> int:
    """Read a cache's size, as in ``32768K``; 0 where it is not told."""
    try:
        text = path.read_text().strip()
    except OSError:
        return 0
    units = {"K": 1 << 10, "M": 1 << 20}
    number, unit = text[:-1], units.get(text[-1:])
    return int(number) * unit if unit and number.isdigit() else 0


def _loads(logical_cpus: int, most: int) -> tuple[int, ...]:
    """Return 0 and at most so many loads from 1 to all CPUs: all, or each a factor apart."""
    if logical_cpus <= most:
        return tuple(range(logical_cpus + 1))
    spaced = np.unique(np.rint(np.geomspace(1, logical_cpus, most)))
    return (0, *(int(load) for load in spaced))


def _smaller(plan: Plan) -> Iterator[Plan]:
    """Yield the plan and ever smaller ones."""
    for repeats in range(plan.repeats, 0, -1):
        yield replace(plan, repeats=repeats)
    for most in range(MOST_LOADS - 1, 1, -1):
        plan = replace(plan, repeats=1, loads=_loads(plan.loads[-1], most))
        yield plan
    for count in range(len(plan.mixes) - 1, FEWEST_MIXES - 1, -1):
        yield replace(plan, mixes=plan.mixes[:count])
