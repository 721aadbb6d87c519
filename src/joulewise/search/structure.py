"""Which smaller models are tried, where there are items to learn from.

A smaller model is cut out of the original, taught to do its job again, and then quantized the way
that was best for the original. How much can be cut is found by halving: each width that keeps the
quality is followed by a narrower one, each that does not, or that cannot be made so narrow, by a
wider one. Half of the residual blocks are left out first, where there are any: a shallow wide
network has fewer operators to start than a deep narrow one, and learns more with the same joules.
Last, the two cheapest models get the original, quantized, as a second stage for what they are
unsure of: as little as possible, then more until the final test is likely to be passed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from joulewise.core.claim import Trial
from joulewise.core.host import Host
from joulewise.core.recipe import Recipe, RunSettings, Step
from joulewise.core.settings import Settings
from joulewise.search.space import is_transformer, plain_steps

__all__ = [
    "TAUGHT",
    "TEACHING",
    "WIDTHS",
    "Try",
    "cascade_recipes",
    "keeps_quality",
    "post_training",
    "taught_steps",
    "teaches",
    "try_cascades",
    "try_structures",
]

TAUGHT = ("prune", "distill")
"""The passes that every smaller model needs."""

WIDTHS = (0.2, 0.35, 0.5, 0.65, 0.8, 0.87, 0.93)
"""Shares of the cost that are cut away, from which the halving starts in the middle."""

BODIES = ((Step(name="drop_blocks", parameters={"ratio": 0.5}),), ())
"""What is done to a model before its width is cut; the next where the one before does not do."""

TRANSFORMER_RATE = 1e-4
"""Learning rate of transformers, which that of convolutions would upset. Source: a judgement; Jiao
et al. 2020 (arXiv:1909.10351) distil BERT with 5e-5 and less, for more epochs than here."""

TEACHING = frozenset({"distill", "qat"})
"""The passes that train."""

LANES = {"avx512": 16}
"""Instruction set -> floats in a register; OTHER_LANES elsewhere. ONNX Runtime's convolutions are
fast where the number of channels is a multiple of it (MLAS_PLATFORM::NchwcBlockSize)."""

OTHER_LANES = 8

CASCADES = 2
"""How many of the cheapest models get a second stage."""

DEFERRED = (None, 0.1, 0.2, 0.4)
"""Smallest share of items that a cascade passes on, one after the other until it is sure enough to
pass the final test; None for as few as the items that it was set on allow."""

Try = Callable[[Recipe], Trial]
"""Tries one recipe and returns its trial."""


def post_training(
    trials: Sequence[Trial], best: Mapping[str, RunSettings]
) -> tuple[tuple[tuple[Step, ...], RunSettings], ...]:
    """Return, for each runtime, what is worth doing to a trained model before it is run.

    Args:
        trials: of the original, changed after training or not at all.
        best: runtime -> the settings that suit it best.

    Returns:
        For each runtime its cheapest trial's steps and settings, or where none keeps the quality
        those of the one that loses least: a model that is taught may bear what the original did
        not. And the same without steps, as a small model may not gain from them any more; a
        conversion stays, where the runtime needs one.
    """
    found: list[tuple[tuple[Step, ...], RunSettings]] = []
    for runtime, run in best.items():
        changed = [
            trial
            for trial in trials
            if trial.recipe.run.runtime == runtime and not trial.recipe.lossless
        ]
        way = _cheapest(changed) or _least_harmful(changed)
        plain = (plain_steps(runtime), run)
        best_way = plain if way is None else (way.recipe.steps, way.recipe.run)
        found += [plain] if best_way == plain else [best_way, plain]
    return tuple(found)


def teaches(recipe: Recipe) -> bool:
    """Return whether a step of `recipe` trains."""
    return any(step.name in TEACHING for step in recipe.steps)


def _cheapest(trials: Sequence[Trial]) -> Trial | None:
    measured = [(t.ratio.value, t) for t in trials if t.state == "measured" and t.ratio]
    return min(measured, key=lambda pair: pair[0])[1] if measured else None


def _least_harmful(trials: Sequence[Trial]) -> Trial | None:
    """Return the trial rejected for its quality that loses least of it, and then of the joules."""
    known = [
        (-trial.difference.value, math.inf if trial.ratio is None else trial.ratio.value, number)
        for number, trial in enumerate(trials)
        if trial.difference is not None and trial.state == "rejected" and not keeps_quality(trial)
    ]
    return trials[min(known)[2]] if known else None


def taught_steps(settings: Settings, host: Host, operators: Collection[str]) -> tuple[Step, Step]:
    """Return the steps that make a model narrower and teach it again, but for how narrow.

    Args:
        settings: what the user declared.
        host: the machine that the model is for.
        operators: operator types of the original.
    """
    lanes = [count for kind, count in LANES.items() if kind in host.instruction_sets]
    lesson: dict[str, str | int | float] = {"epochs": settings.epochs, "augment": settings.augment}
    if is_transformer(operators):
        lesson["rate"] = TRANSFORMER_RATE
    return (
        Step(name="prune", parameters={"align": max(lanes, default=OTHER_LANES)}),
        Step(name="distill", parameters=lesson),
    )


def try_structures(
    attempt: Try,
    ways: Sequence[tuple[tuple[Step, ...], RunSettings]],
    prune_for: Callable[[tuple[Step, ...]], Step],
    distill: Step,
) -> tuple[Trial, ...]:
    """Try narrower and narrower models as long as they keep the quality, one body after the other.

    Args:
        attempt: tries a recipe.
        ways: steps and settings that follow the training.
        prune_for: gives the step that prunes what the steps of a body leave; its ratio is filled
            in here.
        distill: the step that teaches.

    Returns:
        The trials in their order; it ends early where the model cannot be changed at all.
    """
    trials: list[Trial] = []
    for body in BODIES:
        fresh, kept = _try_widths(attempt, ways, (*body, prune_for(body), distill))
        trials += fresh
        if kept:
            break
    return tuple(trials)


def _try_widths(
    attempt: Try,
    ways: Sequence[tuple[tuple[Step, ...], RunSettings]],
    taught: tuple[Step, ...],
) -> tuple[list[Trial], bool]:
    """Return the trials, and whether a width kept the quality."""
    *body, prune, distill = taught
    trials: list[Trial] = []
    low, high = 0, len(WIDTHS)
    while low < high:
        middle = (low + high) // 2
        cut = {"ratio": WIDTHS[middle], **prune.parameters}
        first = (*body, replace(prune, parameters=cut), distill)
        fresh: list[Trial] = []
        for steps, run in ways:
            fresh.append(attempt(Recipe(steps=(*first, *steps), run=run)))
            if _cannot_be_made(fresh[-1], first):
                break
        trials += fresh
        too_much = _cannot_be_made(fresh[-1], first[len(body) : len(body) + 1])
        if all(trial.state == "failed" for trial in fresh) and not too_much:
            break
        if _keep_quality(fresh):
            low = middle + 1
        else:
            high = middle
    return trials, low > 0


def _keep_quality(trials: Sequence[Trial]) -> bool:
    """Return whether a taught model, run in one way or another, does its job.

    Where it is measured in none, those ways tell that were asked the most items: what needs too
    many joules is rejected after a few.
    """
    most = max(_items(trial) for trial in trials)
    told = [trial for trial in trials if _items(trial) == most]
    return any(trial.state == "measured" for trial in trials) or any(map(keeps_quality, told))


def _items(trial: Trial) -> int:
    return 0 if trial.difference is None else trial.difference.items


def cascade_recipes(
    trials: Sequence[Trial], ways: Sequence[tuple[tuple[Step, ...], RunSettings]]
) -> tuple[Recipe, ...]:
    """Return recipes that give the cheapest taught models a second stage.

    Args:
        trials: of taught models; those that lose too much quality may gain most.
        ways: from `post_training`: the second stage is the original after the first steps of the
            runtime.
    """
    made = [steps for steps, run in ways if steps and run.runtime == "onnxruntime"]
    asked = {"second": " + ".join(map(str, made[0]))} if made else {}
    last = Step(name="cascade", parameters=asked)
    known = [trial for trial in trials if trial.difference is not None and trial.size_bytes]
    ranked = sorted(known, key=lambda trial: trial.size_bytes or 0)
    recipes = [
        Recipe(steps=(*trial.recipe.steps, last), run=trial.recipe.run)
        for trial in ranked
        if trial.recipe.run.runtime == "onnxruntime"
    ]
    return tuple(recipes[:CASCADES])


def try_cascades(
    attempt: Try, recipes: Sequence[Recipe], is_sure: Callable[[Trial], bool]
) -> tuple[Trial, ...]:
    """Try cascades, each with more and more items deferred until it is sure.

    Args:
        attempt: tries a recipe.
        recipes: from `cascade_recipes`.
        is_sure: whether a measured trial will hardly fail the final test.
    """
    trials: list[Trial] = []
    for recipe in recipes:
        *before, last = recipe.steps
        for share in DEFERRED:
            more = {} if share is None else {"defer": share}
            cascade = replace(last, parameters={**last.parameters, **more})
            trials.append(attempt(replace(recipe, steps=(*before, cascade))))
            if not _may_gain_from_more(trials[-1], is_sure):
                break
    return tuple(trials)


def _may_gain_from_more(trial: Trial, is_sure: Callable[[Trial], bool]) -> bool:
    if trial.state == "measured":
        return not is_sure(trial)
    return trial.state == "rejected" and not keeps_quality(trial)


def _cannot_be_made(trial: Trial, steps: Sequence[Step]) -> bool:
    """Return whether one of these steps failed, so that whatever follows them fails too."""
    reason = trial.reason or ""
    return trial.state == "failed" and any(reason.startswith(f"{step} failed") for step in steps)


def keeps_quality(trial: Trial) -> bool:
    """Return whether a trial was not rejected for its quality: its joules may still be too many."""
    return trial.state == "measured" or (
        trial.state == "rejected" and "quality" not in (trial.reason or "")
    )
