"""What the runtimes here have in common: they are run with a number of threads, and no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from joulewise.core.profile import OperatorTime
from joulewise.core.recipe import RunSettings

__all__ = ["Array", "PlainRuntime"]

Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]


class PlainRuntime:
    """A runtime that only the side-by-side opens programs with."""

    name = ""
    formats: tuple[str, ...] = ()

    def as_found(self) -> RunSettings:
        """Return the settings of a user who sets nothing."""
        return RunSettings(runtime=self.name)

    def lossless(self, cpus: int) -> Sequence[RunSettings]:  # noqa: ARG002
        """Return one thread."""
        return [RunSettings(runtime=self.name, threads=1)]

    def lossy(self, best: RunSettings, instruction_sets: Sequence[str]) -> Sequence[RunSettings]:  # noqa: ARG002
        """Return nothing."""
        return ()

    def profile(
        self,
        path: Path,  # noqa: ARG002
        settings: RunSettings,  # noqa: ARG002
        batches: Sequence[Mapping[str, Array]],  # noqa: ARG002
    ) -> Sequence[OperatorTime]:
        """Return nothing: nobody asks for it here."""
        return ()
