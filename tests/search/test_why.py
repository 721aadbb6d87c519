"""Causes: from constructed profiles, and from small models with a planted one."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from joulewise.core.energy import Block, Measurement
from joulewise.core.host import read_host
from joulewise.core.profile import OperatorTime, Profile, Work, longest_first
from joulewise.core.recipe import Recipe, RunSettings
from joulewise.export.process import ProgramProcess
from joulewise.search.why import causes, explain_cost, explain_threads, runs_on_other_threads
from joulewise.testing import models
from joulewise.workload.store import Store, write_store
from tests.report.bundles import make_sensor
from tests.trials import AS_FOUND, ONE_THREAD, int8

X86 = replace(read_host(), architecture="x86_64", instruction_sets=("avx2",))
VNNI = replace(X86, instruction_sets=("avx2", "vnni"))
ARM = replace(X86, architecture="aarch64")
MS = 1e-3
PRUNED = int8("prune")


def profile(call_ms: float, **operators_ms: float) -> Profile:
    """Return a profile of operators with two nodes each."""
    return Profile(
        runtime="onnxruntime",
        batch_items=1,
        calls=9,
        call_s=call_ms * MS,
        operators=longest_first(
            OperatorTime(kind=kind, count=2, seconds=ms * MS) for kind, ms in operators_ms.items()
        ),
    )


ORIGINAL = profile(1.1, Conv=1.0, Relu=0.05)


def told(recipe: Recipe, candidate: Profile, original: Profile = ORIGINAL) -> str:
    return explain_cost(recipe, candidate, original, VNNI) or ""


def test_convolution_without_a_fast_kernel() -> None:
    found = told(int8(), profile(1.6, ConvInteger=1.5, Cast=0.05))
    assert found == (
        "products (ConvInteger) take 1.50 ms of a call, in the original 1.00 ms: "
        "ConvInteger has no fast kernel in ONNX Runtime"
    )


def test_conversions_are_told_with_their_share() -> None:
    found = told(int8(), profile(1.0, QLinearConv=0.4, QuantizeLinear=0.3, DequantizeLinear=0.2))
    assert "4 conversions of numbers (QuantizeLinear, DequantizeLinear)" in found
    assert "take 50 % of a call, in the original 0 %" in found


def test_operators_that_came_to_stand_around_the_products() -> None:
    found = told(int8(), profile(1.3, QLinearConv=0.6, Mul=0.4, Add=0.3))
    assert "operators around the products (Mul, Add) take 700 µs of a call" in found
    assert "in the original 50.0 µs" in found


def test_operators_that_are_left_alone() -> None:
    original = profile(2.0, MatMul=0.3, Softmax=1.5, Erf=0.1)
    found = told(int8(), profile(1.8, MatMulInteger=0.15, Softmax=1.5, Erf=0.1), original)
    assert found == "89 % of a call is in operators that are left alone (Softmax, Erf)"


def test_call_that_costs_more_than_the_model() -> None:
    small = profile(0.02, MatMul=0.004)
    assert "80 % of a call of 20.0 µs lies outside operators: the call from Python" in told(
        int8(), small, small
    )
    other = replace(small, runtime="openvino")
    assert "or in operators shorter than 1 µs: the call" in told(int8(), other, other)


def test_integers_that_openvino_runs_in_floats() -> None:
    def convolution(kernel: str) -> str:
        taken = OperatorTime(kind="Convolution", count=2, seconds=MS, kernels=(kernel,))
        return told(int8(), replace(ORIGINAL, runtime="openvino", operators=(taken,)))

    assert convolution("brgconv_avx512_f32").endswith("OpenVINO runs them in f32 all the same")
    assert "f32" not in convolution("brgconv_avx512_i8")


def test_missing_instructions_are_named_where_products_gain_nothing() -> None:
    slow, fast = profile(1.1, QLinearConv=1.0), profile(1.1, QLinearConv=0.5, Relu=0.05)
    assert "VNNI" in (explain_cost(int8(), slow, ORIGINAL, X86) or "")
    assert "VNNI" not in (explain_cost(int8(), slow, ORIGINAL, VNNI) or "")
    assert "VNNI" not in (explain_cost(int8(), slow, ORIGINAL, ARM) or "")
    assert "VNNI" not in (explain_cost(int8(), fast, ORIGINAL, X86) or "")


@pytest.mark.parametrize(("mac", "bound"), [(250, True), (260, False)])
def test_memory_that_sets_the_pace(mac: int, bound: bool) -> None:
    original = replace(ORIGINAL, work=Work(mac=mac, moved_bytes=1000))
    found = told(Recipe(run=ONE_THREAD.run), profile(1.1, Conv=1.0), original)
    assert ("0.25 multiply-adds per byte (counted), so memory sets" in found) is bound


def test_faster_than_the_original_where_another_way_is_faster_still() -> None:
    fast = profile(0.5, QLinearConv=0.4)
    found = explain_cost(int8(), fast, ORIGINAL, VNNI)
    assert found == (
        "2.20 times as fast as the original run like it, but there is a better way to run the "
        "original"
    )
    assert explain_cost(int8(), fast, ORIGINAL, VNNI, loses=False) is None


def test_nothing_stands_out() -> None:
    assert explain_cost(PRUNED, profile(1.0, Conv=0.8, Relu=0.05), ORIGINAL, VNNI) is None


OPERATORS = st.dictionaries(
    st.sampled_from(["Conv", "ConvInteger", "Cast", "Reorder", "Mul", "Softmax"]),
    st.floats(0.0, 10.0),
)


@given(OPERATORS, OPERATORS, st.floats(0.0, 30.0), st.floats(0.0, 30.0))
def test_causes_are_ranked_and_lie_within_the_call(
    mine: dict[str, float], theirs: dict[str, float], mine_ms: float, theirs_ms: float
) -> None:
    candidate, original = profile(mine_ms, **mine), profile(theirs_ms, **theirs)
    found = [cause.seconds for cause in causes(int8(), candidate, original, X86)]
    assert found == sorted(found, reverse=True)
    assert all(0.1 * candidate.total_s <= each <= 1.0001 * candidate.total_s for each in found)
    assert "\n" not in (explain_cost(int8(), candidate, original, X86) or "")


def measurement(seconds: float, cpu_s: float | None) -> Measurement:
    block = Block(items=100, seconds=seconds, reading_j=1.0, cpu_s=cpu_s)
    return Measurement(sensor=make_sensor(), blocks=(block, block), idle_w=None)


def test_threads_that_do_not_pay() -> None:
    single = measurement(2.0, 2.0)
    found = explain_threads(measurement(1.6, 3.2), single)
    assert found == "2.0 CPUs are busy for 1.25 times the speed of one thread"
    assert explain_threads(measurement(1.0, 2.0), single) is None
    assert explain_threads(measurement(1.6, None), single) is None


def test_which_trials_tell_of_threads() -> None:
    openvino = Recipe(run=RunSettings(runtime="openvino", threads=2))
    assert runs_on_other_threads(AS_FOUND, ONE_THREAD)
    assert not runs_on_other_threads(ONE_THREAD, ONE_THREAD)
    assert not runs_on_other_threads(openvino, ONE_THREAD)
    assert not runs_on_other_threads(int8(), AS_FOUND)


def profile_of(model: Path, store: Store, items: int) -> Profile:
    with ProgramProcess(model, ONE_THREAD.run, store, items) as program:
        return program.profile(0.05)


def test_real_depthwise_convolution_in_dynamic_int8(tmp_path: Path) -> None:
    """One group per channel: the float kernel is fast, the integer one takes each by itself."""
    from onnxruntime.quantization import quantize_dynamic

    random = np.random.default_rng(0)
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], group=64, pads=[1, 1, 1, 1])]
    shape: list[int | str] = ["n", 64, 16, 16]
    weights = {"w": random.normal(size=(64, 1, 3, 3))}
    model = models.save_model(tmp_path / "m.onnx", nodes, weights, {"x": shape}, {"y": shape})
    x = random.normal(size=(8, 64, 16, 16)).astype(np.float32)
    store = write_store(tmp_path / "s", {"x": x}, {"x": "float32"}, None, np.arange(8))
    logging.disable(logging.WARNING)
    try:
        quantize_dynamic(model, tmp_path / "q.onnx", op_types_to_quantize=["Conv"])
    finally:
        logging.disable(logging.NOTSET)
    original, candidate = (profile_of(tmp_path / f"{name}.onnx", store, 4) for name in "mq")
    assert "Conv" in original.shares
    assert candidate.operators[0].kind == "ConvInteger"
    found = explain_cost(int8("dynamic_int8"), candidate, original, VNNI)
    assert "ConvInteger has no fast kernel in ONNX Runtime" in (found or "")


def test_real_model_that_is_smaller_than_its_call(tmp_path: Path) -> None:
    """Of 32 arrays that a call hands over one is used."""
    names = [f"x{index}" for index in range(32)]
    nodes = [helper.make_node("Neg", names[:1], ["y"])]
    shape: list[int | str] = ["n", 1]
    inputs = dict.fromkeys(names, shape)
    model = models.save_model(tmp_path / "m.onnx", nodes, {}, inputs, {"y": shape})
    x = dict.fromkeys(names, np.ones((8, 1), np.float32))
    store = write_store(tmp_path / "s", x, dict.fromkeys(names, "float32"), None, np.arange(8))
    small = profile_of(model, store, 1)
    assert small.call_s < MS
    assert "lies outside operators" in (explain_cost(int8(), small, small, VNNI) or "")
