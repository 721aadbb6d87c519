"""A pass of somebody else that does harm where an average does not show it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from joulewise.compress.material import Material

MINUS = -1e6
"""Lower than any score."""


@dataclass(frozen=True, kw_only=True)
class Forgetful:
    """Make a classifier forget one of its classes.

    Args:
        label: number of the class that is never answered any more.
    """

    label: int

    def apply(self, source: Path, material: Material, folder: Path) -> tuple[str, ...]:
        """Write ``model.onnx``: the same graph, with a constant added to its scores."""
        import onnx
        from onnx import helper, numpy_helper
        from onnxruntime import InferenceSession

        scores = InferenceSession(source).run(None, material.calibrate.batch(0, 1))[0]
        offset = np.zeros(scores.shape[1], scores.dtype)
        offset[self.label] = MINUS
        model = onnx.load(source)
        name = model.graph.output[0].name
        for node in model.graph.node:
            node.output[:] = [f"{each}_known" if each == name else each for each in node.output]
            node.input[:] = [f"{each}_known" if each == name else each for each in node.input]
        model.graph.initializer.append(numpy_helper.from_array(offset, "forgotten"))
        model.graph.node.append(helper.make_node("Add", [f"{name}_known", "forgotten"], [name]))
        onnx.checker.check_model(model)
        onnx.save(model, folder / "model.onnx")
        return ("model.onnx",)
