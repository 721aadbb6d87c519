"""Models with one group of channels alone made narrow, to measure what that group costs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from joulewise.compress.batches import tensors
from joulewise.compress.process import ENVIRONMENT, TIMEOUT_S
from joulewise.compress.prune import PROOF_ITEMS, costs_of, stairs_of
from joulewise.core.child import Child, serve
from joulewise.core.errors import PassError, ProgramError
from joulewise.workload.store import Store, open_store

__all__ = ["Narrow", "narrow", "narrowed"]


@dataclass(frozen=True, kw_only=True)
class Narrow:
    """A group of channels as `joulewise.compress.prune` sees it.

    Args:
        name: initializer that holds the weights of the first layer that writes them.
        work_ratio: part of the model's multiplications in the layers that it belongs to.
        gone_ratio: part of the model's multiplications that go where it alone is as narrow as it
            may be.
        file: that model; None where it was not asked for.
    """

    name: str
    work_ratio: float
    gone_ratio: float
    file: str | None


def narrowed(source: Path, items: Store, align: int, most: int, folder: Path) -> list[Narrow]:
    """Return the groups of channels of a model, in the order in which `Prune.costs` has them.

    Args:
        source: the model.
        items: typical ones.
        align: widths are multiples of it.
        most: models are written of so many groups, of those that save most multiplications.
        folder: where they go.

    Raises:
        PassError: the model has no such groups.
    """
    with Child("joulewise.compress.narrow", ENVIRONMENT) as child:
        try:
            found = child.ask(
                "narrow",
                timeout_s=TIMEOUT_S,
                source=str(source.absolute()),
                store=str(items.folder.absolute()),
                align=align,
                most=most,
                folder=str(folder.absolute()),
            )
        except ProgramError as error:
            raise PassError(f"channels cannot be measured: {error}") from error
    return [Narrow(**each) for each in found]


def narrow(source: str, store: str, align: int, most: int, folder: str) -> list[dict[str, Any]]:
    """Write the models of `narrowed`, in a process of its own."""
    import onnx

    from joulewise.learn.graph import flexible
    from joulewise.learn.network import Network, check_same, save_network
    from joulewise.learn.structure import cut_checked, prunable

    network = Network(flexible(onnx.load(source))).eval()
    few = open_store(Path(store)).batch(0, network.fixed_items or PROOF_ITEMS)
    check_same(network, Path(source), few)
    inputs = tensors(network, few)
    groups = prunable(network, inputs)
    if not groups:
        raise PassError("no channels of this graph can go")
    costs, feet = costs_of(network, groups, inputs), [stairs_of(g, align).foot() for g in groups]
    full = costs.at([0] * len(groups))
    left = [
        costs.at([foot if n == number else 0 for n in range(len(groups))])
        for number, foot in enumerate(feet)
    ]
    dearest = sorted(range(len(groups)), key=lambda number: left[number])[:most]
    found = []
    for number, group in enumerate(groups):
        file = f"{number}.onnx" if number in dearest and feet[number] else None
        if file is not None:
            smaller = cut_checked(network, {group: np.arange(feet[number])}, inputs)
            save_network(smaller, Path(folder) / file)
        each = Narrow(
            name=group.name,
            work_ratio=sum(layer.cost for layer in costs.touched(number)) / full,
            gone_ratio=1 - left[number] / full,
            file=file,
        )
        found.append(asdict(each))
    return found


if __name__ == "__main__":
    serve({"narrow": narrow})
