"""Take whole channels and attention heads out of a network.

What is left is a smaller dense network, which every runtime is fast at; nothing is set to zero.
What goes is proved first: the smaller network computes exactly what the whole one does with the
same wires cut (`joulewise.learn.structure`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from joulewise.compress.batches import labels_at, tensors, tensors_of
from joulewise.compress.material import Material
from joulewise.compress.widths import Costs, LayerCost, Stairs, gone_evenly, gone_for, measured
from joulewise.core.child import tell
from joulewise.core.errors import PassError

if TYPE_CHECKING:
    import onnx
    from torch import Tensor

    from joulewise.learn.losses import Form
    from joulewise.learn.network import Network
    from joulewise.learn.structure import Group

__all__ = ["PROOF_ITEMS", "Prune", "costs_of", "stairs_of"]

Scores = tuple[np.ndarray[Any, np.dtype[np.float64]], ...]
Places = np.ndarray[Any, np.dtype[np.int64]]

IMPORTANCE = ("taylor", "magnitude", "activation")
SCOPES = ("global", "uniform")

PROOF_ITEMS = 2
SCORED_ITEMS, SCORED_BATCH_ITEMS = 256, 16
"""Most calibration items that importance is taken from, and how many at a time."""


@dataclass(frozen=True, kw_only=True)
class Prune:
    """Take out the least important channels.

    Args:
        ratio: "global": share of the multiplications that goes; "uniform": share of each group's
            channels.
        importance: "taylor", change of the loss without a channel, to first order; "magnitude" of
            its weights; "activation", its mean absolute value.
        scope: "global" takes the channels first that lose least for what they save; "uniform"
            takes the same share of every group.
        align: widths are kept at multiples of it, which kernels like.
        heads: share of the attention heads that goes, [0, 1).
        costs: what each group of channels was measured to cost: numbers in parts of a thousand of
            the model's joules, separated by spaces, in the order of the graph
            (`joulewise.search.group_costs`). Then the channels go first that lose least for the
            joules that they save; "" counts multiplications.
    """

    ratio: float = 0.5
    importance: str = "taylor"
    scope: str = "global"
    align: int = 8
    heads: float = 0.0
    costs: str = ""

    def __post_init__(self) -> None:
        if not (0 <= self.ratio < 1 and 0 <= self.heads < 1 and self.ratio + self.heads > 0):
            raise ValueError("ratio and heads are shares from 0 to below 1, and not both are 0")
        if self.importance not in IMPORTANCE:
            raise ValueError(f"importance is one of {', '.join(IMPORTANCE)}")
        if self.scope not in SCOPES:
            raise ValueError(f"scope is one of {', '.join(SCOPES)}")
        if self.align < 1:
            raise ValueError("align is a whole number from 1")
        if self.costs and self.scope == "uniform":
            raise ValueError("costs say nothing where every group loses the same share")
        if not all(0 <= share <= 1000 for share in self._shares()):
            raise ValueError("costs are numbers from 0 to 1000, separated by spaces")

    def apply(self, source: Path, material: Material, folder: Path) -> tuple[str, ...]:
        """Write ``model.onnx``; raises PassError where nothing can go."""
        import onnx

        from joulewise.learn.graph import flexible
        from joulewise.learn.network import Network, check_same, save_network
        from joulewise.learn.structure import cut_checked

        model = flexible(onnx.load(source))
        network = Network(model).eval()
        few = material.calibrate.batch(0, network.fixed_items or PROOF_ITEMS)
        check_same(network, source, few)
        inputs = tensors(network, few)
        job = _Job(network=network, model=model, inputs=inputs, material=material)
        gone = self._channels(job) if self.ratio else {}
        gone |= self._heads(job) if self.heads else {}
        tell((0.9, "proving that nothing else changes"))
        smaller = cut_checked(network, gone, inputs)
        target = folder / "model.onnx"
        save_network(smaller, target)
        check_same(smaller, target, few)
        return (target.name,)

    def _channels(self, job: _Job) -> dict[Group, Places]:
        from joulewise.learn.structure import prunable

        tell((0.1, "finding channels that can go"))
        groups = prunable(job.network, job.inputs)
        if not groups:
            raise PassError(
                "no channels of this graph can go without changing what the others give; "
                "leave pruning out"
            )
        stairs = [stairs_of(group, self.align) for group in groups]
        tell((0.3, "weighing channels"))
        scores = job.scores(groups, self.importance)
        if self.scope == "uniform":
            gone = gone_evenly(stairs, self.ratio)
        else:
            costs = costs_of(job.network, groups, job.inputs)
            gone = gone_for(costs, stairs, scores, self.ratio, self._rates(costs, len(groups)))
        if not any(gone):
            raise PassError(
                f"no width can shrink by {self.ratio:g} in steps of {self.align} channels; "
                "ask for more, or for a smaller align"
            )
        return _lowest(groups, scores, gone)

    def _shares(self) -> list[float]:
        return [float(share) for share in str(self.costs).split()]  # of one group it is a number

    def _rates(self, costs: Costs, groups: int) -> list[float] | None:
        shares = self._shares()
        if not shares:
            return None
        if len(shares) != groups:
            raise PassError(
                f"costs are {len(shares)} numbers, but this graph has {groups} groups of channels; "
                "measure it again"
            )
        return measured(costs, [share / 1000 for share in shares])

    def _heads(self, job: _Job) -> dict[Group, Places]:
        from joulewise.learn.attention import head_groups
        from joulewise.learn.structure import proved

        tell((0.6, "weighing attention heads"))
        blocks = proved(job.network, head_groups(job.network, job.model), job.inputs)
        if not blocks:
            raise PassError("no attention heads of this graph can go; leave heads out")
        stairs = [Stairs(units=block.units) for block in blocks]
        scores = job.scores(blocks, self.importance)
        if self.scope == "uniform":
            gone = gone_evenly(stairs, self.heads)
        else:
            gone = gone_for(_head_costs(blocks), stairs, scores, self.heads)
        return _lowest(blocks, scores, gone)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """The network that loses channels.

    Args:
        network: in evaluation mode.
        model: the graph that it was made of.
        inputs: a few items.
        material: what importance is taken from.
    """

    network: Network
    model: onnx.ModelProto
    inputs: tuple[Tensor, ...]
    material: Material

    def scores(self, groups: Sequence[Group], importance: str) -> Scores:
        """Return the importance of the units of each group."""
        from joulewise.learn import importance as kinds

        size = self.network.fixed_items or SCORED_BATCH_ITEMS
        batches = tensors_of(self.network, self.material.calibrate, size, SCORED_ITEMS)
        if importance == "magnitude":
            return kinds.magnitude(self.network, groups)
        if importance == "activation":
            return kinds.activation(self.network, groups, batches)
        form = self._form()
        if form == "values":
            unlabelled = ((batch, None) for batch in batches)
            return kinds.taylor(
                self.network, groups, unlabelled, kinds.jacobian(self.material.seed)
            )
        labels = labels_at(self.material.calibrate, size, SCORED_ITEMS)
        labelled = zip(batches, labels, strict=True)
        return kinds.taylor(self.network, groups, labelled, kinds.cross_entropy(form))

    def _form(self) -> Form:
        """Return what the first output is, "values" where the labels are not its classes."""
        import torch

        from joulewise.learn.losses import form_of

        with torch.no_grad():
            first = self.network(*self.inputs)[0]
        labels, form = self.material.calibrate.labels, form_of(first)
        if (
            labels is None
            or self.material.values
            or form == "values"
            or not 0 <= labels.min() <= labels.max() < first.shape[1]
        ):
            return "values"
        return form


def costs_of(network: Network, groups: Sequence[Group], inputs: Sequence[Tensor]) -> Costs:
    """Return the multiplications of one item by the widths of groups.

    Args:
        network: in evaluation mode.
        groups: found in it.
        inputs: a few items.
    """
    from joulewise.learn.structure import multiplications, width

    sides: dict[str, tuple[dict[int, float], dict[int, float]]] = {}
    for number, group in enumerate(groups):
        for part in group.parts:
            side = sides.setdefault(str(part.layer), ({}, {}))[part.side != "reads"]
            side[number] = part.channels.shape[1] / width(network, part)
    return Costs(
        layers=tuple(
            LayerCost(cost=cost, reads=reads, writes=writes)
            for layer, cost in multiplications(network, inputs).items()
            for reads, writes in [sides.get(layer, ({}, {}))]
        )
    )


def stairs_of(group: Group, align: int) -> Stairs:
    """Return the widths of a group that are multiples of `align` channels."""
    each = group.of("writes")[0].channels.shape[1]
    return Stairs(units=group.units, step=align // math.gcd(align, each))


def _head_costs(blocks: Sequence[Group]) -> Costs:
    """Return costs at which every head is as dear as any other."""
    return Costs(
        layers=tuple(
            LayerCost(cost=block.units, reads={}, writes={number: 1 / block.units})
            for number, block in enumerate(blocks)
        )
    )


def _lowest(groups: Sequence[Group], scores: Scores, gone: Sequence[int]) -> dict[Group, Places]:
    """Return the least important units of the groups that lose some."""
    return {
        group: np.argsort(values, kind="stable")[:count]
        for group, values, count in zip(groups, scores, gone, strict=True)
        if count
    }
