"""How far a student is from its teacher and from the labels.

What is minimised follows how answers are judged (`joulewise.workload.task`): where the first output
is a score per class, the class counts, so distributions over classes are compared; other outputs
must have the same values, so their relative error is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

__all__ = [
    "Form",
    "comparable",
    "form_of",
    "label_loss",
    "layer_distance",
    "relative_error",
    "teacher_loss",
    "value_loss",
]

Form = Literal["scores", "probabilities", "values"]
"""What a model's first output is: a score per class before softmax, after it, or anything else."""

SUM_TOLERANCE = 1e-3
"""Largest distance from 1 at which a sum or a length counts as 1."""

TINY = 1e-12


def form_of(output: Tensor) -> Form:
    """Return what a model's first output is, as far as its numbers tell.

    Values are: what is not [n, classes >= 2] of floats, rows of length 1 (embeddings), and numbers
    in [0, 1] that do not add up to 1 (independent probabilities).

    Args:
        output: on some items.
    """
    if output.ndim != 2 or output.shape[1] < 2 or not output.is_floating_point():
        return "values"
    lowest, highest = output.min().item(), output.max().item()
    if lowest >= 0 and _near_one(output.sum(dim=1)):
        return "probabilities"
    if _near_one(output.norm(dim=1)) or (lowest >= 0 and highest <= 1):
        return "values"
    return "scores"


def comparable(outputs: Sequence[Tensor], form: Form) -> tuple[Tensor, ...]:
    """Return the outputs that are floats, as float32, probabilities as their logarithms.

    Args:
        outputs: of a model; integers are left out, since they have no gradient.
        form: of the first output. The logarithms of probabilities are scores: their softmax is
            what they were.
    """
    floats = [x.float() for x in outputs if x.is_floating_point()]
    if form == "probabilities":
        floats[0] = floats[0].clamp_min(TINY).log()
    return tuple(floats)


def teacher_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the Kullback-Leibler divergence from the teacher to the student, softened.

    Args:
        student: scores [n, classes].
        teacher: scores [n, classes].
        temperature: by which both are divided, > 0.

    Returns:
        Mean over items in nats, times temperature squared, which keeps gradients their size.

    Source: Hinton, Vinyals and Dean 2015, section 2 (arXiv:1503.02531).
    """
    ours, theirs = (F.log_softmax(x / temperature, dim=1) for x in (student, teacher))
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2


def label_loss(student: Tensor, targets: Tensor) -> Tensor:
    """Return the cross entropy in nats, mean over items.

    Args:
        student: scores [n, classes].
        targets: probability of each class, [n, classes].
    """
    return F.cross_entropy(student, targets)


def value_loss(student: Tensor, targets: Tensor, variance: float) -> Tensor:
    """Return the mean squared error in parts of a variance, summed over the values of an item.

    Args:
        student: values [n, ...].
        targets: what they should be, [n, ...], as many per item.
        variance: of the labels, summed over the values of an item, so that the loss of whoever
            always gives the labels' mean is 1.
    """
    errors = student.reshape(len(student), -1) - targets.reshape(len(targets), -1)
    return errors.square().sum() / (len(student) * variance)


def relative_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared distance of two outputs in parts of the teacher's squared length."""
    return (student - teacher).square().sum() / teacher.square().sum().clamp_min(TINY)


def layer_distance(student: Tensor, teacher: Tensor, *, spatial: bool) -> Tensor:
    """Return how differently two layers look at the same items; their widths may differ.

    Args:
        student: output of a layer.
        teacher: output of its counterpart.
        spatial: True for [n, channels, *places], compared by where the layers respond; False for
            [n, ..., features], compared by which items, or tokens of an item, they find alike.

    Returns:
        Mean squared distance of unit vectors, in [0, 4].

    Source: Zagoruyko and Komodakis 2017, section 3.1 with p = 2 (arXiv:1612.03928); Tung and Mori
    2019, equations 1 to 4 (arXiv:1907.09682).
    """
    view = _attention if spatial else _likeness
    return (view(student.float()) - view(teacher.float())).square().sum(dim=-1).mean()


def _attention(x: Tensor) -> Tensor:
    return F.normalize(x.square().mean(dim=1).flatten(1), dim=1)


def _likeness(x: Tensor) -> Tensor:
    return F.normalize(x @ x.mT, dim=-1)


def _near_one(values: Tensor) -> bool:
    return bool(torch.all((values - 1).abs() <= SUM_TOLERANCE))
