"""What a pass may learn from, beside the model that it changes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from joulewise.workload.store import Store

__all__ = ["Material"]


@dataclass(frozen=True, kw_only=True)
class Material:
    """Items and models that a pass may use; never the hold-out.

    Args:
        calibrate: a few hundred items from which ranges are taken.
        train: items to train on, with labels or without; None where the user gave none.
        search: items on which candidates are compared; training may stop early on them.
        original: the model whose job must be done: the teacher; None where that is the source.
        seed: of everything random.
        checkpoint: folder that outlives a killed pass, for what it would not like to do twice;
            None where nothing is kept. Removed once the pass is through.
        values: whether the model's first output is values or a vector, not a score per class,
            whatever it looks like.
        batch_items: items per call that the changed model will be asked for.
        training_s: longest time that training can pay for, s; None where that is not known.
    """

    calibrate: Store
    train: Store | None = None
    search: Store | None = None
    original: Path | None = None
    seed: int = 0
    checkpoint: Path | None = None
    training_s: float | None = None
    values: bool = False
    batch_items: int = 1

    def pays_no_more(self, seconds: float) -> bool:
        """Return whether training for so long costs more than it can save."""
        return self.training_s is not None and seconds >= self.training_s
