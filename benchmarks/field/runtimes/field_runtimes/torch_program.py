"""PyTorch: a program that `torch.export` saved, run as it is or compiled.

Compiling is that of the documentation of quantization for x86: Inductor, with frozen weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from field_runtimes.plain import Array, PlainRuntime
from joulewise.core.recipe import RunSettings

__all__ = ["Compiled", "Eager", "Program"]


class Program:
    """A saved program.

    Args:
        path: the file that `torch.export.save` wrote, with the names of its inputs.
        threads: inside one call; None for what PyTorch takes.
        compiled: by Inductor, when it is opened.
    """

    def __init__(self, path: Path, threads: int | None, *, compiled: bool) -> None:
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        beside = {"inputs.json": ""}
        saved = torch.export.load(path, extra_files=beside)
        self._names: list[str] = json.loads(beside["inputs.json"])
        self._module: Callable[..., Any] = saved.module()
        if compiled:
            import torch._inductor.config as inductor

            inductor.freezing = True
            self._module = torch.compile(self._module)
            self.run(
                {
                    name: x.numpy()
                    for name, x in zip(self._names, saved.example_inputs[0], strict=True)
                }
            )

    def run(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        """Return all outputs in fresh arrays."""
        import torch

        with torch.inference_mode():
            found = self._module(*(torch.from_numpy(inputs[name]) for name in self._names))
        outputs = found if isinstance(found, tuple | list) else (found,)
        return [output.numpy().copy() for output in outputs]

    def close(self) -> None:
        """Nothing is held."""


class Eager(PlainRuntime):
    """Run the program operator by operator."""

    name = "torch"
    formats = ("pt2",)

    def open(
        self,
        path: Path,
        settings: RunSettings,
        shapes: Mapping[str, Sequence[int]],  # noqa: ARG002
    ) -> Program:
        """Load the program."""
        return Program(path, settings.threads, compiled=False)


class Compiled(PlainRuntime):
    """Compile the program with Inductor first."""

    name = "torch-compiled"
    formats = ("pt2",)

    def open(
        self,
        path: Path,
        settings: RunSettings,
        shapes: Mapping[str, Sequence[int]],  # noqa: ARG002
    ) -> Program:
        """Load the program and compile it."""
        return Program(path, settings.threads, compiled=True)
