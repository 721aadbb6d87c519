"""How much a network would miss each unit of a group of channels.

All three look at the layers that write or read the channels, so that layers which share a residual
stream are judged together.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from joulewise.learn.layers import TRANSPOSED
from joulewise.learn.losses import Form, comparable
from joulewise.learn.network import Network
from joulewise.learn.structure import Group, Inputs, Part, gates

__all__ = ["Loss", "activation", "cross_entropy", "jacobian", "magnitude", "taylor"]

Scores = np.ndarray[Any, np.dtype[np.float64]]

Loss = Callable[[Sequence[Tensor], Any], Tensor]
"""Takes the outputs and whatever came with the batch; gives a number whose gradient counts."""


def magnitude(network: Network, groups: Sequence[Group]) -> tuple[Scores, ...]:
    """Return the size of each unit's weights in every layer that writes or reads it.

    The L2 norm over the group: squares are summed by layer, put in parts of the layer's mean, and
    averaged over layers, so that a layer counts as much whether its weights are many or large.

    Args:
        network: not changed.
        groups: found in it.

    Returns:
        By group, [units], about 1 on average.

    Source: Li et al. 2017, section 3.1 (arXiv:1608.08710), over groups as in Fang et al. 2023,
    equation 4 (arXiv:2301.12900). differs: no L1 norm.
    """
    return tuple(
        np.sqrt(np.mean([_squares(network, part) for part in group.of("writes", "reads")], axis=0))
        for group in groups
    )


def activation(
    network: Network, groups: Sequence[Group], batches: Iterable[Inputs]
) -> tuple[Scores, ...]:
    """Return the mean absolute value of each unit where it is read.

    Args:
        network: in evaluation mode.
        groups: found in it.
        batches: typical inputs; read once.

    Returns:
        By group, [units], in parts of the mean over the units of a layer.
    """
    sums: dict[tuple[Group, Part], Tensor] = {}
    with contextlib.ExitStack() as stack:
        for group in groups:
            for part in group.of("reads"):
                layer = network.layers[part.layer]
                hook = _summing(sums, (group, part), layer)
                stack.callback(layer.register_forward_pre_hook(hook).remove)
        for batch in batches:
            with torch.no_grad():
                network(*batch)
    return tuple(
        np.mean(
            [_relative(_by_unit(sums[group, part], part)) for part in group.of("reads")], axis=0
        )
        for group in groups
    )


def taylor(
    network: Network,
    groups: Sequence[Group],
    batches: Iterable[tuple[Inputs, Any]],
    loss: Loss,
) -> tuple[Scores, ...]:
    """Return how much the loss would change, to first order, without each unit.

    Every wire from a unit to its readers gets a gate that is open; the importance is the square of
    the loss's derivative by that gate, mean over batches.

    Args:
        network: in evaluation mode.
        groups: found in it.
        batches: inputs, and whatever the loss needs of them; read once.
        loss: of the outputs.

    Returns:
        By group, [units], comparable between groups.

    Source: Molchanov et al. 2019, equations 8 and 9 with gates as in section 3.2
    (arXiv:1906.10771).
    """
    totals: dict[Group, Scores] = {group: np.zeros(group.units) for group in groups}
    count = 0
    with gates(network, groups) as opening:
        for inputs, extra in batches:
            for group in groups:
                opening[group] = torch.ones(group.units, requires_grad=True)
            value = loss(network(*inputs), extra)
            slopes = torch.autograd.grad(value, [opening[group] for group in groups])
            for group, slope in zip(groups, slopes, strict=True):
                totals[group] += np.square(slope.double().numpy())
            count += 1
    return tuple(totals[group] / count for group in groups)


def cross_entropy(form: Form) -> Loss:
    """Return the loss against labels: classes, int64 [n].

    Args:
        form: of the first output, scores or probabilities.
    """
    return lambda outputs, labels: F.cross_entropy(comparable(outputs, form)[0], labels)


def jacobian(seed: int) -> Loss:
    """Return a loss for items without labels: outputs added up with random signs.

    The expected square of its derivative by a gate is the sum of squares of the derivatives of all
    outputs by that gate: to first order, how far the outputs would move from the original's. (The
    distance itself has no slope there.) Every output counts in parts of its length.

    Source: Hutchinson 1989, "A stochastic estimator of the trace of the influence matrix",
    doi:10.1080/03610918908812806.
    """
    random = torch.Generator().manual_seed(seed)

    def signed(outputs: Sequence[Tensor], _: object) -> Tensor:
        total = torch.zeros(())
        for output in outputs:
            if output.is_floating_point():
                signs = torch.randint(0, 2, output.shape, generator=random) * 2.0 - 1.0
                length = output.detach().norm().clamp_min(torch.finfo(torch.float32).tiny)
                total = total + (signs * output).sum() / length
        return total

    return signed


def _squares(network: Network, part: Part) -> Scores:
    layer = network.layers[part.layer]
    rows = _by_channel(layer, part.side).detach().double().square().sum(dim=1)
    return _relative(_by_unit(rows, part))


def _by_unit(channels: Tensor, part: Part) -> Scores:
    summed: Scores = channels.double().numpy()[part.channels].sum(axis=1)
    return summed


def _relative(values: Scores) -> Scores:
    mean = values.mean()
    return values / mean if mean > 0 else values


def _by_channel(layer: nn.Module, side: str) -> Tensor:
    """Return a layer's weights by channel that it writes or reads, [channels, weights]."""
    weight, groups = layer.weight, getattr(layer, "groups", 1)
    if isinstance(layer, TRANSPOSED):  # [in, out / groups, ...]
        weight = _swapped(weight, groups)
    if side == "reads":
        weight = _swapped(weight, groups)
    return weight.flatten(1)


def _swapped(weight: Tensor, groups: int) -> Tensor:
    """Return weights [a, b / groups, ...] of `groups` separate blocks as [b, a / groups, ...]."""
    blocks = weight.unflatten(0, (groups, -1))
    return blocks.transpose(1, 2).flatten(0, 1)


def _summing(
    sums: dict[tuple[Group, Part], Tensor], key: tuple[Group, Part], layer: nn.Module
) -> Callable[[nn.Module, tuple[Tensor]], None]:
    """Return a hook that adds up the absolute values that a layer reads, by channel."""
    axis = -1 if isinstance(layer, nn.Linear) else 1

    def add(_: nn.Module, given: tuple[Tensor]) -> None:
        values = given[0].abs().transpose(0, axis).flatten(1).sum(dim=1)
        sums[key] = sums.get(key, 0) + values.double()

    return add
