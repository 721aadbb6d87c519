"""What to try next, when the recipes that are tried anyway are through.

The space is conditional: first a way, that is passes one after the other and how the result is run;
then, for each pass, values of the parameters that it declares as searched
(`joulewise.compress.searched`). Ways come from the recipes that were tried: whatever a search found
worth a try is varied, students that were taught among them, which are not taught again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy import special

from joulewise.compress.passes import PASSES
from joulewise.compress.searched import values_of
from joulewise.core.claim import Trial
from joulewise.core.recipe import Recipe, Step
from joulewise.search.structure import TEACHING, keeps_quality

__all__ = ["SAMPLERS", "Point", "Sampler", "point_of", "points_of", "survey"]

Value = str | int | float | bool
Floats = npt.NDArray[np.float64]

DOUBT = 0.15
"""Spread of the effect of one value on the log of the joules before anything is known: a seventh
more or less. A judgement: on the recorded spaces few values do more."""

WAYS_APART = 10.0
"""By how much more ways differ than values of a parameter. A judgement."""

WAY = "way"
"""Name of the choice among ways."""

ASKS = 50
"""How often a sampler is asked for something that was not tried yet."""

WORST = 4.0
"""Margins that the loss of what failed is taken to be."""

PROMISE = 0.0005
"""Share of the joules of the cheapest so far that a try must be expected to save, times its chance
to keep the quality. A judgement: ten times as much ends replays of `records/space-engines.json` too
early."""

NOISE = 0.03
"""Spread of a log-ratio around the sum of these effects: what two measurements of one recipe differ
by, and what effects of two values together add to it. A judgement."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A recipe as a point of the space.

    Args:
        way: the recipe without the parameters that are searched.
        values: "pass.parameter" -> its value, defaults included.
    """

    way: Recipe
    values: Mapping[str, Value]

    @property
    def name(self) -> tuple[str, tuple[tuple[str, Value], ...]]:
        """What tells points apart, whether a recipe spells out a default or not."""
        return self.way.key, tuple(sorted(self.values.items()))

    @property
    def recipe(self) -> Recipe:
        """The recipe, without what is a default anyway."""
        taught = _taught(self.way)
        filled = map(self._filled, self.way.steps[taught:])
        return replace(self.way, steps=(*self.way.steps[:taught], *filled))

    def _filled(self, step: Step) -> Step:
        given = {
            key.partition(".")[2]: value
            for key, value in self.values.items()
            if key.partition(".")[0] == step.name
        }
        defaults = {name: known[0] for name, known in values_of(PASSES.load(step.name)).items()}
        more = {name: value for name, value in given.items() if value != defaults[name]}
        return replace(step, parameters={**step.parameters, **more})


def point_of(recipe: Recipe) -> Point:
    """Return the point of a recipe; up to the last step that teaches it stays as it is."""
    taught = _taught(recipe)
    steps: list[Step] = list(recipe.steps[:taught])
    values: dict[str, Value] = {}
    for step in recipe.steps[taught:]:
        known = values_of(PASSES.load(step.name))
        values |= {
            f"{step.name}.{name}": step.parameters.get(name, choices[0])
            for name, choices in known.items()
        }
        rest = {name: value for name, value in step.parameters.items() if name not in known}
        steps.append(replace(step, parameters=rest))
    return Point(way=replace(recipe, steps=tuple(steps)), values=values)


def _taught(recipe: Recipe) -> int:
    """Return how many steps there are up to the last one that teaches."""
    numbers = (number for number, step in enumerate(recipe.steps, 1) if step.name in TEACHING)
    return max(numbers, default=0)


def points_of(recipes: Sequence[Recipe]) -> tuple[Point, ...]:
    """Return all points of the ways of `recipes`, these themselves included."""
    ways = {point.way.key: point for point in map(point_of, recipes)}
    return tuple(found for point in ways.values() for found in _varied(point))


def _varied(point: Point) -> Iterator[Point]:
    choices = [_choices(name) for name in point.values]
    for values in product(*choices):
        yield replace(point, values=dict(zip(point.values, values, strict=True)))


def _choices(name: str) -> tuple[Value, ...]:
    step, _, parameter = name.partition(".")
    return values_of(PASSES.load(step))[parameter]


def survey(trials: Iterable[Trial]) -> tuple[list[tuple[Point, Trial]], list[Point]]:
    """Return what was tried of a search's space, and what was not.

    The space is that of the ways that did not always fail. Of these, what failed is among what was
    tried too: a value that no model can take would be proposed again and again otherwise.
    """
    changed = [(point_of(trial.recipe), trial) for trial in trials if not trial.recipe.lossless]
    known = {point.name for point, _ in changed}
    space = points_of([trial.recipe for _, trial in changed if trial.state != "failed"])
    ways = {point.way.key for point in space}
    tried = [(point, trial) for point, trial in changed if point.way.key in ways]
    return tried, [point for point in space if point.name not in known]


Tried = Sequence[tuple[Point, Trial]]
Sampler = Callable[[Sequence[Point], Tried, float, int], Point | None]
"""Picks one of some untried points, or none where none is worth a try: from trials with their
points, the margin, and a seed."""


def by_chance(untried: Sequence[Point], tried: Tried, margin: float, seed: int) -> Point:  # noqa: ARG001
    """Return any: the sampler that others must beat."""
    return untried[int(np.random.default_rng(seed).integers(len(untried)))]


def by_parzen(untried: Sequence[Point], tried: Tried, margin: float, seed: int) -> Point:
    """Return what Optuna's tree-structured Parzen estimator asks for.

    Source: Bergstra et al. 2011, "Algorithms for hyper-parameter optimization", section 4.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def settled(point: Point, trial: Trial) -> optuna.trial.FrozenTrial:
        kept = trial.state == "measured" and trial.ratio is not None
        params = _params(point)
        return optuna.trial.create_trial(
            params=params,
            distributions={name: space[name] for name in params},
            value=math.log(trial.ratio.value) if kept and trial.ratio else None,
            state=optuna.trial.TrialState.COMPLETE if kept else optuna.trial.TrialState.PRUNED,
        )

    every = [*untried, *(point for point, _ in tried)]
    names = {name for point in every for name in _params(point)}
    space = {
        name: optuna.distributions.CategoricalDistribution(
            sorted({_params(point)[name] for point in every if name in _params(point)}, key=str)
        )
        for name in sorted(names)
    }
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=0)
    study = optuna.create_study(sampler=sampler)
    study.add_trials([settled(point, trial) for point, trial in tried])
    left = {tuple(sorted(_params(point).items(), key=str)): point for point in untried}
    for _ in range(ASKS):
        asked = study.ask()
        way = asked.suggest_categorical(WAY, space[WAY].choices)
        wanted = next(_params(point) for point in every if point.way.key == way)
        found = {name: asked.suggest_categorical(name, space[name].choices) for name in wanted}
        point = left.get(tuple(sorted(found.items(), key=str)))
        if point is not None:
            return point
    return by_chance(untried, tried, margin, seed)


def _params(point: Point) -> dict[str, Value]:
    return {WAY: point.way.key, **point.values}


def by_model(
    untried: Sequence[Point],
    tried: Tried,
    margin: float,
    seed: int,  # noqa: ARG001
) -> Point | None:
    """Return the point whose expected saving is largest, None where it is below PROMISE.

    A surrogate: the log of the joules and the loss of quality are each taken to be a sum of effects
    of the way and of each value, known up to a normal error (Bayesian linear regression). What is
    maximised is the expected improvement on the cheapest that keeps the quality, times the chance
    to keep it.

    Source: Jones, Schonlau and Welch 1998, "Efficient global optimization of expensive black-box
    functions", eq. (15); with a constraint, Gardner et al. 2014, ICML, eq. (4).
    """
    features = _features([*(point for point, _ in tried), *untried])
    seen, unseen = features[: len(tried)], features[len(tried) :]
    measured = [n for n, (_, trial) in enumerate(tried) if trial.ratio is not None]
    logs = np.array([math.log(tried[n][1].ratio.value) for n in measured])  # type: ignore[union-attr]
    best = min(
        (log for n, log in zip(measured, logs, strict=True) if tried[n][1].state == "measured"),
        default=0.0,
    )
    mean, spread = _predicted(seen[measured], logs, unseen, DOUBT, NOISE)
    losses = np.array([_loss(trial, margin) for _, trial in tried])
    loss, doubt = _predicted(seen, losses, unseen, margin, margin / 4)
    z = (best - mean) / spread
    density = np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    gain = spread * (z * special.ndtr(z) + density)
    promised = gain * special.ndtr((margin - loss) / doubt)
    place = int(np.argmax(promised))
    return untried[place] if promised[place] >= PROMISE else None


def _loss(trial: Trial, margin: float) -> float:
    """Return the loss of quality, between none and a few margins; failures lose as much."""
    if trial.difference is None:
        return 0.0 if trial.state == "measured" else WORST * margin
    found = min(max(-trial.difference.value, 0.0), WORST * margin)
    return found if keeps_quality(trial) else max(found, margin)


def _features(points: Sequence[Point]) -> Floats:
    """Return one column per way and per value, not 0 where a point has it, and a constant one."""
    names = sorted({(key, str(x)) for point in points for key, x in _params(point).items()})
    places = {name: 1 + place for place, name in enumerate(names)}
    features = np.zeros((len(points), 1 + len(names)))
    features[:, 0] = WAYS_APART
    for row, point in zip(features, points, strict=True):
        for key, value in _params(point).items():
            row[places[key, str(value)]] = WAYS_APART if key == WAY else 1.0
    return features


def _predicted(
    known: Floats, values: Floats, asked: Floats, prior: float, noise: float
) -> tuple[Floats, Floats]:
    """Return mean and standard deviation of what a linear model with a normal prior predicts.

    Source: Bishop 2006, "Pattern recognition and machine learning", eqs. (3.53) to (3.59).
    """
    centre = float(np.mean(values)) if len(values) else 0.0
    precision = np.eye(known.shape[1]) / prior**2 + known.T @ known / noise**2
    covariance = np.linalg.inv(precision)
    weights = covariance @ known.T @ (values - centre) / noise**2
    variance = noise**2 + np.einsum("ij,jk,ik->i", asked, covariance, asked)
    return centre + asked @ weights, np.sqrt(variance)


SAMPLERS: Mapping[str, Sampler] = {"random": by_chance, "tpe": by_parzen, "model": by_model}
"""Name -> sampler."""
