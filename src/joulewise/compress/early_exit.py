"""An answer half-way through a model, and the rest of it for what that answer is unsure of.

A linear layer on the pooled values of one place in the graph learns to give the model's own answers
in a closed form: no trainer, and the same result every time. The rest of the graph runs on the rows
of those values that belong to items of which the early answer is unsure.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from joulewise.compress.compose import Nodes, self_contained
from joulewise.compress.cut import Place, find_place, part_after, part_before
from joulewise.compress.gate import Terms, are_probabilities
from joulewise.compress.material import Material
from joulewise.compress.searched import searched
from joulewise.compress.stages import Stages, answers_to, items_to_judge, join, require_classes
from joulewise.core.errors import PassError
from joulewise.workload.store import Store

if TYPE_CHECKING:
    import onnx

__all__ = ["EarlyExit", "fit_linear"]

Array = npt.NDArray[Any]

LEARN_ITEMS = 8192
"""Most items that the exit learns from."""

GRIDS = (4, 2, 1)
MOST_FEATURES = 2048
"""Maps are averaged over the finest of these grids that gives no more features.

Source: measured with an exit after half of the demo's multiply-adds, learnt from 512 items: grids
of 1, 2 and 4 left 64, 43 and 42 % of the items to the rest for a loss of 0.2 points.
"""

LEAST_PROBABILITY = 1e-4
"""Probabilities are learnt as logarithms, none below this one."""

PENALTIES = np.logspace(-6, 3, 37)
"""Ridge penalties that are tried, in units of the features' mean variance times items."""


@dataclass(frozen=True, kw_only=True)
class EarlyExit:
    """Answer from inside the model where that is sure enough; run the rest for other items.

    Args:
        after: share of the model's multiply-adds before the exit, in (0, 1), or the name of the
            value that it reads.
        threshold: items with less confidence go on; None finds the lowest that keeps `loss`.
        signal: what confidence is; see `joulewise.compress.gate.Gate`.
        loss: largest loss of quality against the whole model, as a fraction: of accuracy where the
            items have labels, else of agreement.
        confidence: of that.
    """

    after: str | float = searched(0.5, 0.25, 0.75)
    threshold: float | None = None
    signal: str = searched("margin", "max_probability", "entropy")
    loss: float = 0.002
    confidence: float = 0.95

    def __post_init__(self) -> None:
        self._terms()
        if not isinstance(self.after, str) and not 0 < self.after < 1:
            raise ValueError("after is a share between 0 and 1, or the name of a value")

    def apply(self, source: Path, material: Material, folder: Path) -> tuple[str, ...]:
        """Write ``model.onnx``; raises PassError where no value cuts the graph in two."""
        import onnx

        require_classes(material)
        model = self_contained(onnx.load(source))
        if len(model.graph.output) != 1:
            raise PassError(
                f"an exit gives one answer and the model has {len(model.graph.output)} outputs; "
                "leave early_exit out"
            )
        place = find_place(model, material.calibrate, self.after)
        learn, judge = _items(material, self._terms())
        with tempfile.TemporaryDirectory(dir=folder) as made:
            first = Path(made) / "first.onnx"
            onnx.save(_pooled(model, place), first)
            (features,), (answers,) = (answers_to(path, [learn]) for path in (first, source))
            onnx.save(_answering(model, place, features, answers), first)
            rest = part_after(model, place)
            feeds = {value.name: value.name for value in rest.graph.input}
            stages = Stages(first=first, second=source, rest=rest, feeds=feeds)
            note = {"after": place.value, "work_ratio": round(place.work_ratio, 4)}
            return join(stages, self._terms(), judge, folder, note)

    def _terms(self) -> Terms:
        return Terms(
            signal=self.signal,
            threshold=self.threshold,
            loss=self.loss,
            confidence=self.confidence,
        )


def fit_linear(features: Array, wanted: Array) -> tuple[Array, Array]:
    """Return the weights [f, k] and the bias [k] of a linear layer that gives `wanted` best.

    Ridge regression on standardised features; the penalty is the one with the least error in
    predicting each item from all others, which needs no second fit.

    Args:
        features: [n, f].
        wanted: [n, k].

    Source: Hoerl and Kennard 1970, Technometrics 12, 55-67; leave-one-out error in closed form,
    Allen 1974, Technometrics 16, 125-127.
    """
    x, y = features.astype(np.float64), wanted.astype(np.float64)
    items, mean, bias = len(x), x.mean(axis=0), y.mean(axis=0)
    spread = np.where(x.std(axis=0) > 0, x.std(axis=0), 1.0)
    x, y = (x - mean) / spread, y - bias
    variances, directions = np.linalg.eigh(x.T @ x)
    variances, turned = np.maximum(variances, 0.0), x @ directions
    projected = turned.T @ y

    def error(penalty: float) -> float:
        shrunk = 1.0 / (variances + penalty)
        left = y - turned @ (shrunk[:, None] * projected)
        leverage = np.square(turned) @ shrunk + 1.0 / items
        return float(np.mean(np.square(left / np.maximum(1.0 - leverage, 1e-12)[:, None])))

    unit = max(float(np.mean(variances)), np.finfo(np.float64).tiny)
    penalty = min(PENALTIES * unit, key=error)
    weights = directions @ (projected / (variances + penalty)[:, None]) / spread[:, None]
    return weights, bias - mean @ weights


def _items(material: Material, terms: Terms) -> tuple[Store, list[Store]]:
    """Return what the exit learns from and what its threshold is found with: never the same."""
    calibrate = material.calibrate
    if material.train is not None:
        every = -(-material.train.items // LEARN_ITEMS)
        return _part(material.train, slice(0, None, every)), items_to_judge(material, terms)
    if material.search is not None:
        return calibrate, [material.search]
    if calibrate.items < 2:
        raise PassError("one item is too few to learn and to judge with; give more items")
    return _part(calibrate, slice(0, None, 2)), [_part(calibrate, slice(1, None, 2))]


def _part(store: Store, part: slice) -> Store:
    """Return some items of a store; not a first part of it, which may be of one class."""
    return replace(
        store,
        items=len(range(store.items)[part]),
        inputs={name: values[part] for name, values in store.inputs.items()},
        labels=None if store.labels is None else store.labels[part],
        targets=None if store.targets is None else store.targets[part],
    )


def _pooled(model: onnx.ModelProto, place: Place) -> onnx.ModelProto:
    """Return the model up to a place, with features [n, f] as output."""
    from onnx import TensorProto, helper

    nodes = Nodes("exit/")
    features = helper.make_tensor_value_info(_pool(nodes, place), TensorProto.FLOAT, None)
    return part_before(model, place, nodes.nodes, nodes.constants, features)


def _answering(
    model: onnx.ModelProto, place: Place, features: Array, answers: Array
) -> onnx.ModelProto:
    """Return the model up to a place, with early answers as output that are like `answers`."""
    if answers.ndim != 2 or answers.shape[1] < 2 or answers.dtype.kind != "f":
        raise PassError(
            f"the model gives {answers.dtype} {list(answers.shape[1:])} an item; only a score per "
            "class can be given early"
        )
    probabilities = are_probabilities(answers)
    logits = np.log(np.maximum(answers, LEAST_PROBABILITY)) if probabilities else answers
    weights, bias = fit_linear(features, logits - logits.mean(axis=1, keepdims=True))
    nodes, output = Nodes("exit/"), model.graph.output[0]
    layer = [nodes.constant(values.astype(np.float32)) for values in (weights, bias)]
    early = nodes.add("Gemm", _pool(nodes, place), *layer)
    if probabilities:
        early = nodes.add("Softmax", early, axis=-1)
    nodes.add("Cast", early, to=output.type.tensor_type.elem_type)
    nodes.nodes[-1].output[0] = output.name
    return part_before(model, place, nodes.nodes, nodes.constants, output)


def _pool(nodes: Nodes, place: Place) -> str:
    """Append nodes that turn the values at a place into features [n, f]; return their name."""
    from onnx import TensorProto

    values, rank = nodes.add("Cast", place.value, to=TensorProto.FLOAT), len(place.shape)
    if place.channels_last and rank > 2:
        values = nodes.add("Transpose", values, perm=[0, rank - 1, *range(1, rank - 1)])
    elif rank > 2 and place.fixed:
        values = _averaged(nodes, values, place.shape)
        return nodes.add("Flatten", values)
    if rank > 2:
        values = nodes.add("GlobalAveragePool", values)
    return nodes.add("Flatten", values)


def _averaged(nodes: Nodes, values: str, shape: tuple[int, ...]) -> str:
    """Append the mean of each cell of the finest grid; cells overlap where sizes do not divide."""
    channels, *sizes = shape[1:]
    fitting = (g for g in GRIDS if channels * g ** len(sizes) <= MOST_FEATURES and g <= min(sizes))
    grid = next(fitting, 1)
    strides = [size // grid for size in sizes]
    kernel = [size - (grid - 1) * stride for size, stride in zip(sizes, strides, strict=True)]
    return nodes.add("AveragePool", values, kernel_shape=kernel, strides=strides)
