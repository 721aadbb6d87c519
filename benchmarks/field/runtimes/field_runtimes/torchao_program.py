"""PyTorch with the operators of torchao, and with its fusions for Inductor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

from field_runtimes.torch_program import Compiled, Program
from joulewise.core.recipe import RunSettings

__all__ = ["Torchao"]


class Torchao(Compiled):
    """Compile the program with Inductor, which torchao has taught its int8."""

    name = "torchao"

    def open(
        self, path: Path, settings: RunSettings, shapes: Mapping[str, Sequence[int]]
    ) -> Program:
        """Register operators and fusions, load the program and compile it."""
        import_module("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
        return super().open(path, settings, shapes)
