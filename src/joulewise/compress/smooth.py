"""Move the outliers of activations into weights, where 8 bits can hold them.

A few channels of a transformer's activations are far larger than all others, so the one scale that
a tensor has leaves few steps to the rest. Weights have a scale per output channel and no such
outliers. So each input channel of a matrix product is divided by a factor and its weights are
multiplied by it: the same function in other numbers, and much less harm when they are rounded.

The division goes into the weights of the layer before, where that layer feeds nothing else;
elsewhere it is one multiplication in the graph.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from joulewise.compress.material import Material
from joulewise.compress.ranges import channel_peaks
from joulewise.compress.searched import searched
from joulewise.compress.static_int8 import fixed_batch, prepare
from joulewise.core.errors import PassError

if TYPE_CHECKING:
    import onnx

__all__ = ["Smooth", "factors"]

Array = npt.NDArray[Any]
Weights = Mapping[str, Array]
Changes = dict[tuple[int, int], Array]
"""(number of a node, place of one of its inputs) -> the weights that it gets there."""


@dataclass(frozen=True, kw_only=True)
class Smooth:
    """Divide the input channels of matrix products, and multiply their weights by the same.

    The outputs stay as they are, up to rounding. Use it before a pass that rounds activations.

    Args:
        alpha: 0 makes the weights of all channels equally large, 1 their activations.

    Source: Xiao et al. 2023, equations 3 and 4 (arXiv:2211.10438).
    """

    alpha: float = searched(0.8, 0.5, 0.65)

    def __post_init__(self) -> None:
        """Raise PassError where a value is outside its range."""
        if not 0 <= self.alpha <= 1:
            raise PassError(f"alpha must be between 0 and 1, not {self.alpha:g}")

    def apply(self, source: Path, material: Material, folder: Path) -> tuple[str, ...]:
        """Write ``model.onnx``; raises PassError where there is no matrix product of weights."""
        import onnx

        logging.getLogger().setLevel(logging.ERROR)
        prepared, target = folder / "prepared.onnx", folder / "model.onnx"
        prepare(source, prepared)
        model = onnx.load(prepared)
        graph, fixed = _Graph(model), fixed_batch(model.graph)
        groups = graph.products()
        if not groups:
            raise PassError("the model has no matrix product of weights to smooth")
        peaks = channel_peaks(prepared, tuple(groups), material.calibrate, fixed)
        prepared.unlink()
        for name, products in groups.items():
            rows = np.max([graph.peaks_of_rows(number) for number in products], axis=0)
            graph.divide(name, products, factors(peaks[name], rows, self.alpha))
        onnx.save(graph.changed(), target)
        return (target.name,)


def factors(activations: Array, weights: Array, alpha: float) -> npt.NDArray[np.float32]:
    """Return by what each channel is divided.

    Args:
        activations: largest absolute value of each channel.
        weights: largest absolute weight that meets each channel.
        alpha: see Smooth.

    Returns:
        Positive factors; 1 where a channel or all its weights are 0.
    """
    alive = (activations > 0) & (weights > 0)
    left, right = np.where(alive, activations, 1.0), np.where(alive, weights, 1.0)
    return (left**alpha / right ** (1 - alpha)).astype(np.float32)


class _Graph:
    """A graph whose weights are changed; where several nodes share them, for one node alone.

    Args:
        model: in one file, constants folded.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        from onnx import numpy_helper

        self._model = model
        self._nodes = list(model.graph.node)
        self._weights = {x.name: numpy_helper.to_array(x) for x in model.graph.initializer}
        self._changes: Changes = {}
        self._divisions: dict[str, Array] = {}
        self._maker = {name: i for i, node in enumerate(self._nodes) for name in node.output}
        self._readers: dict[str, list[int]] = defaultdict(list)
        for number, node in enumerate(self._nodes):
            for name in node.input:
                self._readers[name].append(number)
        self._outputs = {value.name for value in model.graph.output} | _captured(model.graph)

    def products(self) -> dict[str, list[int]]:
        """Return tensor -> numbers of the nodes that multiply it by a matrix of weights."""
        found: dict[str, list[int]] = defaultdict(list)
        for number, node in enumerate(self._nodes):
            if self._is_product(number) and node.input[0] not in self._weights:
                found[node.input[0]].append(number)
        return dict(found)

    def peaks_of_rows(self, number: int) -> Array:
        """Return the largest absolute weight that meets each input channel of a product."""
        peaks: Array = np.abs(self._value(number, 1)).max(axis=1 - self._input_axis(number))
        return peaks

    def divide(self, name: str, products: Sequence[int], by: Array) -> None:
        """Divide a tensor by a factor per channel, and multiply weights by the same.

        Args:
            name: of the tensor.
            products: numbers of the nodes that multiply it by weights.
            by: the factors.
        """
        for number in products:
            axis = self._input_axis(number)
            self._changes[number, 1] = self._value(number, 1) * np.expand_dims(by, 1 - axis)
        only = len(self._readers[name]) == len(products) and name not in self._outputs
        changes = self._divided(name, by) if only else None
        if changes is None:
            self._divisions[name] = 1 / by
            for number in products:
                self._nodes[number].input[0] = _smoothed(name)
        else:
            self._changes |= changes

    def changed(self) -> onnx.ModelProto:
        """Return the graph with all changes made."""
        from onnx import helper, numpy_helper

        model, nodes = self._model, []
        for (number, place), value in self._changes.items():
            old = self._nodes[number].input[place]
            name = f"{old}_smoothed_{number}"
            model.graph.initializer.append(numpy_helper.from_array(value, name))
            self._nodes[number].input[place] = name
        waiting = {_smoothed(name): (name, by) for name, by in self._divisions.items()}
        for node in self._nodes:
            if node.input and node.input[0] in waiting:
                name, by = waiting.pop(node.input[0])
                model.graph.initializer.append(numpy_helper.from_array(by, f"{name}_factors"))
                inputs, outputs = [name, f"{name}_factors"], [_smoothed(name)]
                nodes.append(helper.make_node("Mul", inputs, outputs, name=_smoothed(name)))
            nodes.append(node)
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        used = {name for node in nodes for name in node.input} | self._outputs
        kept = [x for x in model.graph.initializer if x.name in used]
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)
        return model

    def _divided(self, name: str, by: Array) -> Changes | None:
        """Return the changes after which a tensor comes divided, None where there are none.

        Args:
            name: of a tensor that is read at one place, or divided everywhere.
            by: a factor per channel.
        """
        number = self._maker.get(name)
        if number is None:
            return None
        node = self._nodes[number]
        if node.op_type in ("LayerNormalization", "RMSNormalization"):
            return self._each_divided(number, range(1, len(node.input)), by)
        if node.op_type in ("Add", "Mul"):
            return self._scaled(number, by)
        if node.op_type == "Relu":
            return self._before(node.input[0], by)
        if self._is_product(number):
            axis = self._input_axis(number)
            weights = {(number, 1): self._value(number, 1) / np.expand_dims(by, axis)}
            biases = self._each_divided(number, range(2, len(node.input)), by)
            return None if biases is None else weights | biases
        return None

    def _scaled(self, number: int, by: Array) -> Changes | None:
        """Return the changes of a node that adds a constant, or multiplies by it."""
        node = self._nodes[number]
        constants = [place for place, name in enumerate(node.input) if name in self._weights]
        if len(constants) != 1:
            return None
        changes = self._each_divided(number, constants, by)
        if node.op_type == "Mul" or changes is None:
            return changes
        before = self._before(node.input[1 - constants[0]], by)
        return None if before is None else changes | before

    def _before(self, name: str, by: Array) -> Changes | None:
        """Return the changes for a tensor that is divided for one of its readers."""
        if len(self._readers[name]) > 1 or name in self._outputs:
            return None
        return self._divided(name, by)

    def _each_divided(self, number: int, places: Iterable[int], by: Array) -> Changes | None:
        """Return weights of a node divided along their last axis, None where that is another."""
        changes: Changes = {}
        for place in places:
            if self._nodes[number].input[place] not in self._weights:
                return None
            value = self._value(number, place)
            if value.ndim and value.shape[-1] not in (1, len(by)):
                return None
            changes[number, place] = value / by
        return changes

    def _is_product(self, number: int) -> bool:
        node = self._nodes[number]
        if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in self._weights:
            return False
        turned = any(x.name == "transA" and x.i for x in node.attribute)
        return self._weights[node.input[1]].ndim == 2 and not turned

    def _input_axis(self, number: int) -> int:
        """Return the axis of a product's weights that its input channels lie on."""
        return int(any(x.name == "transB" and x.i for x in self._nodes[number].attribute))

    def _value(self, number: int, place: int) -> Array:
        """Return weights as they are for one node."""
        known = self._changes.get((number, place))
        return self._weights[self._nodes[number].input[place]] if known is None else known


def _smoothed(name: str) -> str:
    return f"{name}_smoothed"


def _captured(graph: onnx.GraphProto) -> set[str]:
    """Return the names that graphs within nodes use, those from outside among them."""
    inner = [x.g for node in graph.node for x in node.attribute if x.HasField("g")]
    names = {name for each in inner for node in each.node for name in node.input}
    names |= {value.name for each in inner for value in each.output}
    return names.union(*map(_captured, inner))
