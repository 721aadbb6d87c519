"""What a student is trained for and judged by: labels, a teacher's answers, its inner layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from joulewise.core.errors import PassError
from joulewise.core.host import read_host
from joulewise.learn.augment import augment, check_augmentation
from joulewise.learn.items import Items, Rows
from joulewise.learn.losses import (
    Form,
    comparable,
    form_of,
    label_loss,
    layer_distance,
    relative_error,
    teacher_loss,
    value_loss,
)
from joulewise.learn.plan import Lessons, Measure, Plan, Precision
from joulewise.learn.taps import Taps
from joulewise.learn.teacher import Teacher, Tell

__all__ = ["Objective"]

CHECK_ITEMS = 32
"""Items on which it is found out what a model's outputs are."""

Tensors = tuple[Tensor, ...]
Values = np.ndarray[Any, np.dtype[np.float64]]
Judge = Callable[[Rows, Tensors, Tensors], float]
"""Mean score of search items from their numbers, the inputs and the student's answers."""


class Objective:
    """The loss of a student on training items, and its score on the search items.

    Args:
        student: what is trained.
        lessons: what it learns from.
        plan: how.

    Attributes:
        precision: in which the student computes while it is trained.
        measure: what `score` returns, None where it returns None.

    Raises:
        PassError: there is nothing to learn from, or plan, models and items do not fit together.
    """

    def __init__(self, student: nn.Module, lessons: Lessons, plan: Plan) -> None:
        self._student, self._plan, self._pairs = student, plan, lessons.pairs
        images = any(isinstance(layer, nn.Conv2d) for layer in student.modules())
        self._train = Items(store=lessons.train, names=lessons.inputs, channels_last=images)
        inputs = self._train.at(next(self._train.chunks(CHECK_ITEMS)))
        check_augmentation(plan.augment, inputs)
        example = _example(student, lessons.teacher, inputs)
        targets = self._train.targets
        values = lessons.values or targets is not None
        self._form: Form = "values" if values else form_of(example)
        self._classes = 0 if self._form == "values" else int(example.shape[1])
        self._variance = None if targets is None else _variance(targets, example)
        self.precision: Precision = "f32"
        rough = targets is None and plan.precision == "auto"  # bfloat16 has 3 digits of a value
        if rough and _computes_bf16() and _bears_bf16(student, inputs):
            self.precision = "bf16"
        self._teacher: Teacher | None = None
        self._taps: tuple[Taps, Taps] | None = None
        if lessons.teacher is not None:
            self._teacher = Teacher(lessons.teacher, self._form, bf16=self.precision == "bf16")
            if plan.features > 0 and lessons.pairs:
                self._taps = (
                    Taps(student, [pair.student for pair in lessons.pairs]),
                    Taps(lessons.teacher, [pair.teacher for pair in lessons.pairs]),
                )
        self._label_weight = self._share_of_labels()
        self._search: Items | None = None
        self._judge: Judge | None = None
        self.measure: Measure | None = None
        if lessons.search is not None:
            self._search = replace(self._train, store=lessons.search)
            self.measure, self._judge = self._judgement(self._search)

    def close(self) -> None:
        """Leave student and teacher without taps."""
        for taps in self._taps or ():
            taps.close()

    def prepare(self, folder: Path | None, tell: Tell) -> None:
        """Compute the answers of the teacher that will be needed more than once.

        Args:
            folder: where they are kept, or found already; None keeps them in memory.
            tell: told of the progress.
        """
        if self._teacher is None:
            return
        splits = {}
        if self._plan.augment == "none" and self._taps is None and self._label_weight < 1:
            splits["train"] = self._train
        if self._search is not None and self.measure in ("agreement", "negative error"):
            splits["search"] = self._search
        for split, items in splits.items():
            file = None if folder is None else folder / f"{split}-answers.npy"
            self._teacher.keep(split, items, self._plan.batch_items, file, tell)

    def loss(self, rows: Rows, generator: Generator) -> Tensor:
        """Return the loss on training items; the student is in the mode that it was set to.

        Args:
            rows: which items.
            generator: source of chance for augmentation.
        """
        inputs, targets = self._train.at(rows), self._targets(rows)
        inputs, targets = augment(self._plan.augment, inputs, targets, generator)
        for taps in self._taps or ():
            taps.listen()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
            outputs = self._student(*inputs)
        ours, loss = comparable(outputs, self._form), torch.zeros(())
        if targets is not None:
            loss = loss + self._label_weight * self._distance_to_labels(ours[0], targets)
        if self._teacher is not None and (self._label_weight < 1 or self._taps is not None):
            theirs = self._teacher.answer("train", rows, inputs)
            loss = loss + (1 - self._label_weight) * self._distance(ours, theirs)
        return loss if self._taps is None else loss + self._distance_of_layers(*self._taps)

    def score(self) -> float | None:
        """Return how well the student does on the search items, None where that is not known."""
        if self._search is None or self._judge is None:
            return None
        self._student.eval()
        scores, items = [], []
        with torch.no_grad():
            for rows in self._search.chunks(self._plan.batch_items):
                inputs = self._search.at(rows)
                answers = comparable(self._student(*inputs), self._form)
                scores.append(self._judge(rows, inputs, answers))
                items.append(len(rows))
        return float(np.average(scores, weights=items))

    def score_error(self, score: float) -> float:
        """Return the standard error of a score, 0 where it is no share of the search items."""
        if self._search is None or self.measure not in ("top1", "agreement"):
            return 0.0
        return math.sqrt(score * (1 - score) / self._search.store.items)

    def _share_of_labels(self) -> float:
        """Return the weight of the labels in the loss."""
        labels = self._train.labels if self._classes else None
        if labels is None and self._variance is None:
            if self._teacher is None:
                raise PassError(
                    "there is nothing to learn from: no teacher, and no labels for scores per class"
                )
            return 0.0
        if labels is not None and not 0 <= labels.min() <= labels.max() < self._classes:
            raise PassError(
                f"the labels go from {labels.min()} to {labels.max()}, but the model has scores "
                f"for {self._classes} classes; give labels from 0 to {self._classes - 1}"
            )
        return 1.0 if self._teacher is None else self._plan.label_weight

    def _judgement(self, search: Items) -> tuple[Measure | None, Judge | None]:
        """Return how the student is judged on the search items."""
        labels, teacher = search.labels, self._teacher
        if labels is not None and self._classes:
            return "top1", lambda rows, _, ours: _equal(ours[0], torch.from_numpy(labels[rows]))
        if (targets := search.targets) is not None and self._variance is not None:
            return (
                "negative error",
                lambda rows, _, ours: (
                    -self._distance_to_labels(ours[0], _values(targets[rows])).item()
                ),
            )
        if teacher is None:
            return None, None
        if self._classes:
            return "agreement", lambda rows, inputs, ours: _equal(
                ours[0], teacher.answer("search", rows, inputs)[0].argmax(dim=1)
            )
        return (
            "negative error",
            lambda rows, inputs, ours: (
                -self._distance(ours, teacher.answer("search", rows, inputs)).item()
            ),
        )

    def _targets(self, rows: Rows) -> Tensor | None:
        """Return the probability of each class, or the values, that the labels give.

        None where they do not count.
        """
        if not self._label_weight:
            return None
        if self._train.targets is not None:
            return _values(self._train.targets[rows])
        if self._train.labels is None:
            return None
        labels = torch.from_numpy(self._train.labels[rows])
        return F.one_hot(labels, self._classes).float()

    def _distance_to_labels(self, ours: Tensor, targets: Tensor) -> Tensor:
        """Return how far a first output is from labels, of classes or of values."""
        if self._variance is None:
            return label_loss(ours, targets)
        return value_loss(ours, targets, self._variance)

    def _distance(self, ours: Tensors, theirs: Tensors) -> Tensor:
        """Return how far the answers of student and teacher are apart."""
        pairs = list(zip(ours, theirs, strict=True))
        distance = torch.zeros(())
        if self._classes:
            distance = teacher_loss(*pairs.pop(0), self._plan.temperature)
        elif self._variance is not None:  # in the unit of the distance to labels
            distance = value_loss(*pairs.pop(0), self._variance)
        return distance + sum(relative_error(*pair) for pair in pairs)

    def _distance_of_layers(self, student: Taps, teacher: Taps) -> Tensor:
        """Return how far the paired layers are apart on what they were last given, weighted."""
        both = zip(student.take(), teacher.take(), self._pairs, strict=True)
        found = [layer_distance(x, y, spatial=pair.spatial) for x, y, pair in both]
        return self._plan.features * torch.stack(found).mean()


def _example(student: nn.Module, teacher: nn.Module | None, inputs: Tensors) -> Tensor:
    """Return a first output, the teacher's where there is one; both are left for evaluation."""
    with torch.no_grad():
        outputs: Tensors = student.eval()(*inputs)
        theirs: Tensors = outputs if teacher is None else teacher.eval()(*inputs)
    shapes, their_shapes = ([tuple(x.shape) for x in some] for some in (outputs, theirs))
    if shapes != their_shapes:
        raise PassError(f"the student's outputs are {shapes}, the teacher's {their_shapes}")
    if not any(x.is_floating_point() for x in theirs):
        raise PassError("the model has no output of floats, so there is nothing that it can learn")
    return theirs[0]


def _variance(targets: Values, example: Tensor) -> float:
    """Return the variance of labels, summed over the values of an item."""
    ours, values = targets[0].size, example[0].numel()
    if ours != values:
        raise PassError(f"there are {ours} labels per item, but the model gives {values} values")
    variance = float(targets.reshape(len(targets), ours).var(axis=0).sum())
    if not variance > 0:
        raise PassError("all labels are the same, so there is nothing to learn from them")
    return variance


def _values(targets: Values) -> Tensor:
    return torch.from_numpy(np.asarray(targets, np.float32))


def _computes_bf16() -> bool:
    return "bf16" in read_host().instruction_sets


def _bears_bf16(student: nn.Module, inputs: Tensors) -> bool:
    """Return whether a network in evaluation mode runs in bfloat16 and gives finite numbers."""
    try:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            return all(bool(x.isfinite().all()) for x in student(*inputs))
    except RuntimeError:
        return False


def _equal(scores: Tensor, classes: Tensor) -> float:
    return (scores.argmax(dim=1) == classes).double().mean().item()
