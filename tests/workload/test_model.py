from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from joulewise.core.errors import InputError, MissingExtraError
from joulewise.core.records import digest_file
from joulewise.workload.model import TensorSpec, load_model

from .conftest import external_graph, external_weight, relu_graph, save, tensor

WEIGHTS = np.arange(3, dtype=np.float32)


def test_inputs_and_outputs_are_described(tmp_path: Path) -> None:
    model = load_model(save(tmp_path / "m.onnx", relu_graph()))
    assert model.inputs == (TensorSpec(name="x", dtype="float32", shape=(None, 3)),)
    assert model.outputs == (TensorSpec(name="y", dtype="float32", shape=(None, 3)),)


def test_artifact_of_a_single_file(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", relu_graph())
    artifact = load_model(path).artifact
    assert artifact.files == {"m.onnx": digest_file(path)}
    assert artifact.format == "onnx"
    assert artifact.size_bytes == path.stat().st_size


def test_initialisers_are_not_inputs(tmp_path: Path) -> None:
    node = helper.make_node("Add", ["x", "w"], ["y"])
    graph = helper.make_graph(
        [node],
        "g",
        [tensor("x", ["n", 3]), tensor("w", [3])],
        [tensor("y", ["n", 3])],
        initializer=[numpy_helper.from_array(WEIGHTS, "w")],
    )
    assert [spec.name for spec in load_model(save(tmp_path / "m.onnx", graph)).inputs] == ["x"]


def branching_graph() -> object:
    def branch(name: str, operator: str) -> object:
        constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(WEIGHTS))
        node = helper.make_node(operator, ["x", "c"], [name])
        return helper.make_graph([constant, node], name, [], [tensor(name, ["n", 3])])

    node = helper.make_node(
        "If", ["flag"], ["y"], then_branch=branch("a", "Add"), else_branch=branch("b", "Mul")
    )
    inputs = [tensor("x", ["n", 3]), tensor("flag", [], TensorProto.BOOL)]
    return helper.make_graph([node], "g", inputs, [tensor("y", ["n", 3])])


def test_operators_of_subgraphs_are_counted(tmp_path: Path) -> None:
    model = load_model(save(tmp_path / "m.onnx", branching_graph()))
    assert model.operators == {"If": 1, "Constant": 2, "Add": 1, "Mul": 1}


def test_constants_of_subgraphs_are_parameters(tmp_path: Path) -> None:
    assert load_model(save(tmp_path / "m.onnx", branching_graph())).parameters == 6


def test_operators_of_unknown_domains_are_left_to_the_runtime(tmp_path: Path) -> None:
    node = helper.make_node("Magic", ["x"], ["y"], domain="my.domain")
    graph = helper.make_graph([node], "g", [tensor("x", ["n", 3])], [tensor("y", ["n", 3])])
    assert load_model(save(tmp_path / "m.onnx", graph)).operators == {"Magic": 1}


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model at"):
        load_model(tmp_path / "m.onnx")


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        load_model(tmp_path)


def test_other_suffix(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not a \.onnx file"):
        load_model(save(tmp_path / "m.pt", relu_graph()))


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n" + bytes(range(99)), b"hello " * 99])
def test_other_content(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(InputError, match="truncated or not an ONNX model"):
        load_model(tmp_path / "m.onnx")


def test_truncated_file(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", relu_graph())
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(InputError, match="truncated or not an ONNX model"):
        load_model(path)


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").touch()
    with pytest.raises(InputError, match="holds no operators"):
        load_model(tmp_path / "m.onnx")


def test_graph_without_inputs(tmp_path: Path) -> None:
    node = helper.make_node("Constant", [], ["y"], value=numpy_helper.from_array(WEIGHTS))
    graph = helper.make_graph([node], "g", [], [tensor("y", [3])])
    with pytest.raises(InputError, match="has no inputs"):
        load_model(save(tmp_path / "m.onnx", graph))


def test_graph_without_outputs(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "g", [tensor("x", ["n"])], []
    )
    with pytest.raises(InputError, match="has no outputs"):
        load_model(save(tmp_path / "m.onnx", graph))


def test_graph_that_the_checker_refuses(tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["nowhere"], ["y"])
    graph = helper.make_graph([node], "g", [tensor("x", ["n"])], [tensor("y", ["n"])])
    with pytest.raises(InputError, match="not valid ONNX") as caught:
        load_model(save(tmp_path / "m.onnx", graph))
    assert "\n" not in str(caught.value)


def test_sequence_inputs_are_refused(tmp_path: Path) -> None:
    sequence = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, [3])
    node = helper.make_node("SequenceLength", ["x"], ["y"])
    graph = helper.make_graph([node], "g", [sequence], [tensor("y", [], TensorProto.INT64)])
    with pytest.raises(InputError, match="only tensor inputs"):
        load_model(save(tmp_path / "m.onnx", graph))


def test_string_inputs_are_described_as_str(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [tensor("x", ["n"], TensorProto.STRING)],
        [tensor("y", ["n"], TensorProto.STRING)],
    )
    assert load_model(save(tmp_path / "m.onnx", graph)).inputs[0].dtype == "str"


def test_negative_sizes_are_free(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "g", [tensor("x", [-1, 3])], [tensor("y", [0, 3])]
    )
    model = load_model(save(tmp_path / "m.onnx", graph))
    assert (model.inputs[0].shape, model.outputs[0].shape) == ((None, 3), (None, 3))


def test_external_files_follow_the_model_in_the_artifact(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "w.bin").write_bytes(WEIGHTS.tobytes())
    model = load_model(save(tmp_path / "m.onnx", external_graph("weights/w.bin")))
    assert list(model.artifact.files) == ["m.onnx", "weights/w.bin"]
    assert model.artifact.main == "m.onnx"


def test_external_weights_count_as_parameters(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    assert load_model(save(tmp_path / "m.onnx", external_graph("w.bin"))).parameters == 3


def test_external_file_above_the_folder(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    (tmp_path / "model").mkdir()
    with pytest.raises(InputError, match="outside its folder"):
        load_model(save(tmp_path / "model" / "m.onnx", external_graph("../w.bin")))


def test_external_file_behind_a_link_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(WEIGHTS.tobytes())
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "w.bin").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="outside its folder"):
        load_model(save(tmp_path / "model" / "m.onnx", external_graph("w.bin")))


def test_external_file_behind_a_linked_folder_and_back(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "inner").mkdir(parents=True)
    (tmp_path / "elsewhere" / "w.bin").write_bytes(WEIGHTS.tobytes())
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "link").symlink_to(tmp_path / "elsewhere" / "inner")
    with pytest.raises(InputError, match="outside its folder"):
        load_model(save(tmp_path / "model" / "m.onnx", external_graph("link/../w.bin")))


def test_absolute_external_path(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    with pytest.raises(InputError, match="outside its folder"):
        load_model(save(tmp_path / "m.onnx", external_graph(str(tmp_path / "w.bin"))))


@pytest.mark.parametrize("location", ["w.bin", ""])
def test_missing_external_file(tmp_path: Path, location: str) -> None:
    with pytest.raises(InputError, match="which is missing"):
        load_model(save(tmp_path / "m.onnx", external_graph(location)))


def test_truncated_external_file(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes()[:5])
    with pytest.raises(InputError, match="is truncated"):
        load_model(save(tmp_path / "m.onnx", external_graph("w.bin")))


def test_external_location_that_is_no_path(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unusable external weights"):
        load_model(save(tmp_path / "m.onnx", external_graph("w\0.bin")))


def test_external_file_of_a_subgraph_above_the_folder(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    (tmp_path / "model").mkdir()
    inner = external_graph("../w.bin")
    del inner.input[:]
    node = helper.make_node("If", ["flag"], ["z"], then_branch=inner, else_branch=inner)
    inputs = [tensor("x", ["n", 3]), tensor("flag", [], TensorProto.BOOL)]
    graph = helper.make_graph([node], "g", inputs, [tensor("z", ["n", 3])])
    with pytest.raises(InputError, match="outside its folder"):
        load_model(save(tmp_path / "model" / "m.onnx", graph))


def test_without_onnx(tmp_path: Path, without: Callable[[str], None]) -> None:
    path = save(tmp_path / "m.onnx", relu_graph())
    without("onnx")
    with pytest.raises(MissingExtraError, match=r"joulewise\[onnx\]"):
        load_model(path)


def test_external_file_of_a_sparse_initialiser_above_the_folder(tmp_path: Path) -> None:
    sparse = helper.make_sparse_tensor(
        external_weight("../w.bin"), numpy_helper.from_array(np.arange(3), "i"), [9]
    )
    graph = relu_graph()
    graph.sparse_initializer.append(sparse)
    with pytest.raises(InputError, match="outside its folder"):
        load_model(save(tmp_path / "m.onnx", graph))


@pytest.mark.parametrize("attribute", ["value", "sparse_value"])
def test_external_file_of_an_attribute_above_the_folder(tmp_path: Path, attribute: str) -> None:
    weight = external_weight("../w.bin")
    if attribute == "sparse_value":
        indices = numpy_helper.from_array(np.arange(3), "i")
        weight = helper.make_sparse_tensor(weight, indices, [9])
    graph = relu_graph()
    graph.node.append(helper.make_node("Constant", [], ["c"], **{attribute: weight}))
    with pytest.raises(InputError, match="outside its folder"):
        load_model(save(tmp_path / "m.onnx", graph))


def test_external_file_of_a_list_of_sparse_attributes_above_the_folder(tmp_path: Path) -> None:
    indices = numpy_helper.from_array(np.arange(3), "i")
    sparse = helper.make_sparse_tensor(external_weight("../w.bin"), indices, [9])
    graph = relu_graph()
    graph.node.append(helper.make_node("Magic", ["x"], ["z"], domain="my.domain", values=[sparse]))
    with pytest.raises(InputError, match="outside its folder"):
        load_model(save(tmp_path / "m.onnx", graph))


@pytest.mark.parametrize("offset", ["many", "-4"])
def test_external_offset_that_is_no_count(tmp_path: Path, offset: str) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    graph = external_graph("w.bin")
    graph.initializer[0].external_data.add(key="offset", value=offset)
    with pytest.raises(InputError, match="bad offset or length"):
        load_model(save(tmp_path / "m.onnx", graph))


def test_element_type_unknown_to_onnx(tmp_path: Path) -> None:
    node = helper.make_node("Magic", ["x"], ["y"], domain="my.domain")
    graph = helper.make_graph([node], "g", [tensor("x", ["n"], 99)], [tensor("y", ["n"])])
    with pytest.raises(InputError, match="element type 99"):
        load_model(save(tmp_path / "m.onnx", graph))
