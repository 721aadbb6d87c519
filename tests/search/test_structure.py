"""Which smaller models are tried, and where the halving ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from joulewise.core.claim import Difference, Trial
from joulewise.core.host import read_host
from joulewise.core.recipe import Recipe, RunSettings, Step, parse_steps
from joulewise.core.settings import Settings
from joulewise.search.space import plain_steps
from joulewise.search.structure import (
    WIDTHS,
    cascade_recipes,
    post_training,
    taught_steps,
    try_cascades,
    try_structures,
)
from tests.trials import failed, int8, measured, rejected

ORT = RunSettings(runtime="onnxruntime", threads=1)
OPENVINO = RunSettings(runtime="openvino", threads=1)
AVX512 = replace(read_host(), instruction_sets=("avx2", "avx512"))
PRUNE, DISTILL = taught_steps(Settings(epochs=3, augment="flip"), AVX512, {"Conv"})
DIFFERENCE = Difference(
    value=-0.02, lower=-0.03, upper=-0.01, confidence=0.95, items=512, gained=1, lost=11, changed=20
)
BEST = {"onnxruntime": ORT, "openvino": OPENVINO}


def cut(recipe: Recipe) -> float:
    (ratio,) = [step.parameters["ratio"] for step in recipe.steps if step.name == "prune"]
    assert isinstance(ratio, float)
    return ratio


def prune_for(body: tuple[Step, ...]) -> Step:
    """Return a step that says of which body it prunes what is left."""
    costs = "shallow" if body else "deep"
    return replace(PRUNE, parameters={**PRUNE.parameters, "costs": costs})


def is_shallow(recipe: Recipe) -> bool:
    return recipe.steps[0].name == "drop_blocks"


def model_that_keeps_quality_to(limit: float) -> Callable[[Recipe], Trial]:
    """Return trials of a model that can lose a share of `limit` and do its job."""

    def attempt(recipe: Recipe) -> Trial:
        ratio = cut(recipe)
        return measured(recipe, 1 - ratio) if ratio <= limit else rejected(recipe)

    return attempt


def without_blocks(recipe: Recipe) -> Trial:
    """Return the trial of a model that has no residual blocks, and can lose all its channels."""
    reason = f"{recipe.steps[0]} failed: there is no such block"
    if is_shallow(recipe):
        return replace(failed(recipe), reason=reason)
    return measured(recipe, 1 - cut(recipe))


@pytest.mark.parametrize("limit", WIDTHS)
def test_halving_finds_the_narrowest_that_does_the_job(limit: float) -> None:
    trials = try_structures(model_that_keeps_quality_to(limit), [((), ORT)], prune_for, DISTILL)
    kept = [cut(trial.recipe) for trial in trials if trial.state == "measured"]
    assert max(kept) == limit
    assert len(trials) == 3  # of seven widths
    assert len({cut(trial.recipe) for trial in trials}) == len(trials)
    assert all(is_shallow(trial.recipe) for trial in trials)


def test_a_model_that_misses_its_blocks_keeps_them() -> None:
    def deep(recipe: Recipe) -> Trial:
        return rejected(recipe) if is_shallow(recipe) else measured(recipe, 0.5)

    trials = try_structures(deep, [((), ORT)], prune_for, DISTILL)
    assert [is_shallow(trial.recipe) for trial in trials] == [True] * 3 + [False] * 3


def test_a_model_without_blocks_loses_channels_alone() -> None:
    trials = try_structures(without_blocks, [((), ORT), ((), OPENVINO)], prune_for, DISTILL)
    assert [trial.state for trial in trials] == ["failed"] + ["measured"] * 6
    assert max(cut(trial.recipe) for trial in trials[1:]) == max(WIDTHS)


def test_all_ways_share_what_was_taught() -> None:
    int8_step = Step(name="static_int8")
    ways = [((int8_step,), ORT), ((), OPENVINO)]
    trials = try_structures(model_that_keeps_quality_to(1.0), ways, prune_for, DISTILL)
    first, second = trials[:2]
    names = [step.name for step in first.recipe.steps]
    assert names == ["drop_blocks", "prune", "distill", "static_int8"]
    assert first.recipe.steps[:3] == second.recipe.steps
    assert first.recipe.steps[1].parameters["align"] == 16
    assert first.recipe.steps[1].parameters["costs"] == "shallow"
    assert first.recipe.steps[2].parameters == {"epochs": 3, "augment": "flip"}
    assert (first.recipe.run, second.recipe.run) == (ORT, OPENVINO)


def test_widths_are_what_the_registers_hold() -> None:
    narrow = replace(AVX512, instruction_sets=("avx2",))
    assert taught_steps(Settings(), narrow, {"Conv"})[0].parameters == {"align": 8}


def test_transformers_are_taught_gently() -> None:
    _, distill = taught_steps(Settings(), AVX512, {"MatMul", "Softmax", "LayerNormalization"})
    assert distill.parameters["rate"] == 1e-4
    assert "rate" not in DISTILL.parameters


def test_where_less_can_be_cut_than_is_asked_for_less_is_tried() -> None:
    def feed_forward_alone(recipe: Recipe) -> Trial:
        if cut(recipe) > 0.6:
            (prune,) = [step for step in recipe.steps if step.name == "prune"]
            reason = f"{prune} failed: at most 60 % can be pruned away here; ask for less"
            return replace(failed(recipe), reason=reason)
        return measured(recipe, 1 - cut(recipe))

    trials = try_structures(feed_forward_alone, [((), ORT), ((), OPENVINO)], prune_for, DISTILL)
    assert max(cut(trial.recipe) for trial in trials if trial.state == "measured") == 0.5
    assert len([trial for trial in trials if trial.state == "failed"]) == 1


def test_a_model_that_cannot_be_changed_ends_it() -> None:
    trials = try_structures(failed, [((), ORT), ((), OPENVINO)], prune_for, DISTILL)
    assert len(trials) == 4  # with and without its blocks


def test_too_many_joules_is_no_loss_of_quality() -> None:
    def dear(recipe: Recipe) -> Trial:
        reason = "needs 1.30 x the joules of the strongest lossless way"
        return replace(rejected(recipe, 1.3), reason=reason)

    trials = try_structures(dear, [((), ORT)], prune_for, DISTILL)
    assert max(cut(trial.recipe) for trial in trials) == max(WIDTHS)


def test_many_items_tell_more_of_a_width_than_few() -> None:
    """What needs too many joules is asked few items, so it says less of the quality than others."""

    def attempt(recipe: Recipe) -> Trial:
        if recipe.run == OPENVINO:
            few = replace(rejected(recipe, 2.0), reason="needs 2.00 x the joules")
            return replace(few, difference=DIFFERENCE)
        if cut(recipe) <= WIDTHS[0]:
            return measured(recipe, 0.9)
        return replace(rejected(recipe, 0.5), difference=replace(DIFFERENCE, items=2000))

    trials = try_structures(attempt, [((), ORT), ((), OPENVINO)], prune_for, DISTILL)
    assert min(cut(trial.recipe) for trial in trials) == WIDTHS[0]
    assert max(cut(trial.recipe) for trial in trials) == WIDTHS[len(WIDTHS) // 2]


def test_a_conversion_stays_where_the_runtime_needs_it() -> None:
    run = RunSettings(runtime="litert", threads=1)
    plain, changed = Recipe(steps=plain_steps("litert"), run=run), int8("litert", int8="static")
    changed = replace(changed, run=run)
    trials = [measured(Recipe(run=ORT), 1.0), measured(plain, 0.8), measured(changed, 0.4)]
    best = {"onnxruntime": ORT, "litert": run}
    assert post_training(trials, best) == (((), ORT), (changed.steps, run), (plain.steps, run))
    assert post_training(trials[:2], best) == (((), ORT), (plain.steps, run))


def test_what_was_best_for_the_original_follows_and_plain_float_too() -> None:
    trials = [
        measured(Recipe(run=ORT), 1.0),
        measured(int8("static_int8", operators="all"), 0.5),
        measured(int8("static_int8", operators="compute"), 0.4),
        rejected(replace(int8("nncf_int8"), run=OPENVINO), 0.2),
    ]
    assert post_training(trials, BEST) == (
        (trials[2].recipe.steps, ORT),
        ((), ORT),
        ((), OPENVINO),
    )


def test_what_the_original_could_not_bear_a_model_that_is_taught_may() -> None:
    def lost(kind: str, value: float, ratio: float | None = None) -> Trial:
        return replace(
            rejected(int8(kind=kind), ratio), difference=replace(DIFFERENCE, value=value)
        )

    dear = replace(lost("dear", -0.001, 1.4), reason="needs 1.40 x the joules")
    trials = [
        measured(Recipe(run=ORT), 1.0), dear, lost("a", -0.03, 0.2), lost("b", -0.006, 0.3),
        lost("c", -0.006, 0.25), lost("d", -0.006), failed(int8(kind="e")),
    ]  # fmt: skip
    assert post_training(trials, {"onnxruntime": ORT}) == ((trials[4].recipe.steps, ORT), ((), ORT))


def test_the_smallest_models_get_a_second_stage() -> None:
    def known(name: str, size_bytes: int, run: RunSettings = ORT) -> Trial:
        recipe = Recipe(steps=(Step(name=name),), run=run)
        return replace(rejected(recipe), difference=DIFFERENCE, size_bytes=size_bytes)

    trials = [
        known("large", 300), known("small", 100), known("middle", 200),
        known("other", 50, OPENVINO), failed(int8()),
    ]  # fmt: skip
    found = cascade_recipes(trials, [((), ORT)])
    assert [[step.name for step in recipe.steps] for recipe in found] == [
        ["small", "cascade"],
        ["middle", "cascade"],
    ]
    assert all(recipe.run == ORT for recipe in found)
    assert all(not recipe.steps[-1].parameters for recipe in found)


def test_the_second_stage_is_the_original_in_int8_where_that_pays() -> None:
    trials = [replace(measured(int8("small"), 0.3), size_bytes=100, difference=DIFFERENCE)]
    quantized = (Step(name="smooth"), Step(name="static_int8", parameters={"range": "p99.99"}))
    (found,) = cascade_recipes(trials, [((), OPENVINO), (quantized, ORT), ((), ORT)])
    second = found.steps[-1].parameters["second"]
    assert isinstance(second, str)
    assert parse_steps(second) == quantized


def test_more_is_passed_on_until_a_cascade_is_sure() -> None:
    """With 0.2 of the items deferred it may be sure; what costs too much ends."""
    first, dear = (Recipe(steps=(Step(name=x), Step(name="cascade")), run=ORT) for x in ("a", "b"))

    def share(trial: Trial) -> object:
        return trial.recipe.steps[-1].parameters.get("defer")

    def attempt(recipe: Recipe) -> Trial:
        if recipe.steps[0].name == "b":
            return replace(rejected(recipe, 1.3), reason="needs 1.30 x the joules")
        trial = measured(recipe, 0.4)
        return trial if share(trial) else rejected(recipe)

    trials = try_cascades(attempt, [first, dear], lambda trial: share(trial) == 0.2)
    assert [share(trial) for trial in trials] == [None, 0.1, 0.2, None]
