"""Which channels of a network can be taken out together, and taking them out.

A channel that one layer writes is read by others, so all of them lose it at once. Torch-Pruning's
dependency graph says who belongs together; its rules for the many ways to reshape, join and split
are rules of thumb, so what it says is proved here before it is used: a group counts only if the
network without some of its channels computes exactly what the whole network computes with those
channels' wires cut. Groups whose channels are mixed in between (layer normalisation, softmax) fail
that proof and are left alone, as are all that Torch-Pruning gets wrong.

Source: Fang et al. 2023, "DepGraph: Towards Any Structural Pruning" (arXiv:2301.12900).
"""

from __future__ import annotations

import contextlib
import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from joulewise.core.errors import PassError
from joulewise.learn.layers import CONVOLUTIONS, TRANSPOSED
from joulewise.learn.network import Network

__all__ = [
    "Group",
    "Part",
    "Side",
    "channel_groups",
    "cut",
    "cut_checked",
    "gates",
    "multiplications",
    "proved",
    "prunable",
    "width",
]

Places = np.ndarray[Any, np.dtype[np.int64]]
Inputs = Sequence[Tensor]

Side = Literal["writes", "reads", "passes"]
"""What a layer does with channels: its outputs, its inputs, or both as one (a depthwise
convolution, a normalisation, a scale per channel)."""

SAME_RATIO = 1e-3
"""Two networks are the same if they differ by no more than this part of what cutting changed."""

ROUNDING_RATIO = 1e-5
"""What float32 may add to that, in parts of the output."""

PROOF_SEED = 0

MULTIPLYING = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)

RULES_FAIL = (
    AttributeError, AssertionError, IndexError, KeyError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""What Torch-Pruning's rules of thumb run into on graphs that they were not made for."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """What one layer has to do with a group.

    Args:
        layer: its key in `Network.layers`; for free weights their place in `Network.free`.
        side: what it does with the channels.
        channels: which of its channels each unit of the group is, [units, channels per unit].
        axis: of free weights, along which the channels lie.
    """

    layer: str | int
    side: Side
    channels: Places
    axis: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Channels that several layers share, in units that can only go together.

    Args:
        name: initializer that holds the weights of the first layer that writes them.
        parts: the layers.
    """

    name: str
    parts: tuple[Part, ...]

    @property
    def units(self) -> int:
        """Number of units."""
        return len(self.parts[0].channels)

    def of(self, *sides: Side) -> tuple[Part, ...]:
        """Return the parts on these sides."""
        return tuple(part for part in self.parts if part.side in sides)


def channel_groups(network: Network, inputs: Inputs) -> tuple[Group, ...]:
    """Return the groups of channels that Torch-Pruning finds, in the order of the graph.

    Args:
        network: in evaluation mode; not changed.
        inputs: a few items, one tensor per input.

    Raises:
        PassError: Torch-Pruning cannot follow the network at all.
    """
    import torch_pruning

    try:
        graph = torch_pruning.DependencyGraph().build_dependency(network, inputs, verbose=False)
    except RULES_FAIL as error:
        raise PassError("Torch-Pruning cannot follow this graph; leave pruning out") from error
    guard = _guard(network)
    for node in graph.module2node.values():
        for dependency in node.dependencies:
            dependency.index_mapping.append(guard)
    groups, seen = [], set[nn.Module]()
    for layer in network.layers.values():
        if layer in seen or layer not in graph.module2node or not isinstance(layer, MULTIPLYING):
            continue
        pruner = _pruner(layer)
        everything = list(range(pruner.get_out_channels(layer)))
        with contextlib.suppress(*RULES_FAIL):
            found = graph.get_pruning_group(layer, pruner.prune_out_channels, everything)
            writers = (x.dep for x in found if graph.is_out_channel_pruning_fn(x.dep.handler))
            seen.update(each.target.module for each in writers)
            groups.append(_group(network, graph, found))
    known = (group for group in groups if group is not None)
    return tuple(sorted(known, key=lambda group: _first(network, group)))


def prunable(network: Network, inputs: Inputs) -> tuple[Group, ...]:
    """Return the groups of channels that can go, proved, in the order of the graph."""
    return proved(network, channel_groups(network, inputs), inputs)


def proved(network: Network, groups: Sequence[Group], inputs: Inputs) -> tuple[Group, ...]:
    """Return the groups whose channels can go without any harm beyond their own absence.

    Half of the units of each, drawn at random, are taken out of one copy of the network and cut
    in another.

    Args:
        network: in evaluation mode; not changed.
        groups: to be proved.
        inputs: a few items, one tensor per input.
    """
    random = np.random.default_rng(PROOF_SEED)
    whole, held = _run(network, inputs), []
    for group in groups:
        gone = random.permutation(group.units)[: group.units // 2]
        with contextlib.suppress(PassError):
            _cut_checked(network, {group: gone}, inputs, whole)
            held.append(group)
    return tuple(held)


def cut_checked(network: Network, gone: Mapping[Group, Places], inputs: Inputs) -> Network:
    """Return the network without some units, after proof that nothing else has changed.

    Args:
        network: in evaluation mode; not changed.
        gone: the units that each group loses.
        inputs: a few items, one tensor per input.

    Raises:
        PassError: it is not what the whole network computes with those units' wires cut.
    """
    return _cut_checked(network, gone, inputs, _run(network, inputs))


def _cut_checked(
    network: Network, gone: Mapping[Group, Places], inputs: Inputs, whole: Inputs
) -> Network:
    with gates(network, gone) as opening:
        for group, units in gone.items():
            opening[group][torch.from_numpy(units)] = 0.0
        expected = _run(network, inputs)
    smaller = _twin(network)
    try:
        for group, units in gone.items():
            cut(smaller, group, units)
        found = _run(smaller, inputs)
    except (RuntimeError, IndexError, ValueError) as error:
        raise PassError("the graph does not run without these channels") from error
    for ours, theirs, before in zip(found, expected, whole, strict=True):
        if not _same(ours, theirs, before):
            raise PassError("without these channels the graph computes something else")
    return smaller


def _run(network: Network, inputs: Inputs) -> Inputs:
    """Return the outputs; one thread is the fastest way through a few items on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            return network(*inputs)
    finally:
        torch.set_num_threads(threads)


def _twin(module: nn.Module) -> Any:  # noqa: ANN401 - what it is given
    """Return a copy whose weights can be replaced; until then they are the same tensors."""
    twin = copy.copy(module)
    for kind in ("_parameters", "_buffers"):
        setattr(twin, kind, dict(getattr(module, kind)))
    twin._modules = {name: _twin(part) for name, part in module._modules.items()}  # noqa: SLF001
    return twin


def cut(network: Network, group: Group, units: Places) -> None:
    """Take units of a group out of a network.

    Args:
        network: changed in place.
        group: found in this network, or in one that it is a copy of, before anything was cut.
        units: to be taken out; distinct.
    """
    for part in group.parts:
        channels = sorted(part.channels[units].ravel().tolist())
        if isinstance(part.layer, int):
            weights = network.free[part.layer]
            kept = sorted(set(range(weights.shape[part.axis])) - set(channels))
            network.free[part.layer] = nn.Parameter(
                weights.detach().index_select(part.axis, torch.tensor(kept))
            )
        else:
            _cut_layer(network.layers[part.layer], part.side, channels)


def width(network: Network, part: Part) -> int:
    """Return the number of channels of a part's layer on its side, of all groups together."""
    if isinstance(part.layer, int):
        return int(network.free[part.layer].shape[part.axis])
    layer, pruner = network.layers[part.layer], _pruner(network.layers[part.layer])
    reads = part.side == "reads"
    return int(pruner.get_in_channels(layer) if reads else pruner.get_out_channels(layer))


@contextlib.contextmanager
def gates(network: Network, groups: Iterable[Group]) -> Iterator[dict[Group, Tensor]]:
    """Put a gate into every wire from the units of groups to the layers that read them.

    Args:
        network: gets hooks that are taken out again at the end.
        groups: found in this network.

    Yields:
        The opening of each unit's gates by group, float32 [units]: 1 lets everything through, 0
        cuts the wires. Whatever is put there has effect the next time that the network runs.
    """
    opening = {group: torch.ones(group.units) for group in groups}
    handles = []
    for group in opening:
        for part in group.of("reads"):
            layer = network.layers[part.layer]
            hook = _gate(opening, group, part, layer)
            handles.append(layer.register_forward_pre_hook(hook))
    try:
        yield opening
    finally:
        for handle in handles:
            handle.remove()


def multiplications(network: Network, inputs: Inputs) -> dict[str, float]:
    """Return the multiplications (MAC) of one item by key of the layers that convolve or multiply.

    Args:
        network: in evaluation mode.
        inputs: a few items, one tensor per input.
    """
    counts: Counter[str] = Counter()
    items = len(inputs[0])

    def counting(key: str) -> Any:  # noqa: ANN401 - a hook
        def count(layer: nn.Module, given: tuple[Tensor], output: Tensor) -> None:
            if isinstance(layer, TRANSPOSED):  # every input meets the whole kernel
                each = layer.weight[0].numel() * given[0].numel()
            else:
                each = layer.weight[0].numel() * output.numel()
            counts[key] += each / items

        return count

    handles = [
        layer.register_forward_hook(counting(key))
        for key, layer in network.layers.items()
        if isinstance(layer, MULTIPLYING)
    ]
    _run(network, inputs)
    for handle in handles:
        handle.remove()
    return dict(counts)


def _guard(network: Network) -> Callable[[Any], Any]:
    """Return a map of channels to themselves that raises ValueError once they are too many.

    Torch-Pruning follows some graphs in circles (a channel shuffle before a flatten, say), with
    more channels in each round.
    """
    most = sum(
        size
        for layer in network.layers.values()
        for weights in layer.parameters()
        for size in weights.shape
    )

    def guarded(channels: Any) -> Any:  # noqa: ANN401
        if len(channels) > most or any(channel.idx >= most for channel in channels):
            raise ValueError("Torch-Pruning runs in circles")
        return channels

    return guarded


def _group(network: Network, graph: Any, found: Any) -> Group | None:  # noqa: ANN401
    """Return a group of Torch-Pruning's in our terms, None where it cannot be used."""
    keys = {layer: key for key, layer in network.layers.items()}
    free = {id(weights): place for place, weights in enumerate(network.free)}
    parts = []
    for item in found:
        module, handler = item.dep.target.module, item.dep.handler
        if type(module).__name__ == "_OutputOp" or isinstance(module, nn.LayerNorm):
            return None
        if module not in keys and id(module) not in free:
            continue  # an operator without weights
        writes, reads = (
            graph.is_out_channel_pruning_fn(handler),
            graph.is_in_channel_pruning_fn(handler),
        )
        width = graph.get_out_channels(module) if writes else graph.get_in_channels(module)
        channels = _by_root(item, len(found[0].idxs))
        if channels is None or channels.max() >= width:
            return None
        if isinstance(module, nn.Parameter):
            axis = item.dep.target.pruning_dim
            parts.append(Part(layer=free[id(module)], side="passes", channels=channels, axis=axis))
            continue
        side: Side = "passes" if writes and reads else "writes" if writes else "reads"
        parts.append(Part(layer=keys[module], side=side, channels=channels))
    written = [part.layer for part in parts if part.side == "writes"]
    if not written or all(part.side != "reads" for part in parts) or _shared(network, parts):
        return None
    order = list(network.layers)
    name = network.weight_of(order[min(order.index(layer) for layer in written)])
    return _in_units(network, Group(name=name, parts=tuple(parts)))


def _by_root(item: Any, roots: int) -> Places | None:  # noqa: ANN401
    """Return a layer's channels by channel of the group's first layer, [roots, n]."""
    found: list[list[int]] = [[] for _ in range(roots)]
    for channel, root in zip(item.idxs, item.root_idxs, strict=True):
        if root is None:
            return None
        found[root].append(channel)
    if len({len(channels) for channels in found}) != 1 or not found[0]:
        return None
    return np.array(found, dtype=np.int64)


def _shared(network: Network, parts: Sequence[Part]) -> bool:
    """Return whether a layer of a group has weights that another layer uses too."""
    uses = Counter(
        id(weights) for layer in network.layers.values() for weights in layer.parameters()
    )
    return any(
        uses[id(weights)] > 1
        for part in parts
        if isinstance(part.layer, str)
        for weights in network.layers[part.layer].parameters()
    )


def _in_units(network: Network, group: Group) -> Group | None:
    """Join the channels that only go together: one of each group of a grouped convolution."""
    layers = [network.layers[part.layer] for part in group.of("writes", "reads")]
    together = {getattr(layer, "groups", 1) for layer in layers} - {1}
    if not together:
        return group
    count = together.pop()
    if together or group.units % count:
        return None

    def joined(channels: Places) -> Places:
        by_group = channels.reshape(count, -1, channels.shape[1])
        return by_group.transpose(1, 0, 2).reshape(group.units // count, -1)

    parts = tuple(replace(part, channels=joined(part.channels)) for part in group.parts)
    return Group(name=group.name, parts=parts)


def _cut_layer(layer: nn.Module, side: Side, channels: list[int]) -> None:
    if side == "reads":
        _pruner(layer).prune_in_channels(layer, channels)
    else:
        _pruner(layer).prune_out_channels(layer, channels)


def _pruner(layer: nn.Module) -> Any:  # noqa: ANN401
    """Return what knows the channels of a kind of layer."""
    from torch_pruning import ops
    from torch_pruning.pruner.function import PrunerBox

    return PrunerBox[ops.module2type(layer)]


def _gate(
    opening: Mapping[Group, Tensor], group: Group, part: Part, layer: nn.Module
) -> Callable[..., tuple[Tensor]]:
    """Return a hook that sends what a layer reads through the gates of a group."""
    linear = isinstance(layer, nn.Linear)
    unit_of = torch.full((_pruner(layer).get_in_channels(layer),), -1)
    for unit, channels in enumerate(part.channels):
        unit_of[torch.from_numpy(channels)] = unit

    def gated(_: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
        (x,) = given
        by_channel = torch.where(unit_of < 0, 1.0, opening[group][unit_of.clamp_min(0)])
        return (x * (by_channel if linear else by_channel.reshape(-1, *[1] * (x.ndim - 2))),)

    return gated


def _same(ours: Tensor, theirs: Tensor, before: Tensor) -> bool:
    """Return whether two outputs are the same, measured by how much cutting changed them."""
    if ours.shape != theirs.shape:
        return False
    if not ours.is_floating_point():
        return torch.equal(ours, theirs)
    allowed = SAME_RATIO * (theirs - before).norm() + ROUNDING_RATIO * theirs.norm()
    return bool((ours - theirs).norm() <= allowed)


def _first(network: Network, group: Group) -> int:
    """Return the place among the layers of the first one that writes a group."""
    order = list(network.layers)
    return min(order.index(str(part.layer)) for part in group.of("writes"))
