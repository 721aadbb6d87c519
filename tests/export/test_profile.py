"""Times by operator type: from traces that were recorded, and from programs that run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulewise.core.errors import ProgramError
from joulewise.core.profile import OperatorTime
from joulewise.core.recipe import RunSettings
from joulewise.export.openvino import Counter, operators_of_counters
from joulewise.export.ort_trace import operators_of_trace
from joulewise.export.process import ProgramProcess
from joulewise.testing import models

TRACE = Path(__file__).with_name("ort_trace.json")
"""Written by ONNX Runtime 1.32.0 in five calls of a graph ReduceMax, Greater, If, Erf, where a
branch of If is MatMul, Relu and the other, which the fourth call takes, is Tanh."""

COUNTERS = (
    ("node_div", "Subgraph", "jit_avx512_f32", 18, 2),
    ("node_Conv_233/WithoutBiases", "Convolution", "brgconv_avx512_f32", 40, 39),
    ("node_relu", "Relu", "undef", 0, 0),
    ("node_Conv_239/WithoutBiases", "Convolution", "brgconv_avx512_1x1_f32", 18, 17),
    ("node_mean", "ReduceMean", "jit_avx512_f32", 5, 1),
    ("logits", "FullyConnected", "gemm_mlas_f32", 179, 23),
)
"""Some of what OpenVINO 2026.4 told of the demo's network: means after 1 call and after 8."""


def us_of(operators: tuple[OperatorTime, ...]) -> dict[str, tuple[float, float]]:
    """Return count per call and microseconds per call, by type."""
    return {each.kind: (each.count, 1e6 * each.seconds) for each in operators}


def counters(column: int) -> list[Counter]:
    return [
        Counter(node=row[0], kind=row[1], kernel=row[2], mean_us=(row[3], row[4])[column])
        for row in COUNTERS
    ]


def event(kind: str, ts: int, dur: int) -> dict[str, object]:
    name = f"n_{ts}_kernel_time"
    return {"cat": "Node", "name": name, "ts": ts, "dur": dur, "args": {"op_name": kind}}


def call(ts: int, dur: int) -> dict[str, object]:
    return {"cat": "Session", "name": "model_run", "ts": ts, "dur": dur}


def test_recorded_trace_of_onnx_runtime() -> None:
    found = operators_of_trace(TRACE.read_bytes(), 3)
    assert [each.kind for each in found] == [
        "If", "MatMul", "Erf", "ReduceMax", "Greater", "Relu", "Tanh",
    ]  # fmt: skip
    third = 1 / 3
    wanted = {
        "If": (1, third * (23 - 8 - 3 + 20 - 5 + 23 - 10 - 3)),
        "MatMul": (2 / 3, third * (8 + 10)),
        "Erf": (1, third * (4 + 4 + 4)),
        "ReduceMax": (1, third * (4 + 3 + 3)),
        "Greater": (1, third * (3 + 2 + 2)),
        "Relu": (2 / 3, third * (3 + 3)),
        "Tanh": (1 / 3, third * 5),
    }
    for kind, pair in us_of(found).items():
        assert pair == pytest.approx(wanted[kind])
    assert sum(each.seconds for each in found) <= 1e-6 * third * (65 + 45 + 49)


@pytest.mark.parametrize(("calls", "words"), [(6, "5 calls"), (0, "5 calls")])
def test_trace_with_too_few_calls(calls: int, words: str) -> None:
    with pytest.raises(ProgramError, match=words):
        operators_of_trace(TRACE.read_bytes(), calls)


@pytest.mark.parametrize("trace", [b"", b"{}", TRACE.read_bytes()[:500]])
def test_trace_that_was_cut_off(trace: bytes) -> None:
    with pytest.raises(ProgramError, match="cannot be read"):
        operators_of_trace(trace, 1)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.integers(0, 3))
def test_bodies_within_bodies_add_up(lengths: list[int], slack: int) -> None:
    """Each operator lies in the one before, and takes `lengths` longer than what is in it."""
    events, whole = [], sum(lengths) + slack
    for depth in range(len(lengths)):
        took = sum(lengths[depth:])
        events.append(event(f"D{depth}", whole - took, took))
    trace = json.dumps([call(0, whole), *events]).encode()
    found = us_of(operators_of_trace(trace, 1))
    assert {kind: round(us) for kind, (_, us) in found.items()} == {
        f"D{depth}": own for depth, own in enumerate(lengths)
    }


def test_operators_one_after_the_other_are_not_within_each_other() -> None:
    trace = [call(0, 40), event("A", 0, 10), event("A", 10, 5), event("B", 15, 20), call(90, 9)]
    found = operators_of_trace(json.dumps(trace).encode(), 2)
    told = us_of(found)
    assert told["B"] == pytest.approx((0.5, 10))
    assert told["A"] == pytest.approx((1, 7.5))


def test_recorded_counters_of_openvino() -> None:
    found = operators_of_counters(counters(0), counters(1), 7)
    told = us_of(found)
    assert told["Convolution"] == pytest.approx((2, (8 * 39 - 40 + 8 * 17 - 18) / 7))
    assert told["ReduceMean"] == pytest.approx((1, (8 * 1 - 5) / 7))
    assert told["FullyConnected"] == pytest.approx((1, (8 * 23 - 179) / 7))
    assert "Subgraph" not in told  # all that it took, the first call did
    assert "Relu" not in told  # part of a convolution
    assert found[0].kernels == ("brgconv_avx512_1x1_f32", "brgconv_avx512_f32")


@given(st.integers(0, 10**6), st.integers(0, 1000), st.integers(10, 50))
def test_first_call_of_openvino_is_left_out(first_us: int, each_us: int, calls: int) -> None:
    """Means are rounded down to a microsecond, so the time of a call is known to about one."""

    def told(mean_us: int) -> list[Counter]:
        return [Counter(node="n", kind="K", kernel="k", mean_us=mean_us)]

    mean_us = (first_us + calls * each_us) // (calls + 1)
    found = us_of(operators_of_counters(told(first_us), told(mean_us), calls))
    assert abs(found.get("K", (0, 0.0))[1] - each_us) <= (calls + 1) / calls


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_profile_of_a_program(tmp_path: Path, runtime: str) -> None:
    model = models.conv_classifier(tmp_path / "m.onnx")
    store = models.labelled_store(tmp_path / "items", model, 64)
    run = RunSettings(runtime=runtime, threads=1)
    with ProgramProcess(model, run, store, 32) as program:
        found = program.profile(0.01)
        assert program.block(1).items == 32  # it goes on
    assert (found.runtime, found.batch_items) == (runtime, 32)
    assert found.calls >= 5
    assert 0 < found.call_s <= found.total_s
    assert any(each.kind.startswith("Conv") for each in found.operators)
    assert sum(found.shares.values()) + found.outside_ratio == pytest.approx(1)


def test_program_that_died_has_no_profile(tmp_path: Path) -> None:
    model = models.mlp_classifier(tmp_path / "m.onnx")
    store = models.labelled_store(tmp_path / "items", model, 4)
    program = ProgramProcess(model, RunSettings(runtime="onnxruntime"), store, 1)
    program.close()
    with pytest.raises(ProgramError, match="closed"):
        program.profile()
