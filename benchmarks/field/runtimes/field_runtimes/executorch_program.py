"""ExecuTorch, by its Python bindings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from field_runtimes.plain import Array, PlainRuntime
from joulewise.core.recipe import RunSettings

__all__ = ["Executorch"]


class _Program:
    """A program in ExecuTorch's format.

    Args:
        path: a ``.pte`` file; the names of its inputs lie beside it, in a ``.json`` file.
        threads: inside one call; None for what ExecuTorch takes.
    """

    def __init__(self, path: Path, threads: int | None) -> None:
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime

        if threads is not None:
            portable_lib._unsafe_reset_threadpool(threads)  # noqa: SLF001 - there is no other way
        self._names: list[str] = json.loads(path.with_suffix(".json").read_text())
        self._program = Runtime.get().load_program(path)
        self._forward = self._program.load_method("forward")

    def run(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        """Return all outputs in fresh arrays."""
        import torch

        outputs = self._forward.execute([torch.from_numpy(inputs[name]) for name in self._names])
        return [output.numpy() for output in outputs]

    def close(self) -> None:
        """Nothing is held."""


class Executorch(PlainRuntime):
    """Run the program with the kernels that it was lowered to."""

    name = "executorch"
    formats = ("pte",)

    def open(
        self,
        path: Path,
        settings: RunSettings,
        shapes: Mapping[str, Sequence[int]],  # noqa: ARG002
    ) -> _Program:
        """Load the program."""
        return _Program(path, settings.threads)
