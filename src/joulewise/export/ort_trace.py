"""Read the trace that ONNX Runtime writes of itself: one event per operator and call.

An operator with a body (``If``, ``Loop``) is timed as a whole, and so is each operator in the body.
What the body takes is therefore taken off the operator around it, so that times add up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from joulewise.core.errors import ProgramError
from joulewise.core.profile import OperatorTime, longest_first

__all__ = ["operators_of_trace"]

CALL = "model_run"
KERNEL = "_kernel_time"


class Event(msgspec.Struct, frozen=True):
    """One event: name, category, begin and length in microseconds, thread, and what it is of."""

    name: str
    ts: int
    dur: int
    cat: str = ""
    tid: int = 0
    args: dict[str, Any] = {}

    @property
    def ends(self) -> int:
        return self.ts + self.dur


def operators_of_trace(trace: bytes, calls: int) -> tuple[OperatorTime, ...]:
    """Return mean times of a call by operator type, the longest first.

    Args:
        trace: JSON as written by a session with ``enable_profiling``.
        calls: how many of the calls count, the last ones; those before warmed up.

    Raises:
        ProgramError: the trace cannot be read, or has fewer calls.
    """
    try:
        events = msgspec.json.decode(trace, type=list[Event])
    except msgspec.DecodeError as error:
        raise ProgramError(f"ONNX Runtime's trace cannot be read: {error}") from error
    began = sorted(event.ts for event in events if event.name == CALL)
    if not 0 < calls <= len(began):
        raise ProgramError(f"ONNX Runtime's trace has {len(began)} calls, not {calls}")
    since = began[-calls]
    total_us: dict[str, list[int]] = defaultdict(list)
    for kind, own_us in _own_times(event for event in events if event.ts >= since):
        total_us[kind].append(own_us)
    return longest_first(
        OperatorTime(kind=kind, count=len(us) / calls, seconds=1e-6 * sum(us) / calls)
        for kind, us in total_us.items()
    )


def _own_times(events: Iterable[Event]) -> Iterator[tuple[str, int]]:
    """Yield the type of each operator that ran, and its time without what its body took, us."""
    kernels = [e for e in events if e.cat == "Node" and e.name.endswith(KERNEL)]
    around: dict[int, list[tuple[Event, list[int]]]] = defaultdict(list)
    for event in sorted(kernels, key=lambda e: (e.ts, -e.dur)):
        open_ = around[event.tid]
        while open_ and open_[-1][0].ends <= event.ts:
            yield _own_time(*open_.pop())
        if open_:
            open_[-1][1].append(event.dur)
        open_.append((event, []))
    for open_ in around.values():
        yield from (_own_time(event, inside) for event, inside in open_)


def _own_time(event: Event, inside: list[int]) -> tuple[str, int]:
    return str(event.args.get("op_name", "unknown")), max(0, event.dur - sum(inside))
