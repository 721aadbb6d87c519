"""OpenVINO on the CPU.

Shapes are made static, because the batch is known; float arithmetic is pinned to f32, because
OpenVINO otherwise rounds to bfloat16 on CPUs that have it, which is a change of the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from joulewise.core.errors import ProgramError
from joulewise.core.recipe import RunSettings
from joulewise.export.program import Program, thread_counts

__all__ = ["OpenVino"]

Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]


class OpenVino:
    """Open ONNX files and OpenVINO IR on OpenVINO's CPU device."""

    formats = ("onnx", "openvino")

    def as_found(self) -> RunSettings:
        """Return the settings of a user who sets nothing."""
        return RunSettings(runtime="openvino")

    def lossless(self, cpus: int) -> Sequence[RunSettings]:
        """Return every thread count in f32."""
        return [
            RunSettings(runtime="openvino", threads=threads, precision="f32")
            for threads in thread_counts(cpus)
        ]

    def lossy(self, best: RunSettings, instruction_sets: Sequence[str]) -> Sequence[RunSettings]:
        """Return bfloat16 arithmetic where the CPU has it."""
        if "bf16" not in instruction_sets:
            return ()
        return [RunSettings(runtime="openvino", threads=best.threads, precision="bf16")]

    def open(
        self, path: Path, settings: RunSettings, shapes: Mapping[str, Sequence[int]]
    ) -> Program:
        """Open an ONNX or IR file with static `shapes`; raises ProgramError where that fails."""
        import openvino

        core = openvino.Core()
        try:
            model = core.read_model(path)
            names = {name: port for port in model.inputs for name in port.get_names()}
            model.reshape({names[name]: list(shape) for name, shape in shapes.items()})
            compiled = core.compile_model(model, "CPU", compile_options(settings))
        except RuntimeError as error:
            raise ProgramError(f"OpenVINO: {_reason(error)}") from error
        return _Request(compiled.create_infer_request(), [p.get_any_name() for p in model.inputs])


class _Request:
    """An infer request; `share_inputs` avoids a copy, outputs are copied out."""

    def __init__(self, request: Any, names: Sequence[str]) -> None:  # noqa: ANN401
        self._request = request
        self._names = names

    def run(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        results = self._request.infer(
            {i: inputs[name] for i, name in enumerate(self._names)}, share_inputs=True
        )
        return list(results.values())

    def close(self) -> None:
        self._request = None


def _reason(error: RuntimeError) -> str:
    """Return the text of an OpenVINO error in one line, without the places in its source code."""
    lines = str(error).splitlines()
    return " ".join(
        line.strip() for line in lines if line and not line.startswith("Exception from")
    )


def compile_options(settings: RunSettings) -> dict[str, str]:
    """Return the properties that `settings` stand for."""
    options = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}
    if settings.threads is not None:
        options["INFERENCE_NUM_THREADS"] = str(settings.threads)
    if settings.precision is not None:
        options["INFERENCE_PRECISION_HINT"] = settings.precision
    return options
