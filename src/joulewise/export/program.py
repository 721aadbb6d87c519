"""What a runtime is: it opens an artifact and gives a program that answers batches.

Adding a runtime: one file with a class that has these members, one row in RUNTIMES.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from joulewise.core.profile import OperatorTime
from joulewise.core.recipe import RunSettings
from joulewise.core.registry import Entry, Registry

__all__ = ["RUNTIMES", "Program", "Runtime", "thread_counts"]

Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]


class Program(Protocol):
    """An artifact opened on its runtime."""

    def run(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        """Return all outputs in the model's order, in fresh arrays, when all are there."""
        ...

    def close(self) -> None:
        """Free what it holds; closing twice is harmless."""
        ...


class Runtime(Protocol):
    """A way to run artifacts of some `formats`."""

    formats: tuple[str, ...]

    def as_found(self) -> RunSettings:
        """Return the settings of a user who sets nothing."""
        ...

    def lossless(self, cpus: int) -> Sequence[RunSettings]:
        """Return settings that change joules and latency, not arithmetic; first one thread."""
        ...

    def lossy(self, best: RunSettings, instruction_sets: Sequence[str]) -> Sequence[RunSettings]:
        """Return settings that change the arithmetic of the same model, beside `best`."""
        ...

    def open(
        self, path: Path, settings: RunSettings, shapes: Mapping[str, Sequence[int]]
    ) -> Program:
        """Open an artifact for batches of `shapes`; raises whatever the library raises."""
        ...

    def profile(
        self, path: Path, settings: RunSettings, batches: Sequence[Mapping[str, Array]]
    ) -> Sequence[OperatorTime]:
        """Run each of `batches`, all of one shape, once, and return the mean times of a call.

        What only the first call does (packing weights, say) is left out.
        """
        ...


RUNTIMES: Registry[type[Runtime]] = Registry(
    "runtime",
    {
        "onnxruntime": Entry(
            target="joulewise.export.onnxruntime:OnnxRuntime",
            summary="ONNX Runtime on the CPU",
            requires=("onnxruntime", "onnx"),
            extra="onnx",
        ),
        "openvino": Entry(
            target="joulewise.export.openvino:OpenVino",
            summary="OpenVINO on the CPU",
            requires=("openvino",),
            extra="openvino",
        ),
        "litert": Entry(
            target="joulewise.export.litert:LiteRt",
            summary="LiteRT (TensorFlow Lite) on the CPU, for models converted by the litert pass",
            requires=("ai_edge_litert",),
            extra="litert",
        ),
    },
    group="joulewise.runtimes",
)


def thread_counts(cpus: int) -> tuple[int, ...]:
    """Return the thread counts worth trying: powers of two below `cpus`, and `cpus` itself."""
    powers = [1 << k for k in range(cpus.bit_length()) if 1 << k < cpus]
    return (*powers, cpus)
