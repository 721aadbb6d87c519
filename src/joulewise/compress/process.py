"""Apply a pass in a fresh process: quantizers print, leak, crash and phone home."""

from __future__ import annotations

import shutil
from pathlib import Path

from joulewise.compress.passes import PASSES
from joulewise.core.child import Child
from joulewise.core.errors import PassError, ProgramError
from joulewise.core.recipe import Step
from joulewise.core.records import Artifact, describe_artifact
from joulewise.workload.store import Store

__all__ = ["apply_step"]

NO_TELEMETRY = {"NNCF_CI": "1", "CI": "true", "HF_HUB_OFFLINE": "1"}
"""NNCF_CI replaces NNCF's telemetry by a stub (nncf/telemetry/wrapper.py); CI keeps
openvino_telemetry from sending (``disable_in_ci``)."""

TIMEOUT_S = 1800.0


def apply_step(step: Step, source: Path, calibration: Store, folder: Path) -> Artifact:
    """Apply one step to the model at `source` and return what was written to `folder`.

    What an interrupted run left in `folder` is removed first.

    Raises:
        PassError: the pass does not fit the model, or failed.
        MissingExtraError: its packages are not installed.
    """
    PASSES.require(step.name)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with Child("joulewise.compress.worker", NO_TELEMETRY) as child:
        try:
            files = child.ask(
                "apply",
                timeout_s=TIMEOUT_S,
                name=step.name,
                parameters=dict(step.parameters),
                source=str(source.absolute()),
                store=str(calibration.folder.absolute()),
                folder=str(folder.absolute()),
            )
        except ProgramError as error:
            raise PassError(f"{step} failed: {error}") from error
    kind = "openvino" if files[0].endswith(".xml") else "onnx"
    return describe_artifact(folder, files, kind)
