from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.spaces import Space, replay
from joulewise.core.claim import Trial
from joulewise.core.recipe import Recipe, RunSettings, parse_steps
from joulewise.core.records import load
from joulewise.search.run import PROPOSE
from joulewise.search.sampling import SAMPLERS, Point, point_of, points_of, survey
from tests.trials import failed, measured, rejected

RUN = RunSettings(runtime="onnxruntime", threads=1)
MARGIN = 0.005


def recipe(text: str) -> Recipe:
    return Recipe(steps=parse_steps(text), run=RUN)


WAYS = [
    recipe("static_int8"),
    recipe("smooth + static_int8(tolerance=0.1)"),
    recipe("smooth(alpha=0.3) + prune(ratio=0.65) + distill + static_int8"),
    recipe("weight_only"),
    Recipe(run=RunSettings(runtime="openvino", precision="bf16")),
]
POINTS = points_of(WAYS)


@given(st.sampled_from(POINTS))
def test_a_recipe_and_its_point_are_the_same(point: Point) -> None:
    assert point_of(point.recipe) == point
    assert point.recipe.run == point.way.run


def test_a_space_has_every_value_of_every_way_once() -> None:
    static, smooth, block = 3 * 2 * 2 * 3 * 3, 3, 2 * 2
    assert len(POINTS) == static + smooth * static + static + block + 1
    assert (
        len({point.name for point in POINTS}) == len({p.recipe.key for p in POINTS}) == len(POINTS)
    )


def test_a_default_that_is_spelled_out_makes_no_other_point() -> None:
    one, other = recipe("static_int8"), recipe("static_int8(operators=all, per_channel=true)")
    assert point_of(one).name == point_of(other).name
    assert point_of(one).name != point_of(recipe("static_int8(range=mse)")).name
    assert point_of(one).name != point_of(replace(one, run=replace(RUN, threads=2))).name


def test_what_was_taught_stays_as_it_is() -> None:
    """Nothing is taught twice: only what follows is varied."""
    for point in points_of([WAYS[2]]):
        assert point.recipe.steps[:3] == WAYS[2].steps[:3]
        assert [step.name for step in point.recipe.steps[3:]] == ["static_int8"]


def test_a_parameter_that_is_not_searched_is_kept() -> None:
    for point in points_of([WAYS[1]]):
        assert point.recipe.steps[1].parameters["tolerance"] == 0.1


EFFECTS: Mapping[object, float] = {
    "all": -0.2, "compute": 0.1, "mse": -0.1, 2: 0.15, 5: 0.3, 0.5: -0.05,
}  # fmt: skip


def outcome(point: Point) -> Trial:
    """Return a trial whose joules follow from the values; the cheapest ones lose their quality."""
    log = -0.5 * len(point.values) / 5 + sum(EFFECTS.get(x, 0.0) for x in point.values.values())
    trial = measured(point.recipe, float(np.exp(log)))
    return rejected(point.recipe) if point.values.get("static_int8.range") == "p99.99" else trial


def searched(name: str, points: Sequence[Point], tries: int, seed: int) -> list[Point]:
    """Return what a sampler picks, one after the other, after the first of `points`."""
    tried, untried = [(points[0], outcome(points[0]))], list(points[1:])
    for number in range(tries):
        picked = SAMPLERS[name](untried, tried, MARGIN, 1000 * seed + number)
        if picked is None:
            break
        untried.remove(picked)
        tried.append((picked, outcome(picked)))
    return [point for point, _ in tried]


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_pick_what_was_not_tried_and_the_same_for_the_same_seed(name: str) -> None:
    first = searched(name, POINTS[-6:], 5, seed=1)
    assert {point.name for point in first} == {point.name for point in POINTS[-6:]}
    assert searched(name, POINTS[-6:], 5, seed=1) == first


@pytest.mark.parametrize("name", SAMPLERS)
def test_failures_teach_and_do_not_stop(name: str) -> None:
    tried = [(point, failed(point.recipe)) for point in POINTS[:3]]
    assert SAMPLERS[name](POINTS[3:], tried, MARGIN, 0) in POINTS[3:]


def test_a_value_that_failed_is_not_proposed_again() -> None:
    """A small student has no five nodes that could stay in float, whatever else is chosen."""
    student = "prune(ratio=0.65) + distill + static_int8"
    tries = [
        measured(recipe(student), 0.11),
        measured(recipe(f"{student}(operators=compute)"), 0.12),
        failed(recipe(f"{student}(islands=5)")),
    ]
    for seed in range(6):
        tried, untried = survey(tries)
        assert len(tried) == len(tries)
        point = PROPOSE(untried, tried, MARGIN, seed)
        assert point is not None
        assert point.values["static_int8.islands"] != 5
        tries.append(measured(point.recipe, 0.12))


def test_nothing_is_proposed_that_is_not_expected_to_save() -> None:
    (cheap,), dear = points_of(WAYS[4:]), points_of(WAYS[:1])
    tried = [(point, measured(point.recipe, 0.5)) for point in dear[::3]]
    untried = [point for number, point in enumerate(dear) if number % 3]
    assert PROPOSE(untried, [(cheap, measured(cheap.recipe, 0.2)), *tried], MARGIN, 0) is None
    assert PROPOSE(untried, [(cheap, rejected(cheap.recipe, 0.2)), *tried], MARGIN, 0) in untried


def test_a_way_that_always_failed_is_left() -> None:
    tried, untried = survey([measured(WAYS[0], 0.5), failed(WAYS[1])])
    assert [point.way for point, _ in tried] == [point_of(WAYS[0]).way]
    assert {point.way.key for point in untried} == {point_of(WAYS[0]).way.key}


def test_the_model_finds_what_chance_does_not() -> None:
    points = points_of(WAYS[1:2])

    def best(name: str, seed: int) -> float:
        ratios = (outcome(point).ratio for point in searched(name, points, 10, seed))
        return min(ratio.value for ratio in ratios if ratio is not None)

    found = {name: np.mean([best(name, seed) for seed in range(6)]) for name in ("model", "random")}
    lowest = min(x.value for x in (outcome(point).ratio for point in points) if x is not None)
    assert found["model"] <= 1.1 * lowest
    assert found["model"] < found["random"]


SPACES = sorted((Path(__file__).parents[2] / "records").glob("space-*.json"))


@pytest.mark.parametrize("path", SPACES, ids=[path.stem for path in SPACES])
def test_the_sampler_beats_chance_on_recorded_spaces(path: Path) -> None:
    """At equal budget: over all numbers of tries up to what a search makes, the mean log of the
    cheapest that was found is lower.
    """
    space, tries, seeds = load(Space, path), 8, 40
    (name,) = (name for name, sampler in SAMPLERS.items() if sampler is PROPOSE)
    found = {
        each: np.log([replay(space, SAMPLERS[each], tries, seed) for seed in range(seeds)])
        for each in (name, "random")
    }
    assert found[name].mean() < found["random"].mean()
