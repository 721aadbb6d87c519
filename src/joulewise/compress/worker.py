"""The process in which passes are applied, each in a copy of it. Started by `Workshop`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

from joulewise.compress.material import Material
from joulewise.compress.passes import PASSES
from joulewise.core.child import serve
from joulewise.workload.store import Store, open_store

TORCH = ("torch",)
LEARNING = ("torch", "torch._dynamo")  # imported by every optimizer of torch

SHARED: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("drop_blocks", "fold_batch_norm", "low_rank", "prune"), TORCH),
    **dict.fromkeys(("distill", "litert", "qat"), LEARNING),
}
"""Pass -> modules whose import takes seconds and starts no threads."""


def imports(name: str, **_: object) -> tuple[str, ...]:
    """Return what the pass `name` shares with others."""
    return SHARED.get(name, ())


def apply(
    name: str,
    parameters: dict[str, object],
    source: str,
    stores: dict[str, str],
    original: str | None,
    seed: int,
    checkpoint: str,
    training_s: float | None,
    values: bool,
    batch_items: int,
    folder: str,
) -> list[str]:
    """Apply the pass `name` and return the files it wrote."""
    warnings.simplefilter("ignore")

    def opened(split: str) -> Store | None:
        return open_store(Path(stores[split])) if split in stores else None

    material = Material(
        calibrate=open_store(Path(stores["calibrate"])),
        train=opened("train"),
        search=opened("search"),
        original=None if original is None else Path(original),
        seed=seed,
        checkpoint=Path(checkpoint),
        training_s=training_s,
        values=values,
        batch_items=batch_items,
    )
    change = PASSES.load(name)(**parameters)
    return list(change.apply(Path(source), material, Path(folder)))


if __name__ == "__main__":
    serve({"apply": apply}, imports)
