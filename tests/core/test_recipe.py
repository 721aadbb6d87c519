from __future__ import annotations

from dataclasses import replace

import pytest

from joulewise.core.recipe import Recipe, RunSettings, Step

RUN = RunSettings(runtime="onnxruntime", threads=2, spinning=False, graph="all", precision="f32")
STEPS = (Step(name="prune", parameters={"ratio": 0.5}), Step(name="quantize-dynamic"))
RECIPE = Recipe(steps=STEPS, run=RUN)


def test_key_is_the_same_in_every_process_and_release() -> None:
    assert RECIPE.key == "873119285adcc55c"


def test_key_does_not_depend_on_the_order_of_parameters() -> None:
    there, back = (
        Recipe(steps=(Step(name="quantize", parameters=dict(items)),), run=RUN).key
        for items in ([("a", 1), ("b", 2)], [("b", 2), ("a", 1)])
    )
    assert there == back


@pytest.mark.parametrize(
    "other",
    [
        replace(RECIPE, steps=STEPS[:1]),
        replace(RECIPE, steps=STEPS[::-1]),
        replace(RECIPE, steps=(replace(STEPS[0], name="thin"), STEPS[1])),
        replace(RECIPE, steps=(replace(STEPS[0], parameters={"ratio": 0.25}), STEPS[1])),
        replace(RECIPE, steps=(replace(STEPS[0], parameters={"share": 0.5}), STEPS[1])),
        replace(RECIPE, run=replace(RUN, runtime="openvino")),
        replace(RECIPE, run=replace(RUN, threads=1)),
        replace(RECIPE, run=replace(RUN, threads=None)),
        replace(RECIPE, run=replace(RUN, spinning=True)),
        replace(RECIPE, run=replace(RUN, graph="basic")),
        replace(RECIPE, run=replace(RUN, precision="bf16")),
    ],
)
def test_key_depends_on_every_field(other: Recipe) -> None:
    assert other.key != RECIPE.key


def test_key_of_steps_does_not_depend_on_the_run() -> None:
    assert replace(RECIPE, run=RunSettings(runtime="openvino")).steps_key == RECIPE.steps_key


def test_key_of_steps_depends_on_the_steps() -> None:
    assert replace(RECIPE, steps=STEPS[:1]).steps_key != RECIPE.steps_key


def test_recipe_reads_as_a_chain() -> None:
    assert str(RECIPE) == (
        "prune(ratio=0.5) -> quantize-dynamic() -> "
        "run(onnxruntime, threads=2, spinning=False, graph=all, precision=f32)"
    )


def test_parameters_are_written_in_alphabetical_order() -> None:
    assert str(Step(name="quantize", parameters={"b": 2, "a": True})) == "quantize(a=True, b=2)"


def test_settings_that_nobody_asked_for_are_not_written() -> None:
    assert str(Recipe(run=RunSettings(runtime="openvino"))) == "run(openvino)"


@pytest.mark.parametrize("precision", [None, "f32"])
def test_the_original_in_its_own_precision_is_lossless(precision: str | None) -> None:
    assert Recipe(run=replace(RUN, precision=precision)).lossless


def test_another_precision_is_not_lossless() -> None:
    assert not Recipe(run=replace(RUN, precision="bf16")).lossless


def test_any_step_is_not_lossless() -> None:
    assert not RECIPE.lossless
