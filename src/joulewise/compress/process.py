"""Apply passes in fresh processes: quantizers print, leak, crash and phone home."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Self

from joulewise.compress.material import Material
from joulewise.compress.passes import PASSES
from joulewise.core.child import FORKS, Child
from joulewise.core.errors import PassError, ProgramError
from joulewise.core.recipe import Step
from joulewise.core.records import Artifact, describe_artifact

__all__ = ["Tell", "Workshop", "apply_step"]

ENVIRONMENT = {
    "NNCF_CI": "1",
    "CI": "true",
    "HF_HUB_OFFLINE": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
}
"""NNCF_CI replaces NNCF's telemetry by a stub (nncf/telemetry/wrapper.py); CI keeps
openvino_telemetry from sending (``disable_in_ci``). OMP_WAIT_POLICY makes threads sleep while they
wait for each other (OpenMP 5.2, section 21.7): where others use the CPU too, threads that spin
instead make training many times slower. The last two (mallopt(3), M_MMAP_MAX, M_TRIM_THRESHOLD)
keep memory for its next use: glibc gives blocks above 32 MiB back each time, and that the kernel
clears them anew took a third of the CPU time of training MiniLM at 64 items a step."""

FORMATS = {".xml": "openvino", ".tflite": "litert"}
"""Suffix of a main file -> format; others are ONNX."""

TIMEOUT_S = 1800.0
"""Longest silence of a pass, s: of one that trains, between two of its reports."""

Tell = Callable[[float, str], None]
"""Called with the share of the pass that is done, in [0, 1], and a few words."""


class Workshop:
    """Where steps are applied one after the other, by the thread that made it.

    Each has a fresh process, but what takes seconds to import is imported once for all of them,
    where `joulewise.core.child` can copy a process.
    """

    def __init__(self) -> None:
        self._child: Child | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process that is kept, if there is one."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def ask(self, tell: Tell | None, limit_s: float, **arguments: object) -> list[str]:
        """Return what a pass wrote; the process that is asked is kept if it then is idle.

        Args:
            tell: told of the progress of a pass that reports it.
            limit_s: longest time that it may take, s.
            arguments: of `joulewise.compress.worker.apply`.

        Raises:
            TimeoutError: it took longer than `limit_s`.
            ProgramError: it failed.
        """
        if self._child is not None and not self._child.idle:  # killed since the last step
            self.close()
        worker, self._child = self._child or Child("joulewise.compress.worker", ENVIRONMENT), None
        with ExitStack() as stack:
            stack.push(worker)
            try:
                files: list[str] = worker.ask(
                    "apply",
                    timeout_s=TIMEOUT_S,
                    limit_s=limit_s,
                    told=None if tell is None else lambda told: tell(*told),
                    **arguments,
                )
            finally:
                if FORKS and worker.idle:
                    self._child = worker
                    stack.pop_all()
        return files


def apply_step(
    step: Step,
    source: Path,
    material: Material,
    folder: Path,
    tell: Tell | None = None,
    limit_s: float = math.inf,
    workshop: Workshop | None = None,
) -> Artifact:
    """Apply one step to the model at `source` and return what was written to `folder`.

    What an interrupted run left in `folder` is removed first. What it kept on purpose lies beside
    it, in a folder of the same name with ``.progress`` added, and is gone on from.

    Args:
        step: the pass and its parameters.
        source: the model to change.
        material: what it may learn from; its own checkpoint folder is not used.
        folder: where the new model goes.
        tell: told of the progress of a pass that reports it.
        limit_s: longest time that it may take, s.
        workshop: where steps before it were applied; None makes one for this step alone.

    Raises:
        TimeoutError: it took longer than `limit_s`.
        PassError: the pass does not fit the model, or failed.
        MissingExtraError: its packages are not installed.
    """
    PASSES.require(step.name)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    checkpoint = folder.with_name(f"{folder.name}.progress")
    stores = {"calibrate": material.calibrate, "train": material.train, "search": material.search}
    with nullcontext(workshop) if workshop is not None else Workshop() as used:
        try:
            files = used.ask(
                tell,
                limit_s,
                name=step.name,
                parameters=dict(step.parameters),
                source=str(source.absolute()),
                stores={k: str(v.folder.absolute()) for k, v in stores.items() if v is not None},
                original=None if material.original is None else str(material.original.absolute()),
                seed=material.seed,
                values=material.values,
                batch_items=material.batch_items,
                training_s=material.training_s,
                checkpoint=str(checkpoint.absolute()),
                folder=str(folder.absolute()),
            )
        except ProgramError as error:
            raise PassError(f"{step} failed: {error}") from error
    shutil.rmtree(checkpoint, ignore_errors=True)
    return describe_artifact(folder, files, FORMATS.get(Path(files[0]).suffix, "onnx"))
