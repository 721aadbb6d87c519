"""Tell the joules of a stretch of the running program: a with block, a function, start to stop.

A window is the difference of two readings of cumulative meters that all windows of the process
share, so windows may nest and overlap as they like. It bills all that the process and its children
spend while it is open, its other threads too.

Invariants: joules are never billed twice to one window, as calls of it that overlap are one
stretch; what was opened before a fork is never closed in the child, whose meters are its own; a
window whose reading failed has no result rather than a wrong one.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar, cast, get_args

from joulewise.core.energy import Block, Component, Grade, Interval, Meter, Part, Reading, Sensor
from joulewise.core.errors import SensorError, UsageError
from joulewise.core.registry import Registry
from joulewise.meter.table import METERS, MeterType, component_of, open_meters, probe_meters

__all__ = ["Stopwatch", "Window", "measure", "require_grade", "too_short", "watch_idle"]

UPDATES = 100
"""Counter updates that a stretch should last, so that its two edges are off by 2 % at most."""

STEPS = 10
"""Counter steps that a stretch should hold, so that rounding is off by 20 % at most."""

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Window:
    """What was spent in a window.

    Args:
        name: as the user called it.
        seconds: wall-clock time in which it was open, s.
        parts: one per meter; their items are calls.
        net_j: joules above idle of all calls together; None where a part's idle is unknown.
        gross_j: the same with idle power; None where a part's idle is unknown.
        grade: the worst grade of the parts that are added up.
        calls: how often it was opened.
        warnings: what may have spoilt it, each with its remedy.
    """

    name: str
    seconds: float
    parts: tuple[Part, ...]
    net_j: Interval | None
    gross_j: Interval | None
    grade: Grade
    calls: int
    warnings: tuple[str, ...] = ()


def measure(
    name: str,
    *,
    min_grade: Grade | None = None,
    idle_s: float = 0.0,
    sync: Callable[[], object] | None = None,
    meters: Sequence[Meter] | None = None,
) -> Stopwatch:
    """Return a window that is not open yet: a context manager, a decorator, a stopwatch.

    ::

        with joulewise.measure("train") as train:
            ...
        print(train.result.net_j)

        predicting = joulewise.measure("predict")

        @predicting          # also async; predict.measure is `predicting`
        def predict(x): ...

    Args:
        name: what the results are called.
        min_grade: refuse to open where a meter is worse than this: "B" refuses estimates.
        idle_s: how long to wait and watch idle power before the first opening, s, where a meter
            includes it and does not know it; the program should do nothing else then.
        sync: called before each of the two readings, to wait for work that was only queued; None
            calls ``torch.cuda.synchronize`` where the program uses it (its current device only).
        meters: open meters of this process whose joules do not overlap; None takes the best of
            each component that works here.

    Raises:
        UsageError: the name is not a text, or there is no such grade.
    """
    return Stopwatch(name, min_grade=min_grade, idle_s=idle_s, sync=sync, meters=meters)


class Stopwatch:
    """A window that can be opened and closed again and again; its results add up.

    Args:
        name: what the results are called.
        min_grade: worst grade of a meter that is accepted.
        idle_s: how long to watch idle power first, where a meter needs it, s.
        sync: called before each reading; None for that of torch, where it is in use.
        meters: open meters; None for those that all windows of the process share.
        clock: monotonic time, s; another function in tests.

    Raises:
        UsageError: the name is not a text, or there is no such grade.
    """

    _pid: int
    _meters: tuple[Meter, ...]
    _before: tuple[Reading, ...]
    _spent: tuple[Block, ...]
    _seconds: float
    _since_s: float
    _open: int
    _calls: int
    _stretches: int
    _spoilt: str | None

    def __init__(
        self,
        name: str,
        *,
        min_grade: Grade | None = None,
        idle_s: float = 0.0,
        sync: Callable[[], object] | None = None,
        meters: Sequence[Meter] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not isinstance(name, str):
            raise UsageError('a window needs a name, as in: @joulewise.measure("predict")')
        _check_grade(min_grade)
        self.name = name
        self._min_grade = min_grade
        self._idle_s = idle_s
        self._sync = sync
        self._given = None if meters is None else tuple(meters)
        self._clock = clock
        self._born_in = os.getpid()
        self._begin_anew()

    def start(self) -> None:
        """Open the window; calls that overlap are one stretch.

        Raises:
            SensorError: no meter works here, or none of the grade that is asked for.
            UsageError: its meters were opened before a fork.
        """
        self._synchronise()
        with _SHARED.lock:
            if self._pid != os.getpid():
                self._begin_anew()
            if self._open == 0:
                self._meters = self._meters or self._find_meters()
                self._before = tuple(meter.read() for meter in self._meters)
                self._since_s = self._clock()
                self._stretches += 1
            self._open += 1
            self._calls += 1

    def stop(self) -> None:
        """Close the window.

        Raises:
            UsageError: it is not open, or was opened before a fork.
            SensorError: a counter cannot be read.
        """
        self._check_process()
        try:
            self._synchronise()
        except BaseException as error:
            self._spoilt = f"waiting for queued work failed: {type(error).__name__}: {error}"
            raise
        finally:
            self._close()

    def so_far(self) -> Window:
        """Return the totals until now, closed or not; queued work is not waited for.

        Raises:
            UsageError: it was never opened, or was opened before a fork.
            SensorError: a counter cannot be read.
        """
        with _SHARED.lock:
            if self._open == 0:
                return self.result
            self._check_process()
            self._check_spoilt()
            seconds = self._seconds + self._clock() - self._since_s
            return self._window(seconds, self._added_up())

    @property
    def result(self) -> Window:
        """What was spent in all calls.

        Raises:
            UsageError: it is still open, or was never opened.
            SensorError: a counter could not be read when it was closed.
        """
        with _SHARED.lock:
            if self._open:
                raise UsageError(
                    f"the window {self.name!r} is still open; end it first, or take so_far()"
                )
            self._check_spoilt()
            if not self._calls:
                raise UsageError(
                    f"the window {self.name!r} was never opened; use it in a with block, as a "
                    "decorator, or call start() and stop()"
                )
            return self._window(self._seconds, self._spent)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.stop()
        except Exception as failed:
            if error is None:
                raise
            error.add_note(f"joulewise: {failed}")

    def __call__(self, function: Function) -> Function:
        """Return `function` with every call of it in this window; it is its ``measure``.

        Args:
            function: a function or a coroutine function.

        Raises:
            UsageError: it is a generator, a class, or no function at all.
        """
        name = getattr(function, "__qualname__", repr(function))
        if not callable(function) or isinstance(function, type):
            raise UsageError(f"only functions can be measured, not {name}; use a with block")
        if _is(function, inspect.isgeneratorfunction, inspect.isasyncgenfunction):
            raise UsageError(
                f"{name} is a generator, whose caller's work runs between its own; use a with "
                "block around the loop instead"
            )
        wrapped = self._async(function) if _is(function, _is_async) else self._plain(function)
        wrapped.measure = self  # type: ignore[attr-defined]
        return cast("Function", wrapped)

    def _plain(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def measured(*args: object, **kwargs: object) -> object:
            with self:
                return function(*args, **kwargs)

        return measured

    def _async(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def measured(*args: object, **kwargs: object) -> object:
            with self:
                return await function(*args, **kwargs)

        return measured

    def _begin_anew(self) -> None:
        """Forget everything, as a forked child does when it opens the window itself."""
        self._pid = os.getpid()
        self._meters = self._before = self._spent = ()
        self._seconds = self._since_s = 0.0
        self._open = self._calls = self._stretches = 0
        self._spoilt = None

    def _find_meters(self) -> tuple[Meter, ...]:
        if self._given is not None and self._born_in != self._pid:
            raise UsageError(
                f"the meters of the window {self.name!r} were opened before a fork; open them in "
                "the child"
            )
        meters = self._given or _SHARED.meters()
        require_grade(meters, self._min_grade)
        watch_idle(meters, self._idle_s)
        return meters

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            raise UsageError(
                f"the window {self.name!r} was opened in process {self._pid} and cannot be closed "
                "in its fork; open one in the child"
            )
        if not self._open:
            raise UsageError(f"the window {self.name!r} is not open; call start() first")

    def _check_spoilt(self) -> None:
        if self._spoilt is not None:
            raise SensorError(f"the window {self.name!r} has no result: {self._spoilt}")

    def _synchronise(self) -> None:
        if self._sync is not None:
            self._sync()
        else:
            _wait_for_torch()

    def _close(self) -> None:
        with _SHARED.lock:
            self._open -= 1
            if self._open:
                return
            self._seconds += self._clock() - self._since_s
            try:
                self._spent = self._added_up()
            except BaseException as error:
                self._spoilt = str(error) or type(error).__name__
                raise

    def _added_up(self) -> tuple[Block, ...]:
        """Return what each meter counted in all stretches, the running one included."""
        earlier = self._spent or (Block(items=0, seconds=0.0, reading_j=0.0),) * len(self._meters)
        return tuple(
            _plus(old, before, meter.read(), calls=self._calls)
            for old, before, meter in zip(earlier, self._before, self._meters, strict=True)
        )

    def _window(self, seconds: float, spent: tuple[Block, ...]) -> Window:
        parts = tuple(
            Part(
                sensor=meter.sensor,
                blocks=(block,),
                idle_w=meter.idle_w,
                component=component_of(meter),
                warnings=tuple(_doubts(self.name, meter, block, self._stretches)),
            )
            for meter, block in zip(self._meters, spent, strict=True)
        )
        counted = [part for part in parts if part.component == "machine"] or parts
        return Window(
            name=self.name,
            seconds=seconds,
            parts=parts,
            net_j=_sum(part.net_j for part in counted),
            gross_j=_sum(part.gross_j for part in counted),
            grade=max(part.sensor.grade for part in counted),
            calls=self._calls,
            warnings=tuple(warning for part in parts for warning in part.warnings),
        )


class _Shared:
    """What the windows of a process share: one lock, and the meters once they are open."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew in a forked child, where another thread may have held the lock."""
        self.lock = threading.RLock()
        self._meters: tuple[Meter, ...] = ()

    def meters(self) -> tuple[Meter, ...]:
        """Return the meters of this process and its children; the lock is held."""
        self._meters = self._meters or open_meters([os.getpid()])
        return self._meters


_SHARED = _Shared()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_SHARED.reset)


def require_grade(
    meters: Iterable[Meter],
    min_grade: Grade | None,
    *,
    table: Registry[MeterType] = METERS,
) -> None:
    """Refuse meters that are worse than a grade.

    Args:
        meters: open meters.
        min_grade: the worst grade that is accepted; None accepts all.
        table: the meters that could be better.

    Raises:
        UsageError: there is no such grade.
        SensorError: a meter is worse; the line says what is missing for a better one.
    """
    _check_grade(min_grade)
    if min_grade is None:
        return
    for meter in meters:
        sensor = meter.sensor
        if sensor.grade > min_grade:
            advice = "; ".join(_advice(min_grade, component_of(meter), table))
            raise SensorError(
                f"{sensor.name} is of grade {sensor.grade}, but grade {min_grade} or better is "
                f"asked for: {advice or 'no such meter is known'}"
            )


def watch_idle(meters: Iterable[Meter], seconds: float) -> None:
    """Tell meters that include idle power and do not know it what it is.

    Args:
        meters: open meters; all are watched at the same time.
        seconds: how long, while nothing is asked of the machine, s; 0 does not watch.
    """
    unknown = [each for each in meters if each.sensor.includes_idle and each.idle_w is None]
    if not unknown or seconds <= 0:
        return
    before = [meter.read() for meter in unknown]
    time.sleep(seconds)
    for meter, first in zip(unknown, before, strict=True):
        last = meter.read()
        if last.time_s > first.time_s:
            meter.idle_w = (last.total_j - first.total_j) / (last.time_s - first.time_s)


def _advice(min_grade: Grade, component: Component, table: Registry[MeterType]) -> Iterable[str]:
    """Yield how to get each meter that would do."""
    for state in probe_meters(table):
        elsewhere = state.component not in (component, "machine", None)
        if elsewhere or (state.grade or "A") > min_grade or state.by_name_only:
            continue
        fix = "works here, ask for it by its name" if state.reason is None else state.reason
        yield f"{state.name}{f' (grade {state.grade})' if state.grade else ''}: {fix}"


def _check_grade(grade: str | None) -> None:
    if grade is not None and grade not in get_args(Grade):
        raise UsageError(f"there is no grade {grade!r}; it is one of {', '.join(get_args(Grade))}")


def _wait_for_torch() -> None:
    """Wait for the current CUDA device where torch is in use; torch is never imported for it."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is not None and cuda.is_initialized():
        cuda.synchronize()


def _is(function: object, *kinds: Callable[[object], bool]) -> bool:
    """Say whether a function, or an object that is called like one, is of one of the kinds."""
    call = getattr(type(function), "__call__", None)  # noqa: B004  (the method itself is asked)
    return any(kind(each) for kind in kinds for each in (function, call))


def _is_async(function: object) -> bool:
    return inspect.iscoroutinefunction(function)


def _plus(old: Block, before: Reading, after: Reading, *, calls: int) -> Block:
    return Block(
        items=calls,
        seconds=old.seconds + after.time_s - before.time_s,
        reading_j=old.reading_j + after.total_j - before.total_j,
    )


def _sum(joules: Iterable[Interval | None]) -> Interval | None:
    """Return the sum, whose bounds are those of the case that all sensors err alike."""
    known = list(joules)
    present = [each for each in known if each is not None]
    if len(present) < len(known):
        return None
    return Interval(
        low=sum(each.low for each in present),
        central=sum(each.central for each in present),
        high=sum(each.high for each in present),
    )


def too_short(what: str, sensor: Sensor, block: Block, stretches: int = 1) -> Iterable[str]:
    """Yield why a block is too short for its sensor, each with its remedy.

    Args:
        what: what was measured, as "the command".
        sensor: what measured it.
        block: the joules and seconds of all stretches.
        stretches: how many there were.
    """
    seconds, least_s = block.seconds / stretches, UPDATES * (sensor.update_period_s or 0.0)
    joules, least_j = block.reading_j / stretches, STEPS * (sensor.resolution_j or 0.0)
    remedy = "do more work between its start and its end"
    if seconds < least_s:
        yield (
            f"{what} lasted {seconds:.3g} s, less than the {least_s:.3g} s in which "
            f"{sensor.name} counts {UPDATES} times; {remedy}"
        )
    if joules < least_j:
        yield (
            f"{what} holds {joules:.3g} J, less than {STEPS} steps of {sensor.name} "
            f"({least_j:.3g} J); {remedy}"
        )


def _doubts(name: str, meter: Meter, block: Block, stretches: int) -> Iterable[str]:
    """Yield what makes a part less certain than its band says, each with its remedy."""
    sensor = meter.sensor
    yield from too_short(f"the window {name!r}", sensor, block, stretches)
    if sensor.includes_idle and meter.idle_w is None:
        yield (
            f"the idle power of {sensor.name} is not known, so there are no net joules; let it be "
            "watched first, as with idle_s=5"
        )
