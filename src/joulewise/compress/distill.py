"""Teach a changed model to do the original's job again.

A pruned model has lost part of what it knew. Here it learns it back from the original's answers,
and from labels where the user gave them. Batch normalisation that the exporter had folded away is
put back for the training and folded away again, so the graph that comes out has the operators of
the one that went in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from joulewise.compress.material import Material
from joulewise.compress.trim_padding import MASK, lengths
from joulewise.core.child import tell
from joulewise.core.errors import PassError
from joulewise.learn.plan import Lessons, Pair, Plan

if TYPE_CHECKING:
    import onnx

    from joulewise.learn.items import Rows
    from joulewise.learn.network import Network
    from joulewise.workload.store import Store

__all__ = ["Distill", "fixed_items", "lengths_of", "paired_layers"]

FEW_ITEMS = 2
"""Items on which it is checked that torch computes what ONNX Runtime does."""

NORM_BATCH_ITEMS = 64
"""Calibration items at a time, where the graph does not fix their number."""

MASK_AXES = 2
"""Items and places: a mask of other axes says more than where padding is."""

PAIRS = 4
"""Inner layers that are compared, evenly spread from first to last."""


@dataclass(frozen=True, kw_only=True)
class Distill:
    """Train a model on the answers of the original, and on labels where there are any.

    Args:
        epochs: times that every training item is seen.
        rate: highest learning rate.
        batch_items: items per step.
        temperature: of the distributions over classes in which the two models are compared.
        label_weight: share of the labels in the loss, [0, 1]; the rest is the original's.
        augment: "none", or "flip", "shift", "flip_shift" for images, or "mixup" for floats. Name
            a flip only where left and right do not matter.
        features: weight of the difference between inner layers, 0 for none.
        patience: epochs without a better score on the search items after which training ends, 0
            for never.
    """

    epochs: int = 3
    rate: float = 3e-3
    batch_items: int = 64
    temperature: float = 4.0
    label_weight: float = 0.1
    augment: str = "none"
    features: float = 0.0
    patience: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError where a value is outside its range."""
        self._plan(seed=0)

    def apply(self, source: Path, material: Material, folder: Path) -> tuple[str, ...]:
        """Write ``model.onnx``; raises PassError where there is nothing to train or learn from."""
        if material.train is None:
            raise PassError("there is nothing to learn from; name training items with --train")
        import onnx

        from joulewise.learn.batch_norm import FEWEST_ITEMS, fold, insert
        from joulewise.learn.fixed_batch import FixedBatch
        from joulewise.learn.graph import flexible, plain
        from joulewise.learn.network import Network, check_same, save_network
        from joulewise.learn.trainer import train

        original = material.original or source
        known, model = plain(onnx.load(original)), flexible(onnx.load(source))
        teacher, student = Network(known), Network(model)
        few = material.calibrate.batch(0, student.fixed_items or FEW_ITEMS)
        check_same(teacher, original, few)
        check_same(student, source, few)
        fixed = fixed_items(student, teacher, material)
        if fixed is None or fixed >= FEWEST_ITEMS:
            model = insert(model, material.calibrate.batches(fixed or NORM_BATCH_ITEMS))
            student = Network(model)
        pairs = paired_layers(student, model.graph, teacher, known.graph) if self.features else ()
        pupil, master = (x if fixed is None else FixedBatch(x, fixed) for x in (student, teacher))
        lessons = Lessons(
            train=material.train,
            search=material.search,
            inputs=student.inputs,
            teacher=master,
            pairs=tuple(_within(pair, fixed) for pair in pairs),
            values=material.values,
            lengths=lengths_of(material.train),
        )
        train(
            pupil,
            lessons,
            self._plan(material.seed),
            checkpoint=material.checkpoint,
            tell=lambda share, words: tell((share, words)),
            stop=material.pays_no_more,
        )
        folded, _ = fold(student.to_onnx())
        target = folder / "model.onnx"
        save_network(Network(folded), target)
        check_same(student, target, few)
        return (target.name,)

    def _plan(self, seed: int) -> Plan:
        return Plan(
            epochs=self.epochs,
            rate=self.rate,
            batch_items=self.batch_items,
            temperature=self.temperature,
            label_weight=self.label_weight,
            augment=self.augment,
            features=self.features,
            patience=self.patience,
            seed=seed,
        )


def lengths_of(items: Store) -> Rows | None:
    """Return how long items are without their padding, None where no mask tells."""
    mask = items.inputs.get(MASK)
    return lengths(mask) if mask is not None and mask.ndim == MASK_AXES else None


def fixed_items(student: Network, teacher: Network, material: Material) -> int | None:
    """Return how many items the networks must be given at a time, None for any number."""
    from joulewise.learn.fixed_batch import takes_more
    from joulewise.learn.items import Items

    fixed = student.fixed_items
    if fixed is None:
        return None
    items = Items(store=material.calibrate, names=student.inputs)
    some = items.at(np.arange(2 * fixed) % items.count)
    return None if all(takes_more(x, some, fixed) for x in (student, teacher)) else fixed


def paired_layers(
    student: Network,
    student_graph: onnx.GraphProto,
    teacher: Network,
    teacher_graph: onnx.GraphProto,
) -> tuple[Pair, ...]:
    """Return layers whose weights have one name in both graphs, evenly spread, without the last."""
    ours, theirs = _ends(student_graph), _ends(teacher_graph)
    found = [
        Pair(student=f"layers.{left}", teacher=f"layers.{right}", spatial=spatial)
        for name, (end, spatial) in ours.items()
        if name in theirs
        and (left := student.layer_of(end)) is not None
        and (right := teacher.layer_of(theirs[name][0])) is not None
    ][:-1]
    if not found:
        raise PassError("model and original have no inner layers in common; choose features=0")
    places = np.unique(np.linspace(0, len(found) - 1, min(PAIRS, len(found))).round())
    return tuple(found[int(place)] for place in places)


def _ends(graph: onnx.GraphProto) -> dict[str, tuple[str, bool]]:
    """Return weights -> a tensor of the layer that ends with them, and whether it has places.

    A layer ends with the batch normalisation after it, if there is one.
    """
    norms = {x.input[0]: x.input[1] for x in graph.node if x.op_type == "BatchNormalization"}
    return {
        node.input[1]: (norms.get(node.output[0], node.input[1]), node.op_type == "Conv")
        for node in graph.node
        if node.op_type in ("Conv", "Gemm", "MatMul")
    }


def _within(pair: Pair, fixed: int | None) -> Pair:
    """Return a pair by its names in networks that are given a fixed number of items."""
    if fixed is None:
        return pair
    return replace(pair, student=f"network.{pair.student}", teacher=f"network.{pair.teacher}")
