from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import joulewise
from joulewise.core.energy import Component, Grade, Interval, Reading, Sensor
from joulewise.core.errors import SensorError, UsageError
from joulewise.core.registry import Entry, Registry
from joulewise.meter import window
from joulewise.meter.table import MeterType
from joulewise.meter.window import Stopwatch, Window, require_grade


@dataclass
class World:
    """A clock that only moves when told, and a load that draws a constant power."""

    time_s: float = 0.0
    power_w: float = 10.0
    joules: float = 0.0

    def work(self, seconds: float, power_w: float | None = None) -> None:
        self.time_s += seconds
        self.joules += seconds * (self.power_w if power_w is None else power_w)

    def clock(self) -> float:
        return self.time_s


@dataclass
class FakeMeter:
    """Reads the world's joules, `share` of them."""

    world: World
    grade: Grade = "B"
    component: Component = "cpu"
    share: float = 1.0
    includes_idle: bool = True
    idle_w: float | None = 2.0
    update_period_s: float | None = None
    resolution_j: float | None = None
    broken: bool = False
    sensor: Sensor = field(init=False)

    def __post_init__(self) -> None:
        self.sensor = Sensor(
            name=f"fake-{self.component}", grade=self.grade, boundary="the fake", rails=("fake",),
            includes_idle=self.includes_idle, resolution_j=self.resolution_j,
            update_period_s=self.update_period_s, low_ratio=0.5, high_ratio=2.0, pair_ratio=1.0,
            source="a judgement",
        )  # fmt: skip

    def read(self) -> Reading:
        if self.broken:
            raise SensorError("the counter vanished; load the driver")
        return Reading(time_s=self.world.time_s, rails_j={"fake": self.share * self.world.joules})

    def close(self) -> None:
        pass


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def meter(world: World) -> FakeMeter:
    return FakeMeter(world)


@pytest.fixture
def new(world: World, meter: FakeMeter) -> Callable[..., Stopwatch]:
    def new(name: str = "w", **options: object) -> Stopwatch:
        return Stopwatch(name, meters=[meter], clock=world.clock, **options)  # type: ignore[arg-type]

    return new


def net(result: Window) -> float:
    assert result.net_j is not None
    return result.net_j.central


def test_with_block_tells_seconds_net_gross_and_grade(
    new: Callable[..., Stopwatch], world: World
) -> None:
    with new("train") as train:
        world.work(5.0)
    result = train.result
    assert (result.name, result.seconds, result.calls, result.grade) == ("train", 5.0, 1, "B")
    assert result.gross_j == Interval(low=25.0, central=50.0, high=100.0)
    assert result.net_j == Interval(low=20.0, central=40.0, high=80.0)
    assert [part.component for part in result.parts] == ["cpu"]


def test_nested_windows_add_up_to_the_outer_one(
    new: Callable[..., Stopwatch], world: World
) -> None:
    with new("outer") as outer:
        world.work(1.0)
        with new("first") as first:
            world.work(2.0)
        with new("second") as second:
            world.work(3.0, power_w=30.0)
    inner = net(first.result) + net(second.result)
    assert net(outer.result) == pytest.approx(inner + 1.0 * (10.0 - 2.0))


@given(st.lists(st.floats(0.001, 100.0), min_size=1, max_size=8), st.integers(0, 8))
def test_windows_side_by_side_add_up_to_the_whole(lengths: list[float], cut: int) -> None:
    world = World()
    meter = FakeMeter(world)
    whole, before, after = (Stopwatch("w", meters=[meter], clock=world.clock) for _ in range(3))
    whole.start()
    before.start()
    for number, length in enumerate(lengths):
        if number == cut:
            before.stop()
            after.start()
        world.work(length)
    (after if cut < len(lengths) else before).stop()
    whole.stop()
    parts = [each.result for each in (before, after) if each._calls]
    assert net(whole.result) == pytest.approx(sum(net(each) for each in parts))


def test_overlapping_windows_are_independent(new: Callable[..., Stopwatch], world: World) -> None:
    first, second = new("first"), new("second")
    first.start()
    world.work(1.0)
    second.start()
    world.work(2.0)
    first.stop()
    world.work(4.0)
    second.stop()
    assert (first.result.seconds, second.result.seconds) == (3.0, 6.0)
    assert (net(first.result), net(second.result)) == (24.0, 48.0)


def test_windows_of_threads_do_not_disturb_each_other(
    new: Callable[..., Stopwatch], world: World
) -> None:
    found: list[Window] = []
    inside, leave = threading.Barrier(5), threading.Barrier(5)

    def one() -> None:
        with new("thread") as mine:
            inside.wait(10)
            leave.wait(10)
        found.append(mine.result)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    inside.wait(10)
    world.work(3.0)
    leave.wait(10)
    for thread in threads:
        thread.join()
    assert [(each.seconds, net(each)) for each in found] == [(3.0, 24.0)] * 4


def test_decorator_adds_its_calls_up(new: Callable[..., Stopwatch], world: World) -> None:
    predicting = new("predict")

    @predicting
    def predict(seconds: float) -> str:
        """Say yes."""
        world.work(seconds)
        return "yes"

    assert [predict(1.0), predict(seconds=2.0)] == ["yes", "yes"]
    world.work(100.0)
    assert (predict.__name__, predict.__doc__) == ("predict", "Say yes.")
    assert predict.measure is predicting  # type: ignore[attr-defined]
    result = predicting.result
    assert (result.calls, result.seconds, net(result)) == (2, 3.0, 24.0)
    per_call = result.parts[0].net_j_per_item
    assert per_call is not None
    assert per_call.central == 12.0


def test_recursive_calls_are_billed_once(new: Callable[..., Stopwatch], world: World) -> None:
    counting = new()

    @counting
    def count(down: int) -> None:
        world.work(1.0)
        if down:
            count(down - 1)

    count(3)
    assert (counting.result.calls, counting.result.seconds) == (4, 4.0)
    assert net(counting.result) == 32.0


def test_async_calls_that_overlap_are_billed_once(
    new: Callable[..., Stopwatch], world: World
) -> None:
    answering = new()

    @answering
    async def answer(number: int) -> int:
        await asyncio.sleep(0)
        world.work(1.0)
        return number

    async def both() -> list[int]:
        return list(await asyncio.gather(answer(1), answer(2)))

    assert asyncio.run(both()) == [1, 2]
    assert (answering.result.calls, net(answering.result)) == (2, 16.0)


@pytest.mark.parametrize("kind", ["generator", "async generator", "class", "number"])
def test_only_functions_can_be_decorated(new: Callable[..., Stopwatch], kind: str) -> None:
    def numbers() -> Iterator[int]:
        yield 1

    async def later() -> object:
        yield 1

    things = {"generator": numbers, "async generator": later, "class": World, "number": 3}
    with pytest.raises(UsageError, match=r"use a with block"):
        new()(things[kind])  # type: ignore[type-var]


def test_decorator_without_a_name_says_how() -> None:
    with pytest.raises(UsageError, match=r'@joulewise.measure\("predict"\)'):

        @joulewise.measure  # type: ignore[arg-type]
        def predict() -> None: ...


def test_exception_inside_closes_the_window_and_goes_on(
    new: Callable[..., Stopwatch], world: World
) -> None:
    mine = new()

    @mine
    def fail() -> None:
        world.work(1.0)
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert net(mine.result) == 8.0


def test_counter_that_fails_leaves_no_result(
    new: Callable[..., Stopwatch], meter: FakeMeter
) -> None:
    mine = new()
    mine.start()
    meter.broken = True
    with pytest.raises(SensorError, match="the counter vanished"):
        mine.stop()
    with pytest.raises(SensorError, match="has no result: the counter vanished"):
        _ = mine.result


def test_counter_that_fails_does_not_hide_the_programs_error(
    new: Callable[..., Stopwatch], meter: FakeMeter
) -> None:
    @new()
    def fail() -> None:
        meter.broken = True
        raise KeyError

    with pytest.raises(KeyError) as caught:
        fail()
    assert caught.value.__notes__ == ["joulewise: the counter vanished; load the driver"]


def test_counter_that_fails_at_the_start_leaves_it_closed(
    new: Callable[..., Stopwatch], meter: FakeMeter, world: World
) -> None:
    mine = new()
    meter.broken = True
    with pytest.raises(SensorError, match="vanished"):
        mine.start()
    meter.broken = False
    with mine:
        world.work(1.0)
    assert mine.result.calls == 1


def test_result_before_the_end_or_the_start_is_an_error(new: Callable[..., Stopwatch]) -> None:
    mine = new("early")
    with pytest.raises(UsageError, match="'early' was never opened"):
        _ = mine.result
    with pytest.raises(UsageError, match="never opened"):
        mine.so_far()
    with pytest.raises(UsageError, match="not open; call start"):
        mine.stop()
    with mine, pytest.raises(UsageError, match=r"still open; end it first, or take so_far\(\)"):
        _ = mine.result


def test_running_totals_grow_to_the_result(new: Callable[..., Stopwatch], world: World) -> None:
    mine = new()
    with mine:
        world.work(1.0)
    mine.start()
    world.work(2.0)
    first = mine.so_far()
    world.work(4.0)
    assert (first.calls, first.seconds, net(first)) == (2, 3.0, 24.0)
    assert net(mine.so_far()) == 56.0
    mine.stop()
    assert mine.so_far() == mine.result
    assert net(mine.result) == 56.0


def test_components_are_added_up_with_the_worst_grade(world: World) -> None:
    parts = [FakeMeter(world, "D", includes_idle=False), FakeMeter(world, "B", "gpu", share=3.0)]
    with Stopwatch("w", meters=parts, clock=world.clock) as mine:
        world.work(1.0)
    assert mine.result.grade == "D"
    assert net(mine.result) == 10.0 + (30.0 - 2.0)
    assert [part.component for part in mine.result.parts] == ["cpu", "gpu"]


def test_machine_is_not_added_to_its_own_parts(world: World) -> None:
    parts = [FakeMeter(world, "D"), FakeMeter(world, "A", "machine", share=5.0)]
    with Stopwatch("w", meters=parts, clock=world.clock) as mine:
        world.work(1.0)
    assert (mine.result.grade, net(mine.result)) == ("A", 48.0)


def test_unknown_idle_gives_no_net_and_says_so(world: World) -> None:
    meters = [FakeMeter(world, idle_w=None), FakeMeter(world, component="gpu")]
    with Stopwatch("w", meters=meters, clock=world.clock) as mine:
        world.work(1.0)
    assert mine.result.net_j is None
    assert mine.result.gross_j is not None
    (warning,) = mine.result.warnings
    assert "idle power of fake-cpu is not known" in warning
    assert "idle_s=5" in warning


def test_idle_power_is_watched_once_where_it_is_needed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        world.work(seconds, power_w=3.0)

    monkeypatch.setattr("time.sleep", sleep)
    known = FakeMeter(world, component="gpu", idle_w=2.0)
    meters = [FakeMeter(world, idle_w=None), known]
    mine = Stopwatch("w", meters=meters, idle_s=5.0, clock=world.clock)
    for _ in range(2):
        with mine:
            world.work(1.0)
    assert waits == [5.0]
    assert [part.idle_w for part in mine.result.parts] == [3.0, 2.0]
    assert (mine.result.seconds, net(mine.result)) == (2.0, 2 * (7.0 + 8.0))


@pytest.mark.parametrize(("seconds", "warned"), [(0.99, True), (1.01, False)])
def test_window_of_too_few_updates_is_warned_about(
    world: World, seconds: float, warned: bool
) -> None:
    meter = FakeMeter(world, update_period_s=0.01)
    with Stopwatch("short", meters=[meter], clock=world.clock) as mine:
        world.work(seconds)
    told = mine.result.warnings
    assert bool(told) == warned
    assert all("less than the 1 s in which" in each and "do more work" in each for each in told)


@pytest.mark.parametrize(("seconds", "warned"), [(0.99, True), (1.01, False)])
def test_window_of_too_few_steps_is_warned_about(
    world: World, seconds: float, warned: bool
) -> None:
    meter = FakeMeter(world, resolution_j=1.0)
    with Stopwatch("small", meters=[meter], clock=world.clock) as mine:
        world.work(seconds)
    told = mine.result.warnings
    assert bool(told) == warned
    assert all("less than 10 steps" in each and "do more work" in each for each in told)


def test_many_short_calls_stay_short(world: World) -> None:
    mine = Stopwatch("w", meters=[FakeMeter(world, update_period_s=0.01)], clock=world.clock)
    for _ in range(5):
        with mine:
            world.work(0.5)
    assert "lasted 0.5 s" in mine.result.warnings[0]


def test_sync_is_called_before_each_reading(new: Callable[..., Stopwatch], world: World) -> None:
    with new(sync=lambda: world.work(1.0)) as mine:
        world.work(2.0)
    assert mine.result.seconds == 3.0


def test_sync_that_fails_at_the_end_leaves_no_result(new: Callable[..., Stopwatch]) -> None:
    answers = iter([None])
    mine = new(sync=lambda: next(answers))
    mine.start()
    with pytest.raises(StopIteration):
        mine.stop()
    with pytest.raises(SensorError, match="waiting for queued work failed: StopIteration"):
        _ = mine.result


@pytest.mark.parametrize("initialised", [True, False])
def test_torch_is_waited_for_where_it_is_in_use(
    new: Callable[..., Stopwatch], monkeypatch: pytest.MonkeyPatch, initialised: bool
) -> None:
    waits: list[str] = []
    cuda = SimpleNamespace(
        is_initialized=lambda: initialised, synchronize=lambda: waits.append("cuda")
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    with new():
        pass
    assert waits == ["cuda", "cuda"] * initialised
    with new(sync=lambda: waits.append("mine")):
        pass
    assert waits[-2:].count("mine") == 2


class Cable:
    grade: Grade = "A"
    component: Component = "machine"
    fix: str | None = "no cable; plug it in"

    @classmethod
    def probe(cls) -> str | None:
        return cls.fix

    @classmethod
    def attach(cls, pids: Sequence[int], host: object) -> FakeMeter:
        raise AssertionError((pids, host))


class WorkingCable(Cable):
    fix = None


class Card(Cable):
    component: Component = "gpu"


def table(**rows: str) -> Registry[MeterType]:
    entries: Mapping[str, Entry] = {
        name: Entry(target=f"{__name__}:{kind}", summary=kind) for name, kind in rows.items()
    }
    return Registry("meter", entries, group="joulewise.none")


def test_worse_grade_is_refused_with_the_fix_in_one_line(world: World) -> None:
    with pytest.raises(SensorError) as caught:
        require_grade([FakeMeter(world, "D")], "B", table=table(cable="Cable", card="Card"))
    assert str(caught.value) == (
        "fake-cpu is of grade D, but grade B or better is asked for: "
        "cable (grade A): no cable; plug it in"
    )


def test_refusal_names_a_meter_that_works_and_the_lack_of_any(world: World) -> None:
    with pytest.raises(SensorError, match=r"cable \(grade A\): works here, ask for it"):
        require_grade([FakeMeter(world, "D")], "B", table=table(cable="WorkingCable"))
    with pytest.raises(SensorError, match="no such meter is known"):
        require_grade([FakeMeter(world, "D")], "B", table=table())


def test_good_enough_grades_open(world: World) -> None:
    mine = Stopwatch("w", meters=[FakeMeter(world, "B")], min_grade="B", clock=world.clock)
    with mine:
        world.work(1.0)
    assert mine.result.grade == "B"


def test_window_of_a_worse_grade_does_not_open(world: World) -> None:
    mine = Stopwatch("w", meters=[FakeMeter(world, "D")], min_grade="B")
    with pytest.raises(SensorError, match="grade B or better is asked for"):
        mine.start()
    with pytest.raises(UsageError, match="never opened"):
        _ = mine.result


def test_unknown_grade_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no grade 'Z'; it is one of A, B, C, D, E"):
        joulewise.measure("w", min_grade="Z")  # type: ignore[arg-type]


FORK = """
import os, sys
import joulewise
from joulewise.core.errors import UsageError
from joulewise.meter.table import open_meter

def in_child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as error:
            print(type(error).__name__, error, *getattr(error, "__notes__", []), flush=True)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)

def options():
    return {"meters": [open_meter([os.getpid()], name="cpu-time")]}

"""

needs_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")


def forked(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", FORK + code], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


@needs_linux
def test_window_of_the_parent_is_not_closed_in_the_fork() -> None:
    told = forked(
        "m = joulewise.measure('w', **options())\nm.start()\nin_child(m.stop)\n"
        "m.stop()\nprint(m.result.calls)\n"
    ).splitlines()
    assert told[0].startswith("UsageError the window 'w' was opened in process ")
    assert told[0].endswith("cannot be closed in its fork; open one in the child")
    assert told[1] == "1"


@needs_linux
def test_error_in_the_fork_is_not_replaced() -> None:
    told = forked(
        "m = joulewise.measure('w', **options())\nm.start()\n"
        "def fail():\n    try:\n        raise KeyError('mine')\n"
        "    except KeyError as error:\n        m.__exit__(KeyError, error, None)\n        raise\n"
        "in_child(fail)\n"
    )
    assert told.startswith("KeyError 'mine' joulewise: the window 'w' was opened in process ")


@needs_linux
def test_meters_of_the_parent_are_not_used_in_the_fork() -> None:
    told = forked("m = joulewise.measure('w', **options())\nin_child(m.start)\n")
    assert "were opened before a fork; open them in the child" in told


@needs_linux
def test_child_measures_itself_while_the_parents_window_is_open() -> None:
    told = forked(
        "from joulewise.meter import window\n"
        "window.open_meters = lambda pids: (open_meter(pids, name='cpu-time'),)\n"
        "m = joulewise.measure('w')\n"
        "m.start()\n"
        "def child():\n    m.start(); m.stop(); print(m.result.calls, flush=True)\n"
        "in_child(child)\n"
        "m.stop()\nprint(m.result.calls)\n"
    )
    assert told == "1\n1\n"


BURN = "import time\nwhile time.process_time() < 0.3: pass\n"


@needs_linux
def test_child_processes_are_included(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "open_meters", lambda pids: (window_meter(pids),))
    window._SHARED.reset()
    try:
        with joulewise.measure("alone") as alone:
            pass
        with joulewise.measure("child") as child:
            subprocess.run([sys.executable, "-c", BURN], check=True)
        assert net(child.result) > 0.25 * net_w() > 5 * net(alone.result)
        assert child.result.warnings == ()
    finally:
        window._SHARED.reset()


def window_meter(pids: Sequence[int]) -> object:
    from joulewise.meter.table import open_meter

    return open_meter(pids, name="cpu-time")


def net_w() -> float:
    from joulewise.core.host import read_host
    from joulewise.meter.power_table import power_of

    return power_of(read_host()).net_w.central


def test_public_name_uses_the_shared_meters_once(
    world: World, meter: FakeMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def opened(pids: Sequence[int]) -> tuple[FakeMeter, ...]:
        asked.append(list(pids))
        return (meter,)

    monkeypatch.setattr(window, "open_meters", opened)
    window._SHARED.reset()
    try:
        for _ in range(2):
            with joulewise.measure("w") as mine:
                world.work(1.0)
            assert net(mine.result) == 8.0
    finally:
        window._SHARED.reset()
    assert asked == [[os.getpid()]]
