from __future__ import annotations

import keyword
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulewise.core.errors import UsageError
from joulewise.core.recipe import Recipe, RunSettings, Step, parse_steps

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


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        (
            "prune(ratio=0.5) + distill(epochs=3) + quantize(static)",
            (
                Step(name="prune", parameters={"ratio": 0.5}),
                Step(name="distill", parameters={"epochs": 3}),
                Step(name="static_int8"),
            ),
        ),
        ("fold_batch_norm", (Step(name="fold_batch_norm"),)),
        ("quantize()", (Step(name="static_int8"),)),
        (
            "quantize(nncf, preset=mixed) -> x(a=-1, b='0,2', c=true, d=False)",
            (
                Step(name="nncf_int8", parameters={"preset": "mixed"}),
                Step(name="x", parameters={"a": -1, "b": "0,2", "c": True, "d": False}),
            ),
        ),
    ],
)
def test_recipes_are_read(text: str, steps: tuple[Step, ...]) -> None:
    assert parse_steps(text) == steps


@pytest.mark.parametrize(
    "text",
    [
        "", "prune(", "prune(0.5)", "1 + 2", "prune - distill", "a.b()", "prune(ratio=[1])",
        "prune(ratio=__import__('os').getpid())", "prune(**{'a': 1})", "prune(a=1, a=2)",
        "quantize(int3)", "quantize(static, dynamic)", "prune(ratio=None)", "x" * 100_000 + "(",
        "(" * 5000, "run()()", "\0",
    ],
)  # fmt: skip
def test_what_is_no_recipe_is_one_line(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_steps(text)
    assert "\n" not in str(caught.value)


NAMES = st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True).filter(
    lambda name: name.isidentifier() and not keyword.iskeyword(name) and name != "quantize"
)
VALUES = st.one_of(
    st.booleans(),
    st.integers(-(10**9), 10**9),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text("abc,:=0 -'\"", max_size=12),
    st.sampled_from(["true", "None", "if", "a->b"]),
)


@given(
    st.lists(
        st.builds(lambda n, p: Step(name=n, parameters=p), NAMES,
                  st.dictionaries(NAMES.filter(lambda n: n not in {"true", "false"}), VALUES)),
        min_size=1, max_size=4,
    )
)  # fmt: skip
def test_a_printed_recipe_can_be_read_again(steps: list[Step]) -> None:
    assert parse_steps(" -> ".join(map(str, steps))) == tuple(steps)
