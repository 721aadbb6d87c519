"""LiteRT's interpreter, which runs what it can with XNNPACK, as is its default.

Source: LiteRT documentation, "LiteRT inference", Python; LiteRT Quantizer, the
`tfl_interpreter_utils` with which it runs quantized models itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from field_runtimes.plain import Array, PlainRuntime
from joulewise.core.recipe import RunSettings

__all__ = ["LiteRT"]


@dataclass(frozen=True, kw_only=True)
class _Tensor:
    """An input or output of the interpreter.

    Args:
        index: of the tensor.
        dtype: of its numbers.
        scale: a step of quantized numbers; 0 where they are not quantized.
        zero: the quantized number that stands for 0.
    """

    index: int
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
    """A model of one signature, whose inputs and outputs `litert_torch.convert` has numbered.

    Args:
        path: of the file; ``inputs.json`` beside it has the names of its inputs, in order.
        threads: inside one call; None for what LiteRT takes.
    """

    def __init__(self, path: Path, threads: int | None) -> None:
        from ai_edge_litert.interpreter import Interpreter

        names: list[str] = json.loads(path.with_name("inputs.json").read_text())
        self._interpreter = Interpreter(model_path=str(path), num_threads=threads)
        self._interpreter.allocate_tensors()
        signature = self._interpreter.get_signature_runner()
        taken, given = signature.get_input_details(), signature.get_output_details()
        self._inputs = {name: _tensor(taken[f"args_{number}"]) for number, name in enumerate(names)}
        self._outputs = [_tensor(given[f"output_{number}"]) for number in range(len(given))]

    def run(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        """Return all outputs in fresh arrays."""
        for name, tensor in self._inputs.items():
            self._interpreter.set_tensor(tensor.index, tensor.quantized(inputs[name]))
        self._interpreter.invoke()
        return [x.plain(self._interpreter.get_tensor(x.index)) for x in self._outputs]

    def close(self) -> None:
        """Nothing is held."""


def _tensor(details: Mapping[str, Any]) -> _Tensor:
    scale, zero = details["quantization"]
    return _Tensor(
        index=details["index"], dtype=np.dtype(details["dtype"]), scale=np.float32(scale), zero=zero
    )


class LiteRT(PlainRuntime):
    """Run a LiteRT file."""

    name = "litert"
    formats = ("tflite",)

    def open(
        self,
        path: Path,
        settings: RunSettings,
        shapes: Mapping[str, Sequence[int]],  # noqa: ARG002
    ) -> _Program:
        """Load the model."""
        return _Program(path, settings.threads)
