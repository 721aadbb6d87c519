"""Run any command and tell what it cost.

The command keeps our standard streams and its exit code. Its CPU time comes from ``wait4``: exact,
with all children that were waited for. Ctrl-C is the command's own affair; we report all the same.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

from joulewise.core.energy import Block, Measurement, Meter
from joulewise.core.errors import UsageError
from joulewise.meter.cpu_time import CpuTimeMeter
from joulewise.meter.table import open_meter

__all__ = ["CommandMeasurement", "measure_command"]

DEFAULTED_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ)
"""Ignored by Python, expected by commands. Source: restore_signals of the subprocess module."""


@dataclass(frozen=True, kw_only=True)
class CommandMeasurement:
    """What a command cost.

    Args:
        argv: the command and its arguments.
        exit_code: its exit code; 128 + the signal's number where a signal ended it.
        measurement: one block of one item.
    """

    argv: tuple[str, ...]
    exit_code: int
    measurement: Measurement


@dataclass(frozen=True, kw_only=True)
class _Exit:
    """How a child ended and the CPU time of it and its children, s."""

    code: int
    cpu_s: float


def measure_command(argv: Sequence[str], *, meter_name: str | None = None) -> CommandMeasurement:
    """Run a command to its end and measure it.

    Args:
        argv: the command and its arguments; no shell is involved.
        meter_name: name in METERS; None takes the best that works here.

    Raises:
        UsageError: there is no command, it cannot be run, or no meter has that name.
        SensorError: the meter does not work here.
    """
    if not argv:
        raise UsageError("no command given; write it after --, as in: joulewise measure -- ls")
    with closing(open_meter([os.getpid()], name=meter_name)) as meter:
        started = meter.read()
        before_s = time.monotonic()
        ended = _run(argv)
        seconds = time.monotonic() - before_s
        block = Block(
            items=1,
            seconds=seconds,
            reading_j=_command_j(meter, started.total_j, ended.cpu_s),
            cpu_s=ended.cpu_s,
        )
        measurement = Measurement(sensor=meter.sensor, blocks=(block,), idle_w=meter.idle_w)
    return CommandMeasurement(argv=tuple(argv), exit_code=ended.code, measurement=measurement)


def _command_j(meter: Meter, before_j: float, cpu_s: float) -> float:
    """Return the command's joules; an estimate from CPU time bills the command alone."""
    if isinstance(meter, CpuTimeMeter):
        return meter.joules_of(cpu_s)
    return meter.read().total_j - before_j


def _run(argv: Sequence[str]) -> _Exit:
    with _interrupts_left_to_child():
        pid = _spawn(argv)
        _, status, usage = os.wait4(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return _Exit(code=code if code >= 0 else 128 - code, cpu_s=usage.ru_utime + usage.ru_stime)


def _spawn(argv: Sequence[str]) -> int:
    try:
        return os.posix_spawnp(argv[0], list(argv), os.environ, setsigdef=DEFAULTED_SIGNALS)
    except OSError as error:
        reason = "command not found" if isinstance(error, FileNotFoundError) else error.strerror
        raise UsageError(f"cannot run {argv[0]!r}: {reason}; check its name and path") from error


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
