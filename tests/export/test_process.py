from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from joulewise.core.errors import MissingExtraError, ProgramError
from joulewise.core.recipe import RunSettings
from joulewise.export.process import ProgramProcess
from joulewise.export.program import thread_counts
from joulewise.testing import models
from joulewise.workload.store import Store

RUN = RunSettings(runtime="onnxruntime", threads=1)
ITEMS = 11
BATCH_ITEMS = 4


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return models.mlp_classifier(tmp_path / "model.onnx")


@pytest.fixture
def store(tmp_path: Path, model: Path) -> Store:
    return models.labelled_store(tmp_path / "items", model, ITEMS)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def in_process(model: Path, store: Store) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.asarray(store.inputs["x"])})[0]


def test_predict_covers_every_item_in_order(model: Path, store: Store, tmp_path: Path) -> None:
    with ProgramProcess(model, RUN, store, BATCH_ITEMS) as program:
        (scores,) = program.predict(store, tmp_path / "out")
    assert scores.shape == (ITEMS, models.CLASSES)
    np.testing.assert_allclose(
        np.asarray(scores, np.float32), in_process(model, store), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("limit", [1, 4, 6, ITEMS, ITEMS + 5])
def test_predict_stops_at_the_limit(model: Path, store: Store, tmp_path: Path, limit: int) -> None:
    with ProgramProcess(model, RUN, store, BATCH_ITEMS) as program:
        (scores,) = program.predict(store, tmp_path / "out", limit)
    wanted = in_process(model, store)[:limit]
    np.testing.assert_allclose(np.asarray(scores, np.float32), wanted, rtol=1e-5, atol=1e-5)


def test_predict_gives_all_outputs(store: Store, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["positive"]),
        helper.make_node("ReduceMax", ["x"], ["largest"], axes=[1], keepdims=0),
    ]
    outputs: dict[str, Any] = {"largest": ["n"], "positive": ["n", 16]}
    model = models.save_model(tmp_path / "two.onnx", nodes, {}, {"x": ["n", 16]}, outputs)
    with ProgramProcess(model, RUN, store, BATCH_ITEMS) as program:
        largest, positive = program.predict(store, tmp_path / "out")
    x = np.asarray(store.inputs["x"])
    np.testing.assert_array_equal(largest, x.max(axis=1))
    np.testing.assert_array_equal(positive, np.maximum(x, 0))


def test_block_counts_items_and_times_itself(model: Path, store: Store) -> None:
    with ProgramProcess(model, RUN, store, BATCH_ITEMS) as program:
        timing = program.block(5)
        assert program.load_s > 0
    assert timing.items == 5 * BATCH_ITEMS
    assert timing.seconds > 0
    assert timing.cpu_s > 0
    assert 0 < timing.p50_s <= timing.p95_s <= timing.seconds


def test_batch_may_be_larger_than_the_store(model: Path, store: Store, tmp_path: Path) -> None:
    with ProgramProcess(model, RUN, store, 32) as program:
        assert program.block(1).items == 32
        (scores,) = program.predict(store, tmp_path / "out")
    np.testing.assert_allclose(
        np.asarray(scores, np.float32), in_process(model, store), rtol=1e-5, atol=1e-5
    )


def test_relative_paths(
    model: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with ProgramProcess(Path(model.name), RUN, store, BATCH_ITEMS) as program:
        (scores,) = program.predict(store, Path("out"))
    assert len(scores) == ITEMS


def test_no_child_is_left(model: Path, store: Store) -> None:
    with ProgramProcess(model, RUN, store, BATCH_ITEMS) as program:
        assert program.pid != os.getpid()
        assert alive(program.pid)
    assert not alive(program.pid)
    program.close()
    with pytest.raises(ProgramError, match="closed"):
        program.block(1)


def test_no_child_is_left_after_an_error(model: Path, store: Store) -> None:
    with pytest.raises(RuntimeError, match="mine"), ProgramProcess(model, RUN, store, 1) as program:
        raise RuntimeError("mine")
    assert not alive(program.pid)


def test_model_that_cannot_be_opened_is_one_line(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids: list[int] = []
    ask = ProgramProcess.__init__.__globals__["Child"].ask

    def spied(child: Any, *args: Any, **kwargs: Any) -> Any:
        pids.append(child.pid)
        return ask(child, *args, **kwargs)

    monkeypatch.setattr("joulewise.export.process.Child.ask", spied)
    (tmp_path / "bad.onnx").write_bytes(b"\x08garbage")
    with pytest.raises(ProgramError) as caught:
        ProgramProcess(tmp_path / "bad.onnx", RUN, store, 1)
    assert "\n" not in str(caught.value)
    assert "bad.onnx" in str(caught.value)
    assert not alive(pids[0])


def test_why_openvino_cannot_open_it_is_said(store: Store, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"\x08garbage")
    with pytest.raises(ProgramError) as caught:
        ProgramProcess(tmp_path / "bad.onnx", RunSettings(runtime="openvino"), store, 1)
    assert "\n" not in str(caught.value)
    assert "bad.onnx" in str(caught.value)


def test_killed_program_is_an_error(model: Path, store: Store) -> None:
    with ProgramProcess(model, RUN, store, 1) as program:
        os.kill(program.pid, signal.SIGKILL)
        with pytest.raises(ProgramError, match="killed by signal 9"):
            program.block(1)


@pytest.mark.parametrize("keep", [0, 1])
def test_output_without_batch_axis_is_refused(store: Store, tmp_path: Path, keep: int) -> None:
    nodes = [helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=keep)]
    outputs: dict[str, Any] = {"mean": [1, 1] if keep else []}
    model = models.save_model(tmp_path / "mean.onnx", nodes, {}, {"x": ["n", 16]}, outputs)
    with (
        ProgramProcess(model, RUN, store, BATCH_ITEMS) as program,
        pytest.raises(ProgramError, match="one row per item"),
    ):
        program.predict(store, tmp_path / "out")


def test_missing_runtime_names_the_pip_line(
    model: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'joulewise\[openvino\]'"):
        ProgramProcess(model, RunSettings(runtime="openvino"), store, 1)


@pytest.mark.parametrize(
    ("cpus", "counts"), [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (8, (1, 2, 4, 8))]
)
def test_thread_counts(cpus: int, counts: tuple[int, ...]) -> None:
    assert thread_counts(cpus) == counts
