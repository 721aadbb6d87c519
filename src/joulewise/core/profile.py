"""Where the time of one call of a program goes, by operator type."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["OperatorTime", "Profile", "Work", "longest_first"]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What the products of a graph do in one call, counted, not measured.

    Args:
        mac: multiply-adds.
        moved_bytes: bytes of their weights, inputs and outputs, each once per product.
    """

    mac: int
    moved_bytes: int

    @property
    def mac_per_byte(self) -> float:
        """Arithmetic intensity, in multiply-adds per byte; 0 where nothing is moved."""
        return self.mac / self.moved_bytes if self.moved_bytes else 0.0


@dataclass(frozen=True, kw_only=True)
class OperatorTime:
    """The operators of one type.

    Args:
        kind: their type, as the runtime calls it after its own optimisation of the graph.
        count: how many of them run in one call, on average: a branch may be taken or not.
        seconds: time that they take in one call, s.
        kernels: names of the kernels that ran, in which OpenVINO tells instruction set and
            arithmetic (``jit_avx512_f32``); empty where the runtime does not tell.
    """

    kind: str
    count: float
    seconds: float
    kernels: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Where the time of one call goes; a call answers one batch.

    Args:
        runtime: registry name of the runtime.
        batch_items: items per call.
        calls: calls that the profile is the mean of.
        call_s: mean time of a call from Python while nothing is profiled, s.
        operators: by operator type, the longest first.
        work: counts of the graph, None where they are not known.
    """

    runtime: str
    batch_items: int
    calls: int
    call_s: float
    operators: tuple[OperatorTime, ...]
    work: Work | None = None

    @property
    def operators_s(self) -> float:
        """Time inside operators, s; profiling them makes it a little longer than it is."""
        return sum(operator.seconds for operator in self.operators)

    @property
    def outside_s(self) -> float:
        """Time of a call outside operators: Python, checks, copies, threads; at least 0, s."""
        return max(0.0, self.call_s - self.operators_s)

    @property
    def total_s(self) -> float:
        """Time inside operators and outside, s, of which shares are told."""
        return self.operators_s + self.outside_s

    @property
    def shares(self) -> dict[str, float]:
        """Operator type -> share of the call's time; with `outside_ratio` they add up to 1."""
        return {each.kind: _share(each.seconds, self.total_s) for each in self.operators}

    @property
    def outside_ratio(self) -> float:
        """Share of the call's time outside operators."""
        return _share(self.outside_s, self.total_s)


def longest_first(operators: Iterable[OperatorTime]) -> tuple[OperatorTime, ...]:
    """Return operator types, those that take longest first."""
    return tuple(sorted(operators, key=lambda each: (-each.seconds, each.kind)))


def _share(part_s: float, whole_s: float) -> float:
    return part_s / whole_s if whole_s else 0.0
