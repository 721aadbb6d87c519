from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, quantize_static

from joulewise.compress.material import Material
from joulewise.compress.nncf_int8 import model_type_of
from joulewise.compress.passes import PASSES
from joulewise.compress.process import apply_step
from joulewise.compress.ranges import observe
from joulewise.compress.static_int8 import (
    CALIBRATION_BATCH_ITEMS,
    COMPUTE_OPERATORS,
    StaticInt8,
    batch_size,
    prepare,
)
from joulewise.core.errors import InputError, MissingExtraError, PassError, UsageError
from joulewise.core.recipe import Step
from joulewise.testing import models
from joulewise.workload.store import Store, write_store
from tests.learn.graphs import attention

Array = np.ndarray[Any, np.dtype[Any]]


class Graph:
    """A quantized graph, with what reads and writes each tensor."""

    def __init__(self, path: Path) -> None:
        graph = onnx.load(path).graph
        self.nodes = list(graph.node)
        self.constants = {x.name: numpy_helper.to_array(x) for x in graph.initializer}
        self.producer = {name: node for node in self.nodes for name in node.output}

    def kinds(self) -> set[str]:
        return {node.op_type for node in self.nodes}

    def consumers(self, name: str) -> list[Any]:
        return [node for node in self.nodes if name in node.input]

    def weights(self) -> dict[str, tuple[Array, Array, Array]]:
        """Name -> integers, scale, dequantized values, of every quantized constant."""
        found = {}
        for node in self.nodes:
            if node.op_type == "DequantizeLinear" and node.input[0] in self.constants:
                integers, scale, zero = (self.constants[name] for name in node.input)
                axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
                wide = [-1 if i == axis % integers.ndim else 1 for i in range(integers.ndim)]
                scale, zero = (x.reshape(wide) if x.size > 1 else x for x in (scale, zero))
                values = (integers.astype(np.float64) - zero) * scale
                name = node.input[0].removesuffix("_quantized")
                found[name] = (integers, scale, values)
        return found


def mixed_classifier(path: Path) -> Path:
    """Write Conv, Relu, Flatten, MatMul: what dynamic int8 must not turn into ConvInteger."""
    random = np.random.default_rng(3)
    nodes = [
        helper.make_node("Conv", ["x", "filters"], ["maps"]),
        helper.make_node("Relu", ["maps"], ["active"]),
        helper.make_node("Flatten", ["active"], ["features"]),
        helper.make_node("MatMul", ["features", "head"], ["scores"]),
    ]
    weights = {
        "filters": random.normal(size=(2, 1, 3, 3)),
        "head": random.normal(size=(72, models.CLASSES)),
    }
    ends: list[dict[str, Any]] = [{"x": ["n", 1, 8, 8]}, {"scores": ["n", models.CLASSES]}]
    return models.save_model(path, nodes, weights, *ends)


def floats(path: Path) -> dict[str, Array]:
    return {x.name: numpy_helper.to_array(x) for x in onnx.load(path).graph.initializer}


@pytest.fixture
def conv(tmp_path: Path) -> Path:
    return models.conv_classifier(tmp_path / "conv.onnx")


@pytest.fixture
def items(tmp_path: Path, conv: Path) -> Store:
    return models.labelled_store(tmp_path / "items", conv, 40)


def quantized(model: Path, items: Store, name: str = "static_int8", **parameters: Any) -> Graph:
    folder = model.parent / "out"
    made = apply_step(
        Step(name=name, parameters=parameters), model, Material(calibrate=items), folder
    )
    return Graph(folder / made.main)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("reduce_range", [False, True])
def test_weights_are_rounded_to_the_nearest_step(
    conv: Path,
    items: Store,
    per_channel: bool,
    reduce_range: bool,
) -> None:
    graph = quantized(conv, items, per_channel=per_channel, reduce_range=reduce_range)
    original, made = floats(conv), graph.weights()
    assert {"filters", "head"} <= set(made)
    for name in ("filters", "head"):
        integers, scale, values = made[name]
        assert integers.dtype == np.int8
        assert (scale.size > 1) == per_channel
        assert np.all(np.abs(values - original[name]) <= scale / 2 * (1 + 1e-5))
        largest = np.abs(integers.astype(int)).max()
        assert largest <= 64 if reduce_range else 64 < largest <= 127


def test_per_channel_scales_follow_the_largest_weight_of_the_channel(
    conv: Path, items: Store
) -> None:
    _, scale, _ = quantized(conv, items).weights()["filters"]
    largest = np.abs(floats(conv)["filters"]).max(axis=(1, 2, 3))
    np.testing.assert_allclose(scale.ravel(), largest / 127, rtol=0.01)


def test_compute_quantizes_nothing_but_products(conv: Path, items: Store) -> None:
    graph = quantized(conv, items, operators="compute")
    for node in graph.nodes:
        if node.op_type == "QuantizeLinear":
            maker = graph.producer.get(node.input[0])
            readers = [r for x in graph.consumers(node.output[0]) for r in x.output]
            near = {x.op_type for name in readers for x in graph.consumers(name)}
            near |= {maker.op_type} if maker is not None else set()
            assert near & {*COMPUTE_OPERATORS}, node
    assert fed_by_integers(graph) >= {"Conv", "Gemm"}


def test_the_range_after_a_product_is_that_of_what_is_cut_off_there(tmp_path: Path) -> None:
    """One of the two channels is far below 0, where Relu cuts it off."""
    random = np.random.default_rng(4)
    nodes = [
        helper.make_node("Conv", ["x", "filters", "offset"], ["maps"]),
        helper.make_node("Relu", ["maps"], ["active"]),
        helper.make_node("Flatten", ["active"], ["features"]),
        helper.make_node("Gemm", ["features", "head"], ["scores"]),
    ]
    weights: dict[str, Array] = {
        "filters": random.normal(size=(2, 1, 3, 3)),
        "offset": np.array([-1000.0, 0.0]),
        "head": random.normal(size=(72, models.CLASSES)),
    }
    ends: list[dict[str, Any]] = [{"x": ["n", 1, 8, 8]}, {"scores": ["n", models.CLASSES]}]
    model = models.save_model(tmp_path / "m.onnx", nodes, weights, *ends)
    items = models.labelled_store(tmp_path / "items", model, 64)
    made = made_directly(model, items, operators="compute")
    assert relative_error(made, model, items) < 0.05
    assert "Relu" not in Graph(made).kinds()


def test_all_quantizes_more_than_products(conv: Path, items: Store) -> None:
    everything = quantized(conv, items, operators="all").nodes
    compute = quantized(conv, items, operators="compute").nodes
    counts = [sum(n.op_type == "QuantizeLinear" for n in x) for x in (everything, compute)]
    assert counts[0] > counts[1]


def fed_by_integers(graph: Graph) -> set[str]:
    """Operators that read a dequantized activation."""
    return {
        reader.op_type
        for node in graph.nodes
        if node.op_type == "DequantizeLinear" and node.input[0] not in graph.constants
        for reader in graph.consumers(node.output[0])
    }


def masked_attention(path: Path) -> Path:
    """Write softmax(x Q (x K)' + mask) (x V), then a Gemm; the mask is the lowest float32."""
    random = np.random.default_rng(5)
    nodes = [
        *(helper.make_node("MatMul", ["x", name], [f"x{name}"]) for name in "qkv"),
        helper.make_node("Transpose", ["xk"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["xq", "turned"], ["raw"], name="scores"),
        helper.make_node("Add", ["raw", "mask"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["shares"], axis=-1),
        helper.make_node("MatMul", ["shares", "xv"], ["y"], name="mix"),
    ]
    weights = {name: random.normal(size=(8, 8)) / 8**0.5 for name in "qkv"}
    weights["mask"] = np.where(np.arange(6) < 4, 0.0, np.finfo(np.float32).min)
    return models.save_model(path, nodes, weights, {"x": ["n", 6, 8]}, {"y": ["n", 6, 8]})


def attention_items(folder: Path) -> Store:
    x = 3 * np.random.default_rng(6).normal(size=(64, 6, 8)).astype(np.float32)
    return write_store(folder, {"x": x}, {"x": "float32"}, None, np.arange(64))


def made_directly(model: Path, items: Store, **parameters: Any) -> Path:
    folder = model.parent / f"out{len(list(model.parent.iterdir()))}"
    folder.mkdir()
    (name,) = StaticInt8(**parameters).apply(model, Material(calibrate=items), folder)
    return folder / name


def relative_error(made: Path, model: Path, items: Store) -> float:
    ours, wanted = (
        onnxruntime.InferenceSession(path).run(None, items.batch(0, 64))[0]
        for path in (made, model)
    )
    return float(np.linalg.norm(ours - wanted) / np.linalg.norm(wanted))


def test_a_mask_does_not_destroy_the_scores_before_it(tmp_path: Path) -> None:
    """ONNX Runtime's own calibration takes it for a number; its result is the counterexample."""
    model, items = masked_attention(tmp_path / "m.onnx"), attention_items(tmp_path / "items")
    prepare(model, tmp_path / "prepared.onnx")
    reader = Reader(items.batches(16))
    theirs = tmp_path / "theirs.onnx"
    quantize_static(tmp_path / "prepared.onnx", theirs, reader, per_channel=True)
    assert relative_error(theirs, model, items) > 0.5
    made = made_directly(model, items)
    assert relative_error(made, model, items) < 0.1
    assert "Softmax" not in fed_by_integers(Graph(made))


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Gives batches to ONNX Runtime's quantizer."""

    def __init__(self, batches: Iterator[Mapping[str, Any]]) -> None:
        self._batches = batches

    def get_next(self) -> Mapping[str, Any] | None:
        return next(self._batches, None)


def test_transformer_quantizes_what_goes_into_products_of_weights(tmp_path: Path) -> None:
    model, items = masked_attention(tmp_path / "m.onnx"), attention_items(tmp_path / "items")
    graph = Graph(made_directly(model, items, operators="transformer"))
    quantized = {x.input[0] for x in graph.nodes if x.op_type == "QuantizeLinear"}
    assert quantized == {"x"}
    assert set(graph.weights()) == set("qkv")
    products = {node.name: node for node in graph.nodes if node.op_type == "MatMul"}
    for name in ("scores", "mix"):
        makers = {graph.producer[x].op_type for x in products[name].input}
        assert "DequantizeLinear" not in makers


@pytest.mark.parametrize("observer", ["minmax", "mse", "p99"])
def test_steps_follow_the_range_that_was_asked_for(
    tmp_path: Path, conv: Path, items: Store, observer: str
) -> None:
    """A step is a 255th of the range; of the input, which no other range is merged with."""
    graph = Graph(made_directly(conv, items, operators="compute", range=observer))
    prepare(conv, tmp_path / "prepared.onnx")
    low, high = observe(tmp_path / "prepared.onnx", ["x"], items, observer, None)["x"]
    (node,) = (x for x in graph.nodes if x.op_type == "QuantizeLinear" and x.input[0] == "x")
    assert graph.constants[node.input[1]] == pytest.approx((high - low) / 255, rel=1e-5)


@pytest.mark.parametrize("parameters", [{"operators": "some"}, {"range": "p20"}, {"operators": ""}])
def test_parameters_are_checked(parameters: dict[str, Any]) -> None:
    with pytest.raises(PassError, match="choose"):
        StaticInt8(**parameters)


@pytest.mark.parametrize("reduce_range", [False, True])
def test_dynamic_never_emits_conv_integer(
    tmp_path: Path,
    items: Store,
    reduce_range: bool,
) -> None:
    model = mixed_classifier(tmp_path / "mixed.onnx")
    graph = quantized(model, items, "dynamic_int8", reduce_range=reduce_range)
    assert "Conv" in graph.kinds()
    assert graph.kinds() & {"MatMulInteger", "DynamicQuantizeMatMul"}
    assert "ConvInteger" not in graph.kinds()
    integers = graph.constants["head_quantized"].astype(int)
    assert (np.abs(integers).max() <= 64) == reduce_range


def test_dynamic_refuses_a_network_of_convolutions(conv: Path, items: Store) -> None:
    nodes = [helper.make_node("Conv", ["x", "filters"], ["maps"])]
    weights = {"filters": np.ones((1, 1, 8, 8))}
    ends: list[dict[str, Any]] = [{"x": ["n", 1, 8, 8]}, {"maps": ["n", 1, 1, 1]}]
    model = models.save_model(conv.parent / "only.onnx", nodes, weights, *ends)
    with pytest.raises(PassError, match="no matrix product"):
        apply_step(Step(name="dynamic_int8"), model, Material(calibrate=items), conv.parent / "out")


@pytest.mark.parametrize("again", ["static_int8", "dynamic_int8", "smooth"])
@pytest.mark.parametrize("first", ["static_int8", "dynamic_int8"])
def test_a_quantized_model_is_refused(tmp_path: Path, first: str, again: str) -> None:
    model = models.mlp_classifier(tmp_path / "m.onnx")
    given = Material(calibrate=models.labelled_store(tmp_path / "items", model, 40))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (made,) = PASSES.load(first)().apply(model, given, tmp_path / "one")
    with pytest.raises(PassError, match="is quantized already"):
        PASSES.load(again)().apply(tmp_path / "one" / made, given, tmp_path / "two")


def test_nncf_is_told_of_attention(conv: Path, tmp_path: Path) -> None:
    read = openvino.Core().read_model
    assert model_type_of(read(conv)) is None
    encoder = attention(tmp_path / "encoder.onnx")
    assert model_type_of(read(encoder)) == nncf.ModelType.TRANSFORMER


def test_unknown_parameter_is_an_error_of_the_pass(conv: Path, items: Store) -> None:
    with pytest.raises(PassError, match=r"static_int8\(bits=4\) failed"):
        quantized(conv, items, bits=4)


def test_unknown_pass_names_the_nearest(conv: Path, items: Store) -> None:
    with pytest.raises(UsageError, match="did you mean 'static_int8'"):
        quantized(conv, items, "static_int")


def test_missing_package_names_the_pip_line(
    conv: Path, items: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'joulewise\[openvino\]'"):
        quantized(conv, items, "nncf_int8")


def with_first_axis(path: Path, size: int | str) -> Path:
    model = onnx.load(models.pointwise(path))
    axis = model.graph.input[0].type.tensor_type.shape.dim[0]
    if isinstance(size, int):
        axis.dim_value = size
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("size", "batch"), [("n", CALIBRATION_BATCH_ITEMS), (5, 5), (0, 16), (-1, 16)]
)
def test_calibration_batch_is_the_models(tmp_path: Path, size: int | str, batch: int) -> None:
    assert batch_size(with_first_axis(tmp_path / "m.onnx", size)) == batch


def test_weights_listed_as_inputs_are_not_taken_for_the_data(tmp_path: Path) -> None:
    model = onnx.load(models.mlp_classifier(tmp_path / "m.onnx"))
    listed = helper.make_tensor_value_info("head", onnx.TensorProto.FLOAT, [32, 4])
    model.graph.input.insert(0, listed)
    onnx.save(model, tmp_path / "m.onnx")
    assert batch_size(tmp_path / "m.onnx") == CALIBRATION_BATCH_ITEMS


def test_a_damaged_calibration_split_is_an_error(conv: Path, items: Store) -> None:
    (items.folder / "input_0.npy").write_bytes(b"")
    with pytest.raises((PassError, InputError), match="input_0"):
        quantized(conv, items)
