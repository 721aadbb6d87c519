"""A cheap model first, and a better one for what it is unsure of: a cascade in one ONNX file."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from joulewise.compress.compose import inputs_of, self_contained
from joulewise.compress.gate import Terms
from joulewise.compress.material import Material
from joulewise.compress.passes import PASSES, check_step
from joulewise.compress.searched import searched
from joulewise.compress.stages import Stages, items_to_judge, join, require_classes
from joulewise.core.errors import PassError
from joulewise.core.recipe import Step, parse_steps

if TYPE_CHECKING:
    import onnx

__all__ = ["ORIGINAL", "Cascade"]

ORIGINAL = "original"


@dataclass(frozen=True, kw_only=True)
class Cascade:
    """Let the model answer what it is sure of, and a second one the rest.

    The result answers like the second stage where the first is unsure. Scores of the two are
    compared within an item only: they need not have the same scale.

    Args:
        second: "original", or steps that are applied to the original to get the second stage, as in
            a recipe: "static_int8(operators=compute)".
        threshold: items with less confidence are deferred; None finds the lowest that keeps `loss`.
        signal: what confidence is; see `joulewise.compress.gate.Gate`.
        loss: largest loss of quality against the second stage alone, as a fraction: of accuracy
            where the items have labels, else of agreement.
        confidence: of that.
        defer: smallest share of items to defer, in [0, 1), even where a smaller one keeps `loss`:
            among few items that is easily so by luck.
    """

    second: str = ORIGINAL
    threshold: float | None = None
    signal: str = searched("margin", "max_probability", "entropy")
    loss: float = 0.002
    confidence: float = 0.95
    defer: float = searched(0.0, 0.1, 0.2, 0.4)

    def __post_init__(self) -> None:
        self._terms()
        for step in self._steps():
            check_step(step)

    def apply(self, source: Path, material: Material, folder: Path) -> tuple[str, ...]:
        """Write ``model.onnx``; raises PassError where the two models do not fit together."""
        import onnx

        require_classes(material)
        if material.original is None or _digest(material.original) == _digest(source):
            raise PassError(
                "the model is still the original, which cannot be its own first stage; put steps "
                "that make it cheaper before the cascade"
            )
        _check_onnx(source)
        with tempfile.TemporaryDirectory(dir=folder) as made:
            second = self._make_second(material.original, material, Path(made))
            ours, theirs = (self_contained(onnx.load(path)) for path in (source, second))
            _check_inputs(ours, theirs)
            feeds = {value.name: value.name for value in inputs_of(theirs)}
            stages = Stages(first=source, second=second, rest=theirs, feeds=feeds)
            terms = self._terms()
            return join(stages, terms, items_to_judge(material, terms), folder)

    def _terms(self) -> Terms:
        return Terms(
            signal=self.signal,
            threshold=self.threshold,
            loss=self.loss,
            confidence=self.confidence,
            defer=self.defer,
        )

    def _steps(self) -> tuple[Step, ...]:
        return () if self.second == ORIGINAL else parse_steps(self.second)

    def _make_second(self, original: Path, material: Material, folder: Path) -> Path:
        """Return the model of the second stage; what is made for it lies in `folder`."""
        path = original
        for number, step in enumerate(self._steps()):
            part = f"second-{number}"
            (folder / part).mkdir()
            kept = material.checkpoint and material.checkpoint / part
            change = PASSES.load(step.name)(**step.parameters)
            files = change.apply(path, replace(material, checkpoint=kept), folder / part)
            path = folder / part / files[0]
            _check_onnx(path)
        return path


def _check_onnx(path: Path) -> None:
    if path.suffix != ".onnx":
        raise PassError(
            f"a stage is {path.suffix}, and only ONNX models can be joined; use static_int8 in "
            "place of nncf_int8 before a cascade"
        )


def _check_inputs(first: onnx.ModelProto, second: onnx.ModelProto) -> None:
    ours, theirs = ({x.name: x.type.tensor_type for x in inputs_of(m)} for m in (first, second))
    if ours.keys() != theirs.keys() or not all(_fit(ours[name], theirs[name]) for name in ours):
        raise PassError(
            f"the first stage takes {', '.join(ours)} and the second {', '.join(theirs)}, or not "
            "of the same types and shapes; both must take the same inputs"
        )


def _fit(one: onnx.TypeProto.Tensor, other: onnx.TypeProto.Tensor) -> bool:
    """Return whether two inputs can be the same: of one type, and no size of an item differs."""
    sizes = [[dim.dim_value for dim in x.shape.dim[1:]] for x in (one, other)]
    known = [pair for pair in zip(*sizes, strict=False) if all(size > 0 for size in pair)]
    same = one.elem_type == other.elem_type and len(sizes[0]) == len(sizes[1])
    return same and all(ours == theirs for ours, theirs in known)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
