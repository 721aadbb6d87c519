from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from onnx import TensorProto, helper, save

from joulewise.core.host import read_host
from joulewise.search.why import explain_cost
from tests.trials import AS_FOUND, int8

X86 = replace(read_host(), architecture="x86_64", instruction_sets=("avx2",))
VNNI = replace(X86, instruction_sets=("avx2", "vnni"))
ARM = replace(X86, architecture="aarch64")


def graph_of(path: Path, kinds: Sequence[str]) -> Path:
    """Write a graph with one node of each kind; it could not be run."""
    nodes = [helper.make_node(kind, ["x"], [f"y{i}"]) for i, kind in enumerate(kinds)]
    end = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
    save(helper.make_model(helper.make_graph(nodes, "g", [end], [end])), str(path))
    return path


def test_dynamic_convolution_has_no_fast_kernel(tmp_path: Path) -> None:
    path = graph_of(tmp_path / "m.onnx", ["DynamicQuantizeLinear", "ConvInteger", "Cast"])
    assert explain_cost(int8(), path, VNNI) == "ConvInteger has no fast CPU kernel"


def test_many_conversions_are_counted(tmp_path: Path) -> None:
    path = graph_of(tmp_path / "m.onnx", ["QuantizeLinear", "DequantizeLinear"] * 4 + ["Conv"])
    told = explain_cost(int8(), path, VNNI)
    assert told == "8 conversions between int8 and float around 1 products"


def test_missing_instructions_are_named_beside_conversions(tmp_path: Path) -> None:
    path = graph_of(tmp_path / "m.onnx", ["QuantizeLinear"] * 3 + ["Conv"])
    told = explain_cost(int8(), path, X86)
    assert told is not None
    assert told.startswith("3 conversions")
    assert "VNNI" in told


def test_missing_instructions_alone(tmp_path: Path) -> None:
    path = graph_of(tmp_path / "m.onnx", ["QuantizeLinear", "Conv"])
    assert "VNNI" in (explain_cost(int8(), path, X86) or "")


def test_arm_is_not_told_about_vnni(tmp_path: Path) -> None:
    path = graph_of(tmp_path / "m.onnx", ["QuantizeLinear", "Conv"])
    assert explain_cost(int8(), path, ARM) is None


def test_nothing_stands_out(tmp_path: Path) -> None:
    path = graph_of(tmp_path / "m.onnx", ["QuantizeLinear", "DequantizeLinear", "Conv"])
    assert explain_cost(int8(), path, VNNI) is None


def test_other_formats_are_not_looked_into(tmp_path: Path) -> None:
    (tmp_path / "m.xml").write_text("<net/>")
    assert explain_cost(int8(), tmp_path / "m.xml", VNNI) is None


def test_unchanged_model_has_no_cause(tmp_path: Path) -> None:
    assert explain_cost(AS_FOUND, tmp_path / "absent.onnx", X86) is None
