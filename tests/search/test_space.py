from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from joulewise.core.host import Host, read_host
from joulewise.core.recipe import Recipe, RunSettings, Step
from joulewise.search.space import (
    anchor_recipe,
    as_found_recipe,
    changed_recipes,
    converted_recipes,
    earlier_steps,
    is_converted,
    lossless_recipes,
    plain_steps,
)

BEST = {
    "onnxruntime": RunSettings(runtime="onnxruntime", threads=1),
    "openvino": RunSettings(runtime="openvino", threads=1, precision="f32"),
}
ORT = {"onnxruntime": BEST["onnxruntime"]}
X86 = replace(read_host(), architecture="x86_64", instruction_sets=("avx2", "avx512"))
VNNI = replace(X86, instruction_sets=("avx2", "avx512", "vnni"))
ARM = replace(X86, architecture="aarch64", instruction_sets=("dotprod",))


def reduced(recipes: Sequence[Recipe]) -> list[object]:
    """Return the range reduction of every static step, in order."""
    steps = [step for recipe in recipes for step in recipe.steps]
    return [s.parameters["reduce_range"] for s in steps if s.name == "static_int8"]


def test_without_vnni_seven_bits_are_tried_first() -> None:
    assert reduced(changed_recipes(["Conv"], ORT, X86))[:2] == [True, False]


@pytest.mark.parametrize("host", [VNNI, ARM], ids=["vnni", "arm"])
def test_where_nothing_saturates_eight_bits_are_tried_first(host: Host) -> None:
    assert reduced(changed_recipes(["Conv"], ORT, host))[:2] == [False, True]


def test_every_static_step_has_its_own_variant() -> None:
    steps = [recipe.steps for recipe in changed_recipes(["Conv"], ORT, VNNI)]
    kinds = {tuple(sorted(step.parameters.items())) for (step,) in steps}
    assert len(kinds) == len(steps) == 4
    assert {dict(kind)["operators"] for kind in kinds} == {"all", "compute"}
    assert {dict(kind)["reduce_range"] for kind in kinds} == {True, False}


@pytest.mark.parametrize(("operator", "dynamic"), [("MatMul", 1), ("Conv", 0), ("Gemm", 0)])
def test_matrix_products_are_also_quantized_dynamically(operator: str, dynamic: int) -> None:
    recipes = changed_recipes([operator, "Relu"], ORT, VNNI)
    names = [step.name for recipe in recipes for step in recipe.steps]
    assert names.count("dynamic_int8") == dynamic
    assert names.count("static_int8") == 4


@pytest.mark.parametrize(
    "operators",
    [
        ["MatMul", "Softmax", "Add"],
        ["MatMul", "LayerNormalization", "Softmax", "Conv"],
        ["MatMul", "Gemm", "LayerNormalization"],
    ],
    ids=["attention", "patches", "norm"],
)
@pytest.mark.parametrize(("host", "saturates"), [(VNNI, False), (X86, True)])
def test_transformers_are_smoothed_first(operators: list[str], host: Host, saturates: bool) -> None:
    recipes = changed_recipes(operators, ORT, host)
    smoothed = [recipe.steps for recipe in recipes if len(recipe.steps) > 1]
    for first, second in smoothed:
        assert first.name == "smooth"
        assert second.parameters["reduce_range"] == saturates
    names = [second.name for _, second in smoothed]
    assert names == ["dynamic_int8", "static_int8"]
    assert smoothed[1][1].parameters["operators"] == "transformer"


@pytest.mark.parametrize(
    "operators",
    [["Conv", "MatMul", "Softmax"], ["Conv", "Gemm", "Softmax"], ["Gemm", "Softmax"], ["MatMul"]],
)
def test_other_networks_are_not(operators: list[str]) -> None:
    recipes = changed_recipes(operators, ORT, VNNI)
    assert all(len(recipe.steps) == 1 for recipe in recipes)
    assert "transformer" not in str(recipes)


@pytest.mark.parametrize(("host", "saturates"), [(VNNI, False), (X86, True)])
def test_padding_is_cut_off_first_where_there_is_a_mask(host: Host, saturates: bool) -> None:
    operators, inputs = ["MatMul", "Softmax"], ["input_ids", "attention_mask"]
    plain = changed_recipes(operators, BEST, host)
    recipes = changed_recipes(operators, BEST, host, inputs)
    added = [recipe for recipe in recipes if recipe not in plain]
    assert [recipe for recipe in recipes if recipe in plain] == list(plain)
    assert all(recipe.steps[0] == Step(name="trim_padding") for recipe in added)
    alone = [recipe.run.runtime for recipe in added if len(recipe.steps) == 1]
    assert alone == list(BEST)
    rest = [recipe.steps[1:] for recipe in added if len(recipe.steps) > 1]
    assert [[step.name for step in steps] for steps in rest] == [
        ["smooth", "dynamic_int8"], ["smooth", "static_int8"],
    ]  # fmt: skip
    assert all(steps[1].parameters["reduce_range"] == saturates for steps in rest)


def test_padding_of_what_is_no_transformer_is_cut_off_alone() -> None:
    plain = changed_recipes(["LSTM"], ORT, VNNI)
    recipes = changed_recipes(["LSTM"], ORT, VNNI, ["attention_mask"])
    added = [recipe.steps for recipe in recipes if recipe not in plain]
    assert added == [(Step(name="trim_padding"),)]


def test_nothing_to_quantize_gives_nothing_to_try() -> None:
    assert changed_recipes(["Relu", "Erf", "TreeEnsembleClassifier"], BEST, VNNI) == ()


def test_bfloat16_is_tried_where_the_cpu_has_it() -> None:
    host = replace(VNNI, instruction_sets=("vnni", "bf16"))
    recipes = changed_recipes(["Relu"], BEST, host)
    assert [recipe.run.precision for recipe in recipes] == ["bf16"]
    assert not recipes[0].lossless


def test_changed_models_run_the_way_that_was_cheapest() -> None:
    recipes = changed_recipes(["Conv"], BEST, VNNI)
    assert {recipe.run for recipe in recipes} == set(BEST.values())
    assert not any(recipe.lossless for recipe in recipes)


def test_passes_go_to_the_runtime_that_runs_them() -> None:
    recipes = changed_recipes(["Conv", "MatMul"], BEST, VNNI)
    runtime_of = {step.name: recipe.run.runtime for recipe in recipes for step in recipe.steps}
    assert runtime_of == {
        "static_int8": "onnxruntime", "dynamic_int8": "onnxruntime", "nncf_int8": "openvino",
    }  # fmt: skip


@pytest.mark.parametrize("cpus", [1, 2, 3, 8, 96])
def test_as_found_comes_first_and_nothing_twice(cpus: int) -> None:
    runtimes = ("onnxruntime", "openvino")
    recipes = lossless_recipes(runtimes, cpus)
    assert recipes[0] == as_found_recipe(runtimes) == Recipe(run=RunSettings(runtime="onnxruntime"))
    assert anchor_recipe(runtimes, cpus) in recipes
    assert anchor_recipe(runtimes, cpus).run.threads == 1
    assert all(recipe.lossless for recipe in recipes)
    assert max(recipe.run.threads or 0 for recipe in recipes) <= cpus
    changed = changed_recipes(["Conv", "MatMul"], BEST, replace(VNNI, instruction_sets=("bf16",)))
    keys = [recipe.key for recipe in (*recipes, *changed)]
    assert len(keys) == len(set(keys))


def test_rounding_after_a_conversion_shares_it() -> None:
    first, plain = Step(name="prune"), plain_steps("litert")
    rounded = Step(name="litert", parameters={"int8": "static"})
    assert earlier_steps((rounded,)) == plain
    assert earlier_steps((first, rounded)) == (first, *plain)
    assert earlier_steps((first, *plain)) == (first,)
    assert earlier_steps((first,)) == ()


def test_a_runtime_that_needs_a_conversion_is_not_lossless() -> None:
    """Its float model is a changed one, tried with every number of threads, then int8."""
    runtimes = ("onnxruntime", "litert")
    assert lossless_recipes(runtimes, 2) == lossless_recipes(runtimes[:1], 2)
    converted = converted_recipes(runtimes, 2)
    assert [(str(recipe.steps[0]), recipe.run.threads) for recipe in converted] == [
        ("litert()", 1), ("litert()", 2),
    ]  # fmt: skip
    assert all(is_converted(recipe) and not recipe.lossless for recipe in converted)
    assert converted_recipes(runtimes[:1], 2) == ()
    assert plain_steps("onnxruntime") == ()
    run = RunSettings(runtime="litert", threads=2)
    transformer = ["MatMul", "Softmax", "LayerNormalization"]
    changed = changed_recipes(transformer, {"litert": run}, VNNI, ("ids", "attention_mask"))
    assert [recipe.steps[0].parameters for recipe in changed] == [
        {"int8": "static"}, {"int8": "dynamic"},
    ]  # fmt: skip
    assert not any(is_converted(recipe) or recipe.run != run for recipe in changed)
    assert changed_recipes(["Relu"], {"litert": run}, VNNI) == ()


def test_first_runtime_asked_for_is_the_one_as_found() -> None:
    assert lossless_recipes(("openvino",), 2)[0].run == RunSettings(runtime="openvino")
