"""Counts against what one counts by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from joulewise.cost.operators import count_work
from joulewise.testing import models


def product(
    path: Path, kind: str, weight: tuple[int, ...], item: tuple[int, ...], **how: Any
) -> Path:
    """Write one product of x [n, *item] with a weight."""
    nodes = [helper.make_node(kind, ["x", "w"], ["y"], **how)]
    outputs: dict[str, Any] = {"y": ["n", *(f"free{i}" for i in range(len(item)))]}
    return models.save_model(path, nodes, {"w": np.zeros(weight)}, {"x": ["n", *item]}, outputs)


@pytest.mark.parametrize("items", [1, 3])
def test_convolution_and_gemm(tmp_path: Path, items: int) -> None:
    """Maps are 6 of 8 x 8, each element of 9 weights; 96 features make 4 scores."""
    found = count_work(models.conv_classifier(tmp_path / "m.onnx"), items)
    assert found is not None
    assert found.mac == items * (6 * 8 * 8 * 9 + 96 * 4)
    weights = 6 * 9 + 6 + 96 * 4 + 4
    assert found.moved_bytes == 4 * (weights + items * (64 + 6 * 64 + 96 + 4))


@pytest.mark.parametrize(
    ("kind", "weight", "item", "how", "mac"),
    [
        ("MatMul", (16, 32), (16,), {}, 2 * 16 * 32),
        ("MatMul", (16, 32), (5, 16), {}, 2 * 5 * 16 * 32),
        ("Gemm", (32, 16), (16,), {"transB": 1}, 2 * 16 * 32),
        ("Conv", (8, 1, 3, 3), (8, 6, 6), {"group": 8}, 2 * 8 * 4 * 4 * 9),
        ("Conv", (8, 4, 3), (4, 10), {"strides": [2]}, 2 * 8 * 4 * 4 * 3),
        ("ConvTranspose", (3, 5, 2, 2), (3, 4, 4), {"strides": [2, 2]}, 2 * 3 * 16 * 5 * 4),
    ],
)
def test_one_product(
    tmp_path: Path, kind: str, weight: tuple[int, ...], item: tuple[int, ...], how: Any, mac: int
) -> None:
    found = count_work(product(tmp_path / "m.onnx", kind, weight, item, **how), 2)
    assert found is not None
    assert found.mac == mac


def test_matrix_times_vector_has_a_quarter_of_a_mac_per_byte(tmp_path: Path) -> None:
    found = count_work(product(tmp_path / "m.onnx", "MatMul", (512, 512), (512,)), 1)
    assert found is not None
    assert found.mac_per_byte == pytest.approx(0.25, rel=0.01)


def test_no_products_are_no_work(tmp_path: Path) -> None:
    found = count_work(models.pointwise(tmp_path / "m.onnx"), 1)
    assert found is not None
    assert (found.mac, found.mac_per_byte) == (0, 0.0)


def test_weights_in_another_file_are_counted(tmp_path: Path) -> None:
    inside = count_work(models.conv_classifier(tmp_path / "a.onnx"), 2)
    outside = count_work(models.conv_classifier(tmp_path / "b.onnx", external=True), 2)
    assert inside == outside


def test_what_cannot_be_counted_is_none(tmp_path: Path) -> None:
    (tmp_path / "m.xml").write_text("<net/>")
    assert count_work(tmp_path / "m.xml", 1) is None
    nodes = [helper.make_node("MatMul", ["x", "x"], ["y"])]
    free: dict[str, Any] = {"x": ["n", "k"]}
    unknown = models.save_model(tmp_path / "u.onnx", nodes, {}, free, {"y": ["n", "k"]})
    assert count_work(unknown, 1) is None
    proto = onnx.load(models.mlp_classifier(tmp_path / "c.onnx"))
    proto.graph.node[0].domain = "com.example"
    onnx.save(proto, tmp_path / "c.onnx")
    assert count_work(tmp_path / "c.onnx", 1) is None
