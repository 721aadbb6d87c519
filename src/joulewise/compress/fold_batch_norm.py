"""Fold batch normalisation into the layer before it; what the model computes stays the same.

Some runtimes do this while they load a model. The others, and passes that come after this one (a
quantizer that would give the normalisation a scale of its own, say), gain from a graph without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from joulewise.compress.material import Material
from joulewise.compress.static_int8 import batch_size
from joulewise.core.errors import PassError
from joulewise.learn.session import open_session

if TYPE_CHECKING:
    import onnx

__all__ = ["FoldBatchNorm"]

Array = np.ndarray[Any, np.dtype[Any]]

SAME_RATIO = 1e-3
"""Largest relative L2 difference of an output; float32 rounding stays well below it."""


@dataclass(frozen=True, kw_only=True)
class FoldBatchNorm:
    """Fold batch normalisation into the convolution or matrix product before it."""

    def apply(self, source: Path, material: Material, folder: Path) -> tuple[str, ...]:
        """Write ``model.onnx``; raises PassError where nothing can be folded."""
        import onnx

        from joulewise.learn.batch_norm import fold

        model = onnx.load(source)
        folded, count = fold(model)
        if not count:
            raise PassError(
                "the model has no batch normalisation that follows a convolution or Gemm directly"
            )
        onnx.checker.check_model(folded)
        _check_same(model, folded, material.calibrate.batch(0, batch_size(source)))
        onnx.save(folded, folder / "model.onnx")
        return ("model.onnx",)


def _check_same(
    model: onnx.ModelProto, folded: onnx.ModelProto, batch: Mapping[str, Array]
) -> None:
    """Raise PassError where ONNX Runtime finds that the two compute different things."""
    for expected, found in zip(_outputs(model, batch), _outputs(folded, batch), strict=True):
        if expected.dtype.kind != "f":
            continue
        with np.errstate(all="ignore"):
            off = np.linalg.norm(found.astype(np.float64) - expected)
            same = off <= SAME_RATIO * np.linalg.norm(expected.astype(np.float64))
        if not same:
            raise PassError("folding changed what the model computes; its variances are extreme")


def _outputs(model: onnx.ModelProto, batch: Mapping[str, Array]) -> list[Array]:
    session = open_session(model, rewrite=False)
    return [np.asarray(values) for values in session.run(None, dict(batch))]
