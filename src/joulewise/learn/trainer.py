"""The one trainer: fine-tuning, recovery after pruning, distillation, quantization-aware training.

A student learns from labels, from a teacher, or from both, for a few epochs over the training
items. What it becomes depends on the plan, the items and the machine alone: the order of the items,
the augmentation and the dropout of a step follow from the seed and the number of the step. So a run
that was killed and goes on ends bit for bit where an uninterrupted one ends. (One exception: a run
that diverges after it went on returns to where it went on, not to the start of that epoch.)
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from joulewise.core.errors import PassError
from joulewise.learn.batch_norm import FEWEST_ITEMS, freeze
from joulewise.learn.checkpoint import load_checkpoint, save_checkpoint
from joulewise.learn.items import Rows
from joulewise.learn.objective import Objective
from joulewise.learn.plan import Lessons, Pair, Plan, Trained, rate_at
from joulewise.learn.teacher import Tell

__all__ = ["Lessons", "Pair", "Plan", "Stop", "Tell", "Trained", "rate_at", "train"]

Stop = Callable[[float], bool]
"""Called after every epoch with the seconds that training will have taken after another one; True
ends it before that."""

SAVE_EVERY_S = 60.0
TELL_EVERY_S = 1.0

MOST_HALVINGS = 3
MOMENTUM = 0.9

GROUPED_STEPS = 32
"""Steps within which items are sorted by their length.

Source: a judgement: on Reuters R8 at 32 items a step, 32 steps leave 4 % of padding, one step 57 %.
"""

LARGEST_GRADIENT = 1.0
"""Length to which longer gradients are cut."""

OUT_OF_MEMORY = ("allocate memory", "out of memory", "not enough memory")


def train(
    student: nn.Module,
    lessons: Lessons,
    plan: Plan,
    *,
    checkpoint: Path | None = None,
    tell: Tell | None = None,
    stop: Stop | None = None,
    save_every_s: float = SAVE_EVERY_S,
) -> Trained:
    """Train `student` in place; it is left in evaluation mode with the weights of its best epoch.

    Among epochs whose scores cannot be told apart, the last is the best: what was chosen for a
    score by chance looks better on the search items than it is, and is refuted in the end.

    Args:
        student: takes one tensor per input and returns a tuple.
        lessons: what it learns from.
        plan: how.
        checkpoint: folder from which an interrupted run goes on; None keeps nothing.
        tell: told of the progress.
        stop: asked before every epoch but the first whether to end.
        save_every_s: least time between two checkpoints, s.

    Raises:
        PassError: there is nothing to learn from, the plan does not fit the model, the loss is no
            number even at a rate halved MOST_HALVINGS times, or memory ran out.
    """
    items = lessons.train.items
    if items < FEWEST_ITEMS:
        raise PassError(f"{items} items are too few to train on; give {FEWEST_ITEMS} or more")
    fitting = replace(plan, batch_items=min(plan.batch_items, items))
    folder = None if checkpoint is None else checkpoint / _identity(student, lessons, fitting)
    try:
        with _repeatable(), closing(Objective(student, lessons, fitting)) as objective:
            run = _Run(student, objective, fitting, lessons, tell or _silent)
            return run.go(folder, stop, save_every_s)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(x in str(error) for x in OUT_OF_MEMORY):
            raise
        raise PassError(
            f"out of memory with {fitting.batch_items} items per step; give a smaller batch_items"
        ) from error


@dataclass(kw_only=True)
class _Progress:
    """How far a run is: with weights and optimizer, all that it needs to go on."""

    step: int = 0
    halvings: int = 0
    waited: int = 0
    ended: bool = False
    best_score: float = -math.inf
    loss_sum: float = 0.0
    seconds: float = 0.0
    scores: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


class _Diverged(Exception):  # noqa: N818 - a signal: the rate is halved, and the run goes on
    """The loss, its gradient or the score is not a finite number."""


class _Run:
    """One training, from its start or a checkpoint to its end."""

    def __init__(
        self, student: nn.Module, objective: Objective, plan: Plan, lessons: Lessons, tell: Tell
    ) -> None:
        self.student, self.objective, self.plan, self.tell = student, objective, plan, tell
        self.items, self.lengths = lessons.train.items, lessons.lengths
        self.steps_per_epoch = self.items // plan.batch_items
        self.steps = plan.epochs * self.steps_per_epoch
        if any(isinstance(layer, nn.Conv2d) for layer in student.modules()):
            student.to(memory_format=torch.channels_last)
        self.weights = [x for x in student.parameters() if x.requires_grad]
        self.optimizer = _optimizer(self.weights, plan)
        self.progress = _Progress()
        self.best: dict[str, Any] = {}
        self.good: dict[str, Any] = {}

    def go(self, folder: Path | None, stop: Stop | None, save_every_s: float) -> Trained:
        """Train to the end."""
        began = time.monotonic()
        file = None if folder is None else folder / "training.pt"
        if file is not None:
            self._resume(file)
        earlier_s, first = self.progress.seconds, self.progress.step
        if not self.progress.ended:
            self.objective.prepare(folder, self.tell)
        started = saved = told = time.monotonic()
        while not self.progress.ended:
            self._advance(stop)
            now = time.monotonic()
            self.progress.seconds = earlier_s + now - began
            if file is not None and (self.progress.ended or now - saved >= save_every_s):
                save_checkpoint(file, {**self._state(), "best": self.best})
                saved = time.monotonic()
            if now - told >= TELL_EVERY_S:
                self._tell((now - started) / max(1, self.progress.step - first))
                told = now
        return self._finish()

    def _resume(self, file: Path) -> None:
        """Go on from a checkpoint, if there is a sound one."""
        found = load_checkpoint(file)
        if found is None:
            if file.exists():
                self.tell(0.0, "the checkpoint is damaged: training starts anew")
            return
        self.best = found.pop("best")
        self.good = found
        self._restore()

    def _advance(self, stop: Stop | None) -> None:
        """Take one step, and judge the student if an epoch ends with it."""
        if self.progress.step % self.steps_per_epoch == 0:
            self.good = deepcopy(self._state())
        try:
            self._learn()
            if self.progress.step % self.steps_per_epoch == 0:
                self._end_epoch(stop)
        except _Diverged:
            self._halve()

    def _learn(self) -> None:
        plan, step = self.plan, self.progress.step
        self.student.train()
        if plan.batch_items < FEWEST_ITEMS:
            freeze(self.student)
        generator = torch.manual_seed(_seed(plan.seed, step))
        loss = self.objective.loss(self._rows(step), generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        length = nn.utils.clip_grad_norm_(self.weights, LARGEST_GRADIENT)
        if not (math.isfinite(loss.item()) and math.isfinite(length.item())):
            raise _Diverged
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(step, self.steps, plan) * 0.5**self.progress.halvings
        self.optimizer.step()
        self.progress.loss_sum += loss.item()
        self.progress.step += 1

    def _rows(self, step: int) -> Rows:
        """Return the numbers of the items of a step; every epoch has an order of its own."""
        epoch, place = divmod(step, self.steps_per_epoch)
        generator = np.random.default_rng((self.plan.seed, epoch))
        order = generator.permutation(self.items)[: self.steps_per_epoch * self.plan.batch_items]
        if self.lengths is not None:
            order = _like_lengths(order, self.lengths, self.plan.batch_items, generator)
        return order[place * self.plan.batch_items :][: self.plan.batch_items]

    def _end_epoch(self, stop: Stop | None) -> None:
        """Keep the weights if none were certainly better so far, and decide whether to go on.

        Source: the rule of one standard error, Breiman, Friedman, Olshen and Stone 1984,
        "Classification and regression trees", section 3.4.3; differs: of what is as good, the last
        epoch is taken, whose rate is lowest, not the simplest model.
        """
        progress, score = self.progress, self.objective.score()
        if score is not None and not math.isfinite(score):
            raise _Diverged
        progress.losses.append(progress.loss_sum / self.steps_per_epoch)
        progress.loss_sum = 0.0
        progress.waited += 1
        if score is not None:
            progress.scores.append(score)
            if score >= progress.best_score:
                progress.best_score, progress.waited = score, 0
            if score >= progress.best_score - self.objective.score_error(progress.best_score):
                self.best = deepcopy(self.student.state_dict())
        late = score is not None and 0 < self.plan.patience <= progress.waited
        progress.ended = (
            progress.step == self.steps
            or late
            or (stop is not None and stop(self._after_another()))
        )

    def _after_another(self) -> float:
        """Return the seconds that training will have taken after another epoch."""
        epochs = len(self.progress.losses)
        return self.progress.seconds * (epochs + 1) / epochs

    def _halve(self) -> None:
        """Return to the last good weights at half the rate."""
        halvings = self.progress.halvings + 1
        if halvings > MOST_HALVINGS:
            rate = self.plan.rate * 0.5**MOST_HALVINGS
            raise PassError(
                f"the loss is not a number, even at a rate of {rate:g}; give a lower rate, "
                "or check the training items for values that are not numbers"
            )
        self._restore()
        self.progress.halvings = halvings
        self.tell(self._share, "the loss became no number: on from before at half the rate")

    def _state(self) -> dict[str, Any]:
        return {
            "progress": asdict(self.progress),
            "student": self.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def _restore(self) -> None:
        state = deepcopy(self.good)
        self.progress = _Progress(**state["progress"])
        self.student.load_state_dict(state["student"])
        self.optimizer.load_state_dict(state["optimizer"])

    @property
    def _share(self) -> float:
        return self.progress.step / self.steps

    def _tell(self, seconds_per_step: float) -> None:
        done = self.progress.step % self.steps_per_epoch
        losses = self.progress.losses
        loss = self.progress.loss_sum / done if done else (losses or [math.nan])[-1]
        epoch = min(self.plan.epochs, self.progress.step // self.steps_per_epoch + 1)
        left = _in_words((self.steps - self.progress.step) * seconds_per_step)
        words = f"epoch {epoch} of {self.plan.epochs}, loss {loss:.3g}, {left} left"
        self.tell(self._share, words)

    def _finish(self) -> Trained:
        if self.best:
            self.student.load_state_dict(self.best)
        self.student.eval()
        progress = self.progress
        return Trained(
            epochs=len(progress.losses),
            measure=self.objective.measure,
            scores=tuple(progress.scores),
            losses=tuple(progress.losses),
            seconds=progress.seconds,
            precision=self.objective.precision,
            halvings=progress.halvings,
        )


@contextmanager
def _repeatable() -> Iterator[None]:
    """Make torch choose algorithms that give the same every time; leave it as it was.

    `torch.use_deterministic_algorithms` does the same, but imports Inductor first.
    """
    before = torch.get_deterministic_debug_mode()
    fills = torch.utils.deterministic.fill_uninitialized_memory
    with torch.random.fork_rng(devices=[]):
        torch.set_deterministic_debug_mode("warn")
        torch.utils.deterministic.fill_uninitialized_memory = False  # costs time, gives nothing
        try:
            yield
        finally:
            torch.set_deterministic_debug_mode(before)
            torch.utils.deterministic.fill_uninitialized_memory = fills


def _optimizer(weights: list[nn.Parameter], plan: Plan) -> torch.optim.Optimizer:
    """Return the optimizer; biases, scales and offsets are not decayed."""
    if not weights:
        raise PassError("the model has no weights that could be trained")
    groups = [
        {"params": [x for x in weights if x.ndim > 1], "weight_decay": plan.weight_decay},
        {"params": [x for x in weights if x.ndim <= 1], "weight_decay": 0.0},
    ]
    if plan.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=plan.rate, momentum=MOMENTUM, nesterov=True)
    return torch.optim.AdamW(groups, lr=plan.rate)


def _like_lengths(
    order: Rows, lengths: Rows, batch_items: int, generator: np.random.Generator
) -> Rows:
    """Return an order in which items of like length follow each other, GROUPED_STEPS at a time.

    So little is computed for padding, and yet the steps of an epoch come in a random order, and no
    two epochs have the same steps.
    """
    window = GROUPED_STEPS * batch_items
    windows = [order[start : start + window] for start in range(0, len(order), window)]
    near = np.concatenate([each[np.argsort(lengths[each], kind="stable")] for each in windows])
    steps: Rows = generator.permutation(near.reshape(-1, batch_items))
    return steps.reshape(-1)


def _seed(seed: int, step: int) -> int:
    """Return a seed for one step."""
    return int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0] >> 1)


def _identity(student: nn.Module, lessons: Lessons, plan: Plan) -> str:
    """Return a digest of all that the outcome depends on, apart from the machine."""
    digest = hashlib.sha256(repr((plan, lessons.inputs, lessons.pairs)).encode())
    for store in (lessons.train, lessons.search):
        digest.update(b"none" if store is None else store.digest().encode())
    for module in (student, lessons.teacher):
        weights = {} if module is None else module.state_dict()
        for name, value in weights.items():
            digest.update(name.encode())
            digest.update(value.detach().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _in_words(seconds: float) -> str:
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"


def _silent(_share: float, _words: str) -> None:
    """Tell nobody."""
