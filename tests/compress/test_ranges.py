from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import helper

from joulewise.compress.ranges import (
    BINS,
    Histogram,
    Range,
    channel_peaks,
    check_observer,
    least_error,
    observe,
    percentile,
)
from joulewise.core.errors import PassError
from joulewise.testing import models
from joulewise.workload.store import Store, write_store

Array = npt.NDArray[Any]

ITEMS, WIDTH = 50, 400
"""Fifty items are no multiple of the batch, so some are walked over twice."""


def doubled(path: Path) -> Path:
    """Write y = 2 x."""
    nodes = [helper.make_node("Add", ["x", "x"], ["y"])]
    return models.save_model(path, nodes, {}, {"x": ["n", WIDTH]}, {"y": ["n", WIDTH]})


def store(folder: Path, x: Array) -> Store:
    return write_store(folder, {"x": x}, {"x": "float32"}, None, np.arange(len(x)))


def observed(folder: Path, x: Array, observer: str, batch_items: int | None = None) -> Range:
    """Return the range of 2 x."""
    model, items = doubled(folder / "m.onnx"), store(folder / "items", x)
    return observe(model, ["y"], items, observer, batch_items)["y"]


def normal(seed: int = 0, items: int = 48) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(1, 3, (items, WIDTH)).astype(np.float32)


def histogram(values: Array) -> Histogram:
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    counts, _ = np.histogram(values, BINS, (low, high))
    return Histogram(low=low, high=high, counts=counts)


@pytest.mark.parametrize("batch_items", [None, 1, 7])
def test_minmax_is_from_least_to_largest(tmp_path: Path, batch_items: int | None) -> None:
    x = normal(items=ITEMS)
    expected = (2 * float(x.min()), 2 * float(x.max()))
    assert observed(tmp_path, x, "minmax", batch_items) == expected


@pytest.mark.parametrize(("offset", "expected"), [(20, (0.0, 62.0)), (-40, (-80.0, 0.0))])
def test_zero_lies_within_every_range(
    tmp_path: Path, offset: float, expected: tuple[float, float]
) -> None:
    x = np.linspace(0, 11, 4 * WIDTH).reshape(4, WIDTH) + offset
    assert observed(tmp_path, x.astype(np.float32), "minmax") == expected


@pytest.mark.parametrize("mark", [-np.finfo(np.float32).max / 2, -np.inf, np.inf, np.nan])
@pytest.mark.parametrize("observer", ["minmax", "mse", "p99.9"])
def test_a_tensor_with_marks_has_no_range(tmp_path: Path, mark: float, observer: str) -> None:
    x = normal()
    x[20, 0] = mark
    model, items = doubled(tmp_path / "m.onnx"), store(tmp_path / "items", x)
    assert observe(model, ["y"], items, observer, None) == {}


def test_inputs_of_the_graph_have_ranges_too(tmp_path: Path) -> None:
    x = normal()
    model, items = doubled(tmp_path / "m.onnx"), store(tmp_path / "items", x)
    found = observe(model, ["x", "y"], items, "minmax", None)
    assert found["y"] == (2 * found["x"][0], 2 * found["x"][1])


@pytest.mark.parametrize("ratio", [0.9, 0.99, 0.999, 1.0])
def test_percentile_is_numpys(tmp_path: Path, ratio: float) -> None:
    """Between the two numbers that lie there, to within the width of a bin."""
    x = normal()
    found = observed(tmp_path, x, f"p{100 * ratio:g}")
    width = 2 * float(np.ptp(x)) / BINS
    outside = 100 * (1 - ratio) / 2
    for end, share in zip(found, (outside, 100 - outside), strict=True):
        below, above = (2 * np.percentile(x, share, method=m) for m in ("lower", "higher"))
        assert below - width <= end <= above + width


def rounded(values: Array, ends: Range) -> Array:
    """Return what 8 bits make of numbers whose zero needs no place of its own."""
    low, high = ends
    step = (high - low) / 255
    return low + np.round((np.clip(values, low, high) - low) / step) * step


def squared_error(values: Array, ends: Range) -> float:
    return float(np.square(rounded(values, ends) - values).mean())


@pytest.mark.parametrize("outlier", [15.0, 80.0, 1000.0])
def test_mse_is_as_good_as_the_best_of_all_ends(tmp_path: Path, outlier: float) -> None:
    """Numbers that are really rounded, with a finer grid of ends than the search has."""
    x = normal()
    x[0, 0] = outlier
    found = observed(tmp_path, x, "mse")
    values = 2 * x.astype(np.float64).ravel()
    lows = np.linspace(values.min(), 0, 50, endpoint=False)
    highs = np.geomspace(values.max() / 100, values.max(), 100)
    best = min(squared_error(values, (low, high)) for low in lows for high in highs)
    assert squared_error(values, found) <= best * 1.02
    assert squared_error(values, found) <= squared_error(values, (values.min(), values.max()))


@given(
    arrays.arrays(np.float64, st.integers(1, 60), elements=st.floats(-1e6, 1e6, width=32)),
    st.floats(0.51, 1),
)
def test_ranges_hold_zero_and_stay_within_the_numbers(values: Array, ratio: float) -> None:
    found = histogram(values)
    for low, high in (percentile(found, ratio), least_error(found)):
        assert found.low <= low <= 0 <= high <= found.high


def test_a_tensor_of_zeros_has_an_empty_range(tmp_path: Path) -> None:
    for observer in ("minmax", "mse", "p99"):
        (tmp_path / observer).mkdir()
        zeros = np.zeros((4, WIDTH), np.float32)
        assert observed(tmp_path / observer, zeros, observer) == (0, 0)


def test_peaks_are_the_largest_of_each_channel(tmp_path: Path) -> None:
    x = normal(items=ITEMS)
    x[3, 5] = -np.inf
    model, items = doubled(tmp_path / "m.onnx"), store(tmp_path / "items", x)
    x[3, 5] = 0
    found = channel_peaks(model, ["x", "y"], items, None)
    np.testing.assert_array_equal(found["x"], np.abs(x).max(axis=0))
    np.testing.assert_array_equal(found["y"], 2 * np.abs(x).max(axis=0))


@pytest.mark.parametrize("observer", ["minmax", "mse", "p99.99", "p100", "p51"])
def test_observers_that_there_are(observer: str) -> None:
    check_observer(observer)


@pytest.mark.parametrize("observer", ["", "max", "p", "p50", "p0", "p101", "p-1", "p99.9%", "P99"])
def test_observers_that_there_are_not(observer: str) -> None:
    with pytest.raises(PassError, match="choose minmax, mse, or p"):
        check_observer(observer)
