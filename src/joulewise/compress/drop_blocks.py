"""Leave whole residual blocks out of a network: layers of a transformer, blocks of a ResNet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from joulewise.compress.batches import tensors_of
from joulewise.compress.material import Material
from joulewise.core.child import tell
from joulewise.core.errors import PassError

if TYPE_CHECKING:
    import onnx
    from torch import Tensor

    from joulewise.learn.blocks import Block
    from joulewise.learn.network import Network

__all__ = ["DropBlocks", "spaced"]

ORDERS = ("importance", "spaced")

COMPARED_ITEMS, COMPARED_BATCH_ITEMS = 64, 16
"""Most calibration items on which outputs are compared, and how many at a time."""


@dataclass(frozen=True, kw_only=True)
class DropBlocks:
    """Leave out residual blocks.

    Args:
        count: how many.
        ratio: instead of `count`, what share of those that can go, (0, 1], rounded up.
        keep: instead of both, the numbers of those that stay, from 0, as in "0,2,4".
        order: "importance" leaves out, one after the other, the block without which the outputs
            move least; "spaced" keeps evenly spaced ones, the first and the last among them.

    Source: "spaced" as in Sanh et al. 2019, section 3 (arXiv:1910.01108); a block's importance from
    what its absence changes, Gromov et al. 2024 (arXiv:2403.17887). differs: of the outputs, not of
    the residual stream, so that blocks of different stages can be compared.
    """

    count: int = 0
    ratio: float = 0.0
    keep: str = ""
    order: str = "importance"

    def __post_init__(self) -> None:
        keep = str(self.keep)  # of one block it is a number
        if self.count < 0 or not 0 <= self.ratio <= 1:
            raise ValueError("count is a whole number from 1, ratio a share up to 1")
        if [self.count > 0, self.ratio > 0, bool(keep)].count(True) != 1:
            raise ValueError("give one of count, ratio and keep")
        if self.order not in ORDERS:
            raise ValueError(f"order is one of {', '.join(ORDERS)}")
        if keep and not all(number.strip().isdecimal() for number in keep.split(",")):
            raise ValueError('keep is numbers from 0, separated by commas, as in "0,2,4"')

    def apply(self, source: Path, material: Material, folder: Path) -> tuple[str, ...]:
        """Write ``model.onnx``; raises PassError where there are not so many blocks."""
        import onnx

        from joulewise.learn.blocks import residual_blocks, without_blocks
        from joulewise.learn.graph import plain
        from joulewise.learn.network import Network, check_same, save_network

        model = plain(onnx.load(source))
        blocks = residual_blocks(model)
        if not blocks:
            raise PassError("no residual block of this graph can be left out; leave this step out")
        kept = self._kept(model, blocks, material)
        gone = [block for number, block in enumerate(blocks) if number not in kept]
        if not gone:
            raise PassError(f"the graph has {len(blocks)} blocks, all of which are kept")
        network, target = Network(without_blocks(model, gone)), folder / "model.onnx"
        save_network(network, target)
        size = network.fixed_items or COMPARED_BATCH_ITEMS
        check_same(network, target, material.calibrate.batch(0, size))
        return (target.name,)

    def _kept(
        self, model: onnx.ModelProto, blocks: Sequence[Block], material: Material
    ) -> set[int]:
        total = len(blocks)
        if self.keep != "":
            kept = {int(number) for number in str(self.keep).split(",")}
            if max(kept) >= total:
                raise PassError(
                    f"block {max(kept)} cannot be kept: the graph has {total}, 0 to {total - 1}"
                )
            return kept
        count = self.count or math.ceil(self.ratio * total)
        if count > total:
            raise PassError(f"{count} blocks cannot go: the graph has {total}")
        if self.order == "spaced":
            return set(spaced(total, total - count))
        return set(range(total)) - set(_least_missed(model, blocks, count, material))


def spaced(total: int, kept: int) -> tuple[int, ...]:
    """Return which of `total` blocks stay if `kept` evenly spaced ones do."""
    return tuple(int(number) for number in np.rint(np.linspace(0, total - 1, kept)))


def _least_missed(
    model: onnx.ModelProto, blocks: Sequence[Block], count: int, material: Material
) -> list[int]:
    """Return the blocks to leave out: each time the one without which outputs move least."""
    from joulewise.learn.blocks import without_blocks
    from joulewise.learn.network import Network

    whole = _outputs(Network(model), material)
    gone: list[int] = []
    for done in range(count):
        moved = {}
        for number in sorted(set(range(len(blocks))) - set(gone)):
            smaller = without_blocks(model, [blocks[n] for n in (*gone, number)])
            moved[number] = _distance(_outputs(Network(smaller), material), whole, material)
        gone.append(min(moved, key=lambda number: moved[number]))
        tell(((done + 1) / count, f"block {gone[-1]} is missed least"))
    return gone


def _outputs(network: Network, material: Material) -> list[Tensor]:
    """Return the outputs on some calibration items."""
    import torch

    network.eval()
    size = network.fixed_items or COMPARED_BATCH_ITEMS
    batches = tensors_of(network, material.calibrate, size, COMPARED_ITEMS)
    with torch.no_grad():
        found = [network(*batch) for batch in batches]
    return [torch.cat(parts) for parts in zip(*found, strict=True)]


def _distance(ours: Sequence[Tensor], theirs: Sequence[Tensor], material: Material) -> float:
    """Return the mean relative squared distance of outputs; infinity where it is no number."""
    from joulewise.learn.losses import comparable, form_of, relative_error

    form = "values" if material.values else form_of(theirs[0])
    pairs = zip(comparable(ours, form), comparable(theirs, form), strict=True)
    value = float(np.mean([relative_error(*pair).item() for pair in pairs]))
    return value if np.isfinite(value) else float("inf")
