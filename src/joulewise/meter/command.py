"""Run any command and tell what it cost.

The command keeps our standard streams and its exit code. Its CPU time comes from ``wait4``: exact,
with all children that were waited for. Ctrl-C is the command's own affair; we report all the same.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from enum import Enum

from joulewise.core.energy import Block, Grade, Meter, Part, Reading
from joulewise.core.errors import UsageError
from joulewise.meter.cpu_time import CpuTimeMeter
from joulewise.meter.table import component_of, open_meter, open_meters
from joulewise.meter.window import require_grade, too_short, watch_idle

__all__ = ["BilledRun", "CommandMeasurement", "Streams", "bill_command", "measure_command"]

DEFAULTED_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ)
"""Ignored by Python, expected by commands. Source: restore_signals of the subprocess module."""


@dataclass(frozen=True, kw_only=True)
class CommandMeasurement:
    """What a command cost.

    Args:
        argv: the command and its arguments.
        exit_code: its exit code; 128 + the signal's number where a signal ended it.
        measurement: one block of one item.
        others: the same of other components, of the graphics cards for instance; their joules
            are not among those of `measurement`.
    """

    argv: tuple[str, ...]
    exit_code: int
    measurement: Part
    others: tuple[Part, ...] = ()

    @property
    def parts(self) -> tuple[Part, ...]:
        """All components, each once."""
        return (self.measurement, *self.others)


class Streams(Enum):
    """Where the streams of a command lead."""

    INHERITED = "all three are ours"
    STDERR = "no input; output and errors go to our stderr"
    NOWHERE = "no input; output and errors are dropped"


@dataclass(frozen=True, kw_only=True)
class BilledRun:
    """One run of a command.

    Args:
        exit_code: its exit code; 128 + the signal's number where a signal ended it.
        block: one block of one item.
    """

    exit_code: int
    block: Block


@dataclass(frozen=True, kw_only=True)
class _Exit:
    """How a child ended and the CPU time of it and its children, s."""

    code: int
    cpu_s: float


def measure_command(
    argv: Sequence[str],
    *,
    meter_name: str | None = None,
    min_grade: Grade | None = None,
    idle_s: float = 0.0,
    during: Callable[[Sequence[Meter]], AbstractContextManager[object]] | None = None,
) -> CommandMeasurement:
    """Run a command to its end and measure it.

    Args:
        argv: the command and its arguments; no shell is involved.
        meter_name: name in METERS; None takes the best of each component that works here.
        min_grade: run nothing where a meter is worse than this: "B" refuses estimates.
        idle_s: how long to watch idle power first, where a meter includes it, s.
        during: given the meters, returns what is entered before the command and left after it.

    Raises:
        UsageError: there is no command, it cannot be run, or no meter or grade has that name.
        SensorError: the meter does not work here, or is of a worse grade.
    """
    if not argv:
        raise UsageError("no command given; write it after --, as in: joulewise measure -- ls")
    with ExitStack() as opened:
        meters = _open(meter_name)
        for each in meters:
            opened.callback(each.close)
        require_grade(meters, min_grade)
        watch_idle(meters, idle_s)
        if during is not None:
            opened.enter_context(during(meters))
        meter, *others = meters
        before = [other.read() for other in others]
        with _interrupts_left_to_child():
            run = bill_command(argv, meter)
        blocks = [_between(a, other.read()) for a, other in zip(before, others, strict=True)]
    return CommandMeasurement(
        argv=tuple(argv),
        exit_code=run.exit_code,
        measurement=_part(meter, run.block),
        others=tuple(_part(other, block) for other, block in zip(others, blocks, strict=True)),
    )


def bill_command(
    argv: Sequence[str], meter: Meter, streams: Streams = Streams.INHERITED
) -> BilledRun:
    """Run a command to its end and tell what it cost; it does not outlive an exception here.

    Args:
        argv: the command and its arguments; no shell is involved.
        meter: opened on this process.
        streams: where its streams lead.

    Raises:
        UsageError: the command cannot be run.
    """
    started = meter.read()
    before_s = time.monotonic()
    ended = _run(argv, streams)
    seconds = time.monotonic() - before_s
    block = _block(meter, started, ended, seconds)
    return BilledRun(exit_code=ended.code, block=block)


def _open(name: str | None) -> Sequence[Meter]:
    pids = [os.getpid()]
    return open_meters(pids) if name is None else (open_meter(pids, name=name),)


def _part(meter: Meter, block: Block) -> Part:
    return Part(
        sensor=meter.sensor,
        blocks=(block,),
        idle_w=meter.idle_w,
        component=component_of(meter),
        warnings=tuple(too_short("the command", meter.sensor, block)),
    )


def _between(before: Reading, after: Reading) -> Block:
    return Block(
        items=1,
        seconds=after.time_s - before.time_s,
        reading_j=after.total_j - before.total_j,
    )


def _block(meter: Meter, started: Reading, ended: _Exit, seconds: float) -> Block:
    """Return the command's joules and the seconds they belong to.

    An estimate from CPU time bills the command alone. A counter's joules are those between two
    readings, which a slow instrument takes some time before and after the command.
    """
    if isinstance(meter, CpuTimeMeter):
        joules = meter.joules_of(ended.cpu_s)
        return Block(items=1, seconds=seconds, reading_j=joules, cpu_s=ended.cpu_s)
    return replace(_between(started, meter.read()), cpu_s=ended.cpu_s)


def _run(argv: Sequence[str], streams: Streams) -> _Exit:
    pid = _spawn(argv, streams)
    try:
        _, status, usage = os.wait4(pid, 0)
    except BaseException:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.wait4(pid, 0)
        raise
    code = os.waitstatus_to_exitcode(status)
    return _Exit(code=code if code >= 0 else 128 - code, cpu_s=usage.ru_utime + usage.ru_stime)


def _spawn(argv: Sequence[str], streams: Streams) -> int:
    try:
        return os.posix_spawnp(
            argv[0],
            list(argv),
            os.environ,
            file_actions=_file_actions(streams),
            setsigdef=DEFAULTED_SIGNALS,
        )
    except OSError as error:
        reason = "command not found" if isinstance(error, FileNotFoundError) else error.strerror
        raise UsageError(f"cannot run {argv[0]!r}: {reason}; check its name and path") from error


def _file_actions(streams: Streams) -> list[tuple[object, ...]]:
    if streams is Streams.INHERITED:
        return []
    no_input = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    if streams is Streams.STDERR:
        return [no_input, (os.POSIX_SPAWN_DUP2, 2, 1)]
    return [no_input, *((os.POSIX_SPAWN_OPEN, n, os.devnull, os.O_WRONLY, 0) for n in (1, 2))]


@contextmanager
def _interrupts_left_to_child() -> Iterator[None]:
    """Let Ctrl-C end the child only, which the terminal sends it to as well.

    A handler, unlike SIG_IGN, is not inherited by the child. Where the caller ignores the signal,
    or this is not the main thread, nothing is changed.
    """
    previous = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if not main or previous in (signal.SIG_IGN, None):
        yield
        return
    signal.signal(signal.SIGINT, lambda _number, _frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
