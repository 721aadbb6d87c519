"""A program in a process of its own: measured from outside, a crash costs one trial."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import numpy as np

from joulewise.core.child import Child
from joulewise.core.energy import Timing
from joulewise.core.profile import Profile
from joulewise.core.recipe import RunSettings
from joulewise.export.program import RUNTIMES, Array
from joulewise.workload.store import Store

__all__ = ["ProgramProcess"]

PROFILE_S = 0.2
"""A mean over so many seconds tells which operators cost; their exact times nobody needs."""


class ProgramProcess:
    """A fresh process in which one artifact is open.

    Args:
        path: the artifact's main file.
        settings: how it is run.
        store: the items that timed blocks run over, in real order.
        batch_items: items per inference call.
        python: interpreter of the environment that has the runtime; None for this one.

    Raises:
        MissingExtraError: the runtime is not installed here.
        ProgramError: the runtime cannot open the artifact.
    """

    def __init__(
        self,
        path: Path,
        settings: RunSettings,
        store: Store,
        batch_items: int,
        python: Path | None = None,
    ) -> None:
        if python is None:
            RUNTIMES.require(settings.runtime)
        self.batch_items = batch_items
        self._path, self._settings = str(path.absolute()), asdict(settings)
        self._child = Child("joulewise.export.worker", python=python)
        try:
            self.load_s: float = self._child.ask(
                "open",
                path=self._path,
                settings=self._settings,
                store=str(store.folder.absolute()),
                batch_items=batch_items,
            )
        except BaseException:
            self._child.close()
            raise

    @property
    def pid(self) -> int:
        """Process id, for meters."""
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._child.alive

    def block(self, batches: int) -> Timing:
        """Run `batches` batches and return how long they took."""
        answer = self._child.ask("block", batches=batches)
        return Timing(items=batches * self.batch_items, **answer)

    def predict(self, store: Store, folder: Path, limit: int | None = None) -> list[Array]:
        """Return all outputs for the first `limit` items of `store`, kept in `folder`."""
        count = self._child.ask(
            "predict",
            timeout_s=24 * 3600.0,
            store=str(store.folder.absolute()),
            batch_items=self.batch_items,
            limit=limit,
            output=str(folder.absolute()),
        )
        return [np.load(folder / f"{i}.npy", allow_pickle=False) for i in range(count)]

    def profile(self, seconds: float = PROFILE_S) -> Profile:
        """Return where the time of a call goes, on the items that timed blocks run over.

        Args:
            seconds: about how long calls are timed as they are, and as long again by operator.

        Raises:
            ProgramError: the runtime cannot tell, or the process died.
        """
        answer = self._child.ask(
            "profile", path=self._path, settings=self._settings, seconds=seconds
        )
        return msgspec.convert(answer, Profile)

    def close(self) -> None:
        """End the process."""
        self._child.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
