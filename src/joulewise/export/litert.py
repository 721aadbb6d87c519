"""LiteRT, which was TensorFlow Lite, on the CPU.

Its interpreter runs what it can with XNNPACK, as is its default. A call costs a few microseconds,
less than those of other runtimes, and its int8 products are fast: it pays on small models.

Source: LiteRT documentation, "LiteRT inference", Python.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from joulewise.core.errors import ProgramError, one_line
from joulewise.core.profile import OperatorTime
from joulewise.core.recipe import RunSettings
from joulewise.export.program import thread_counts

__all__ = ["LiteRt"]

Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]


class LiteRt:
    """Open LiteRT files, whose batch is fixed."""

    formats = ("litert",)

    def as_found(self) -> RunSettings:
        """Return the settings of a user who sets nothing: one thread."""
        return RunSettings(runtime="litert")

    def lossless(self, cpus: int) -> Sequence[RunSettings]:
        """Return every thread count."""
        return [RunSettings(runtime="litert", threads=threads) for threads in thread_counts(cpus)]

    def lossy(self, best: RunSettings, instruction_sets: Sequence[str]) -> Sequence[RunSettings]:  # noqa: ARG002
        """Return nothing: the arithmetic is that of the file."""
        return ()

    def open(
        self,
        path: Path,
        settings: RunSettings,
        shapes: Mapping[str, Sequence[int]],
    ) -> _Program:
        """Open a file of one signature, whose inputs have the names of `shapes`.

        Raises:
            ProgramError: it is damaged, has other inputs, or they are of other shapes.
        """
        program = _Program(path, settings.threads)
        program.check(shapes)
        return program

    def profile(
        self,
        path: Path,  # noqa: ARG002
        settings: RunSettings,  # noqa: ARG002
        batches: Sequence[Mapping[str, Array]],  # noqa: ARG002
    ) -> Sequence[OperatorTime]:
        """Raise ProgramError: LiteRT's interface for Python tells no times of operators."""
        raise ProgramError("LiteRT's interface for Python does not tell where the time goes")


@dataclass(frozen=True, kw_only=True)
class _Tensor:
    """An input or output of the interpreter.

    Args:
        index: of the tensor.
        shape: of its values.
        dtype: of its numbers.
        scale: a step of quantized numbers; 0 where they are not quantized.
        zero: the quantized number that stands for 0.
    """

    index: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scale: np.float32
    zero: int

    def quantized(self, values: Array) -> Array:
        """Return what the interpreter takes."""
        if not self.scale:
            return values.astype(self.dtype, copy=False)
        steps = np.rint(values.astype(np.float32, copy=False) / self.scale) + self.zero
        limits = np.iinfo(self.dtype)
        clipped: Array = np.clip(steps, limits.min, limits.max).astype(self.dtype)
        return clipped

    def plain(self, values: Array) -> Array:
        """Return what stands behind the numbers that the interpreter gives."""
        return (values.astype(np.float32) - self.zero) * self.scale if self.scale else values


class _Program:
    """An interpreter; outputs are copied out."""

    def __init__(self, path: Path, threads: int | None) -> None:
        from ai_edge_litert.interpreter import Interpreter

        try:
            self._interpreter: Any = Interpreter(model_path=str(path), num_threads=threads)
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise ProgramError(
                f"LiteRT cannot open {path.name}: {one_line(error)}; the step litert writes files "
                "for it"
            ) from error
        signature = self._interpreter.get_signature_runner()
        taken, given = signature.get_input_details(), signature.get_output_details()
        self._inputs = {name: _tensor(details) for name, details in taken.items()}
        self._outputs = [_tensor(given[f"output_{number}"]) for number in range(len(given))]

    def check(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Raise ProgramError unless inputs of these shapes fit."""
        own = {name: tensor.shape for name, tensor in self._inputs.items()}
        asked = {name: tuple(shape) for name, shape in shapes.items()}
        if own != asked:
            raise ProgramError(f"LiteRT: the file takes {own}, not {asked}; convert it for these")

    def run(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        interpreter = self._interpreter
        for name, tensor in self._inputs.items():
            interpreter.set_tensor(tensor.index, tensor.quantized(inputs[name]))
        interpreter.invoke()
        return [tensor.plain(interpreter.get_tensor(tensor.index)) for tensor in self._outputs]

    def close(self) -> None:
        self._interpreter = None


def _tensor(details: Mapping[str, Any]) -> _Tensor:
    scale, zero = details["quantization"]
    return _Tensor(
        index=details["index"], shape=tuple(map(int, details["shape"])),
        dtype=np.dtype(details["dtype"]), scale=np.float32(scale), zero=zero,
    )  # fmt: skip
