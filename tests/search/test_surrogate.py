"""What is foreseen against arithmetic, and the order that it gives against recorded spaces."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.spaces import Space
from joulewise.core.host import Host, read_host
from joulewise.core.profile import OperatorTime, Profile
from joulewise.core.recipe import Recipe, RunSettings, parse_steps
from joulewise.core.records import load
from joulewise.search.surrogate import Surrogate, ratios_of_runtimes
from tests.trials import AS_FOUND, ONE_THREAD, measured, rejected

SPACES = sorted((Path(__file__).parents[2] / "records").glob("space-*.json"))
WITH_VNNI = ("avx2", "avx512", "vnni", "bf16")


def host(*instruction_sets: str, architecture: str = "x86_64") -> Host:
    return replace(read_host(), architecture=architecture, instruction_sets=instruction_sets)


def profile(runtime: str = "onnxruntime", **seconds: float) -> Profile:
    times = tuple(
        OperatorTime(kind=kind, count=1, seconds=each)
        for kind, each in seconds.items()
        if kind != "outside"
    )
    return Profile(
        runtime=runtime, batch_items=1, calls=10, call_s=sum(seconds.values()), operators=times
    )


def recipe(text: str, runtime: str = "onnxruntime", precision: str | None = None) -> Recipe:
    steps = parse_steps(text) if text else ()
    return Recipe(steps=steps, run=RunSettings(runtime=runtime, threads=1, precision=precision))


KNOWN = Surrogate(
    ratios={"onnxruntime": 1.0, "openvino": 0.8},
    profiles={
        "onnxruntime": profile(Conv=6.0, MatMul=2.0, Relu=1.0, outside=1.0),
        "openvino": profile("openvino", Convolution=5.0, FullyConnected=1.0, outside=4.0),
    },
    host=host(*WITH_VNNI),
)


@pytest.mark.parametrize(
    ("asked", "ratio"),
    [
        (recipe("static_int8"), 1 - 0.8 * 3 / 4),
        (recipe("dynamic_int8"), 1 - 0.2 * 3 / 4),
        (recipe("nncf_int8", "openvino"), 0.8 * (1 - 0.6 * 3 / 4)),
        (recipe("", "openvino", "bf16"), 0.8 * (1 - 0.6 / 2)),
        (recipe("trim_padding"), 1.0),
    ],
)
def test_what_is_computed_in_fewer_bits_takes_so_much_less(asked: Recipe, ratio: float) -> None:
    assert KNOWN.ratio(asked) == pytest.approx(ratio)


def test_without_a_dot_product_of_bytes_a_quarter_is_gained() -> None:
    old = Surrogate(ratios=KNOWN.ratios, profiles=KNOWN.profiles, host=host("avx2"))
    assert old.ratio(recipe("static_int8")) == pytest.approx(1 - 0.8 / 4)
    arm = Surrogate(
        ratios=KNOWN.ratios, profiles=KNOWN.profiles, host=host("neon", architecture="aarch64")
    )
    assert arm.ratio(recipe("static_int8")) == KNOWN.ratio(recipe("static_int8"))


def test_what_is_not_known_comes_last_and_in_its_order() -> None:
    unknown = [recipe("static_int8", "other"), recipe("dynamic_int8", "other")]
    asked = [*unknown, recipe("dynamic_int8"), recipe("static_int8")]
    assert KNOWN.first(asked) == (asked[3], asked[2], *unknown)


RECIPES = st.lists(
    st.sampled_from(
        [
            recipe("static_int8"),
            recipe("static_int8(range=mse)"),
            recipe("dynamic_int8"),
            recipe("smooth + dynamic_int8"),
            recipe("nncf_int8", "openvino"),
            recipe("", "openvino", "bf16"),
        ]
    ),
    unique_by=lambda each: each.key,
)


@given(RECIPES)
def test_the_same_recipes_come_out_those_that_promise_most_first(asked: list[Recipe]) -> None:
    found = KNOWN.first(asked)
    assert sorted(each.key for each in found) == sorted(each.key for each in asked)
    ratios = [ratio for each in found if (ratio := KNOWN.ratio(each)) is not None]
    assert ratios == sorted(ratios)


def test_a_runtime_counts_with_its_cheapest_settings() -> None:
    trials = [measured(AS_FOUND, 2.0), measured(ONE_THREAD, 1.1), rejected(recipe("static_int8"))]
    assert ratios_of_runtimes(trials) == {"onnxruntime": 1.1}


@pytest.mark.parametrize("path", SPACES, ids=[path.stem for path in SPACES])
def test_on_recorded_spaces_what_is_tried_first_is_cheaper(path: Path) -> None:
    """Of pairs of usual recipes that differ by more than noise, most are told apart rightly."""
    space = load(Space, path)
    known = Surrogate(
        ratios=ratios_of_runtimes(space.trials), profiles=space.originals, host=space.host
    )
    usual = [
        (known.ratio(trial.recipe), trial.ratio.value)
        for trial in space.trials[: space.tried]
        if not trial.recipe.lossless and trial.ratio is not None
    ]
    foreseen, found = (np.array(values, dtype=float) for values in zip(*usual, strict=True))
    apart = found[:, None] < 0.9 * found
    assert apart.any()
    assert np.mean((foreseen[:, None] < foreseen)[apart]) > 0.9
