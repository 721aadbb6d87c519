"""Time that a test moves."""

from __future__ import annotations

__all__ = ["FAR_S", "Clock"]

FAR_S = 1e6
"""A sampling period after which no test is still running."""


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        """Let seconds pass."""
        self.now_s += seconds
