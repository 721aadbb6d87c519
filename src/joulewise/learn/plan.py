"""What a student learns from, how, and what came of it: the values that `train` takes and gives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from joulewise.core.settings import AUGMENTATIONS
from joulewise.workload.store import Store

if TYPE_CHECKING:
    from torch import nn

    from joulewise.learn.items import Rows

__all__ = [
    "Lessons",
    "Measure",
    "Pair",
    "Plan",
    "Precision",
    "Trained",
    "rate_at",
]

Measure = Literal["top1", "agreement", "negative error"]
"""Share of items with the right class, share with the teacher's class, or minus the error to labels
that are values, else to the teacher's outputs; more is better."""

Precision = Literal["f32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A layer of the student and its counterpart in the teacher, by their names as submodules.

    Args:
        student: name in the student.
        teacher: name in the teacher.
        spatial: True where they give [n, channels, *places], False for [n, ..., features].
    """

    student: str
    teacher: str
    spatial: bool


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """What a student learns from.

    Args:
        train: items to learn from, with labels or without.
        search: other items, which say what epoch was the best; None takes the last one.
        inputs: names of the items' columns in the order in which the student takes them.
        teacher: module with the student's inputs and outputs; None where labels are enough.
        pairs: layers that should look at items alike; used where Plan.features is above 0.
        values: whether the first output is values, whatever it looks like; so it is, too, where
            labels are values.
        lengths: how long each of `train` is without its padding, int64 [n]; items of like length
            then meet in a step. None where items are as long as they look.
    """

    train: Store
    search: Store | None = None
    inputs: tuple[str, ...]
    teacher: nn.Module | None = None
    pairs: tuple[Pair, ...] = ()
    values: bool = False
    lengths: Rows | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a student learns.

    Args:
        epochs: times that every training item is seen.
        rate: highest learning rate.
        batch_items: items per step.
        optimizer: "adamw" or "sgd" (with Nesterov momentum).
        warm_up_ratio: share of the steps in which the rate rises.
        weight_decay: of weights, not of biases and norms.
        temperature: of the distributions in which student and teacher are compared.
        label_weight: share of the labels in the loss, in [0, 1], where there are labels and a
            teacher; the rest is the teacher's.
        features: weight of the distance between paired layers, 0 for none.
        augment: one of AUGMENTATIONS.
        patience: epochs without a better score after which training ends, 0 for never.
        precision: "auto" is bfloat16 where the CPU multiplies it; or "f32".
        seed: of everything random.

    Raises:
        ValueError: a value is outside its range.
    """

    epochs: int = 3
    rate: float = 1e-3
    batch_items: int = 128
    optimizer: Literal["adamw", "sgd"] = "adamw"
    warm_up_ratio: float = 0.1
    weight_decay: float = 1e-4
    temperature: float = 4.0
    label_weight: float = 0.5
    features: float = 0.0
    augment: str = "none"
    patience: int = 0
    precision: Literal["auto", "f32"] = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        fits = {
            "epochs": self.epochs >= 1,
            "rate": 0 < self.rate < math.inf,
            "batch_items": self.batch_items >= 1,
            "optimizer": self.optimizer in ("adamw", "sgd"),
            "warm_up_ratio": 0 <= self.warm_up_ratio <= 1,
            "weight_decay": 0 <= self.weight_decay < math.inf,
            "temperature": 0 < self.temperature < math.inf,
            "label_weight": 0 <= self.label_weight <= 1,
            "features": 0 <= self.features < math.inf,
            "augment": self.augment in AUGMENTATIONS,
            "patience": self.patience >= 0,
            "precision": self.precision in ("auto", "f32"),
            "seed": self.seed >= 0,
        }
        for name, fit in fits.items():
            if not fit:
                raise ValueError(f"training cannot have {name}={getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What came of it.

    Args:
        epochs: epochs that were finished.
        measure: what `scores` are; None without search items.
        scores: on the search items after each epoch.
        losses: mean loss of each epoch.
        seconds: time spent, that of interrupted runs included, s.
        precision: that was trained in.
        halvings: how often the rate was halved because the loss was no number.
    """

    epochs: int
    measure: Measure | None
    scores: tuple[float, ...]
    losses: tuple[float, ...]
    seconds: float
    precision: Precision
    halvings: int


def rate_at(step: int, steps: int, plan: Plan) -> float:
    """Return the learning rate of a step: a line up to `plan.rate`, then half a cosine to zero.

    Args:
        step: from 0.
        steps: of the whole training.
        plan: rate and warm_up_ratio.

    Source: Loshchilov and Hutter 2017, equation 5, one cycle (arXiv:1608.03983); warm-up as Goyal
    et al. 2017, section 2.2 (arXiv:1706.02677).
    """
    warm_up = round(plan.warm_up_ratio * steps)
    if step < warm_up:
        return plan.rate * (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return plan.rate * 0.5 * (1 + math.cos(math.pi * done))
