"""Apply a pass in a fresh process: quantizers print, leak, crash and phone home."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

from joulewise.compress.material import Material
from joulewise.compress.passes import PASSES
from joulewise.core.child import Child
from joulewise.core.errors import PassError, ProgramError
from joulewise.core.recipe import Step
from joulewise.core.records import Artifact, describe_artifact

__all__ = ["Tell", "apply_step"]

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


def apply_step(
    step: Step,
    source: Path,
    material: Material,
    folder: Path,
    tell: Tell | None = None,
    limit_s: float = math.inf,
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
    with Child("joulewise.compress.worker", ENVIRONMENT) as child:
        try:
            files = child.ask(
                "apply",
                timeout_s=TIMEOUT_S,
                limit_s=limit_s,
                told=None if tell is None else lambda told: tell(*told),
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
