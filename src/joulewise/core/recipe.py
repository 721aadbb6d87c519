"""What was done to a model, as plain data that can be read, hashed and replayed.

A Recipe is a chain of Steps; the last one says how the result is run, because the run settings
are often the cheapest joules.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

__all__ = ["Recipe", "RunSettings", "Step"]

Value = str | int | float | bool


@dataclass(frozen=True, kw_only=True)
class Step:
    """One pass by its registry name, with its parameters."""

    name: str
    parameters: Mapping[str, Value] = field(default_factory=dict)

    def __str__(self) -> str:
        inside = ", ".join(f"{key}={value}" for key, value in sorted(self.parameters.items()))
        return f"{self.name}({inside})"


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How a program is run; None means whatever the runtime does when nobody asks.

    Args:
        runtime: registry name of the runtime.
        threads: threads inside one inference.
        spinning: whether idle worker threads burn CPU while they wait for work.
        graph: graph optimisation level, "basic" or "all".
        precision: precision of float arithmetic, "f32" or "bf16".
    """

    runtime: str
    threads: int | None = None
    spinning: bool | None = None
    graph: str | None = None
    precision: str | None = None

    def __str__(self) -> str:
        given = {k: v for k, v in asdict(self).items() if v is not None and k != "runtime"}
        return f"run({', '.join([self.runtime, *(f'{k}={v}' for k, v in given.items())])})"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Steps applied to the original in order, and how the result is run."""

    steps: tuple[Step, ...] = ()
    run: RunSettings

    def __str__(self) -> str:
        return " -> ".join([*(str(step) for step in self.steps), str(self.run)])

    @property
    def lossless(self) -> bool:
        """True where nothing but the way of running differs from the original."""
        return not self.steps and self.run.precision in (None, "f32")

    @property
    def key(self) -> str:
        """A short digest that names this recipe in a study."""
        return _digest(asdict(self))

    @property
    def steps_key(self) -> str:
        """A short digest that names the artifact which the steps give."""
        return _digest(asdict(self)["steps"])


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
