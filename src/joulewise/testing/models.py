"""Small real ONNX models and items for tests of runtimes and passes.

Weights and items are seeded. The last layer of a classifier holds the features of one prototype
per class, so items near a prototype are answered with a clear lead, and rounding to 8 bits
changes few answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from joulewise.workload.store import Store, write_store

__all__ = [
    "CLASSES",
    "conv_classifier",
    "labelled_items",
    "labelled_store",
    "masked_items",
    "masked_pooling",
    "masked_store",
    "mlp_classifier",
    "norm_classifier",
    "pointwise",
    "reference_answers",
    "reference_outputs",
    "renaming",
    "residual_classifier",
    "save_model",
    "two_by_two",
    "vector_store",
]

Array = npt.NDArray[Any]
Shape = Sequence[int | str]

CLASSES = 4
IMAGE = (1, 8, 8)
VECTOR = (16,)
OPSET = 17
IR_VERSION = 10
NOISE = 0.25
WORDS, LENGTH = 20, 12


def conv_classifier(path: Path, *, batch: int | None = None, external: bool = False) -> Path:
    """Write Conv, Relu, MaxPool, Flatten, Gemm: x [n, 1, 8, 8] -> scores [n, 4].

    Args:
        path: the file to write.
        batch: fixed number of items, None for a free one.
        external: keep the weights in a file beside it.
    """
    from onnx import helper

    random = np.random.default_rng(1)
    body = [
        helper.make_node("Conv", ["x", "filters", "bias"], ["maps"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["maps"], ["active"]),
        helper.make_node("MaxPool", ["active"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
    ]
    weights: dict[str, Array] = {
        "filters": random.normal(0, 0.4, (6, 1, 3, 3)),
        "bias": random.normal(0, 0.1, 6),
    }
    centres = _features(body, weights, IMAGE)
    weights |= {"head": centres.T, "offset": -0.5 * (centres**2).sum(axis=1)}
    nodes = [*body, helper.make_node("Gemm", ["features", "head", "offset"], ["scores"])]
    return _classifier(path, nodes, weights, IMAGE, batch=batch, external=external)


def norm_classifier(path: Path, *, batch: int | None = None, external: bool = False) -> Path:
    """Write Conv, BatchNormalization, Relu, Flatten, Gemm: x [n, 1, 8, 8] -> scores [n, 4].

    Args:
        path: the file to write.
        batch: fixed number of items, None for a free one.
        external: keep the weights in a file beside it.
    """
    from onnx import helper

    random = np.random.default_rng(3)
    parts = ("gamma", "beta", "mean", "variance")
    body = [
        helper.make_node("Conv", ["x", "filters"], ["maps"], strides=[2, 2]),
        helper.make_node("BatchNormalization", ["maps", *parts], ["normal"]),
        helper.make_node("Relu", ["normal"], ["active"]),
        helper.make_node("Flatten", ["active"], ["features"]),
    ]
    weights: dict[str, Array] = {
        "filters": random.normal(0, 0.4, (6, 1, 3, 3)),
        "gamma": random.uniform(0.5, 1.5, 6),
        "beta": random.normal(0, 0.1, 6),
        "mean": random.normal(0, 0.1, 6),
        "variance": random.uniform(0.5, 2, 6),
    }
    centres = _features(body, weights, IMAGE)
    weights |= {"head": centres.T, "offset": -0.5 * (centres**2).sum(axis=1)}
    nodes = [*body, helper.make_node("Gemm", ["features", "head", "offset"], ["scores"])]
    return _classifier(path, nodes, weights, IMAGE, batch=batch, external=external)


def residual_classifier(path: Path, *, batch: int | None = None, external: bool = False) -> Path:
    """Write Conv, Relu, three residual blocks, Flatten, Gemm: x [n, 1, 8, 8] -> scores [n, 4].

    A block is Relu(x + Conv(Relu(Conv(x)))). The second adds nothing, the third only little.

    Args:
        path: the file to write.
        batch: fixed number of items, None for a free one.
        external: keep the weights in a file beside it.
    """
    from onnx import helper

    random = np.random.default_rng(4)
    weights: dict[str, Array] = {"stem": random.normal(0, 0.4, (6, 1, 3, 3))}
    body = [
        helper.make_node("Conv", ["x", "stem"], ["maps"], strides=[2, 2]),
        helper.make_node("Relu", ["maps"], ["block0"]),
    ]
    for number, size in enumerate((0.2, 0.0, 0.01), start=1):
        start, end = f"block{number - 1}", f"block{number}"
        first, second = f"{end}.first", f"{end}.second"
        weights[first] = random.normal(0, 0.2, (8, 6, 3, 3))
        weights[second] = random.normal(0, 1, (6, 8, 3, 3)) * size
        body += [
            helper.make_node("Conv", [start, first], [f"{end}.a"], pads=[1] * 4),
            helper.make_node("Relu", [f"{end}.a"], [f"{end}.b"]),
            helper.make_node("Conv", [f"{end}.b", second], [f"{end}.c"], pads=[1] * 4),
            helper.make_node("Add", [f"{end}.c", start], [f"{end}.sum"]),
            helper.make_node("Relu", [f"{end}.sum"], [end]),
        ]
    body.append(helper.make_node("Flatten", ["block3"], ["features"]))
    centres = _features(body, weights, IMAGE)
    weights |= {"head": centres.T, "offset": -0.5 * (centres**2).sum(axis=1)}
    nodes = [*body, helper.make_node("Gemm", ["features", "head", "offset"], ["scores"])]
    return _classifier(path, nodes, weights, IMAGE, batch=batch, external=external)


def mlp_classifier(path: Path, *, batch: int | None = None, external: bool = False) -> Path:
    """Write MatMul, Add, Relu, MatMul, Add: x [n, 16] -> scores [n, 4].

    Args:
        path: the file to write.
        batch: fixed number of items, None for a free one.
        external: keep the weights in a file beside it.
    """
    from onnx import helper

    random = np.random.default_rng(2)
    body = [
        helper.make_node("MatMul", ["x", "first"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["features"]),
    ]
    weights: dict[str, Array] = {
        "first": random.normal(0, 0.4, (16, 32)),
        "bias": random.normal(0, 0.1, 32),
    }
    centres = _features(body, weights, VECTOR)
    weights |= {"head": centres.T, "offset": -0.5 * (centres**2).sum(axis=1)}
    nodes = [
        *body,
        helper.make_node("MatMul", ["features", "head"], ["raw"]),
        helper.make_node("Add", ["raw", "offset"], ["scores"]),
    ]
    return _classifier(path, nodes, weights, VECTOR, batch=batch, external=external)


def masked_pooling(path: Path, *, batch: int | None = None, external: bool = False) -> Path:
    """Write the mean of embedded tokens and MatMul: ids, attention_mask [n, 12] -> scores [n, 4].

    Every token gets a constant added for its place; the length is fixed.

    Args:
        path: the file to write.
        batch: fixed number of items, None for a free one.
        external: keep the weights in a file beside it.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(5)
    weights = {
        "table": random.normal(0, 1, (WORDS, VECTOR[0])),
        "places": random.normal(0, 0.1, (1, LENGTH, VECTOR[0])),
        "head": random.normal(0, 1, (VECTOR[0], CLASSES)),
    }
    whole = {"last": [2], "one": [1]}
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["words"]),
        helper.make_node("Add", ["words", "places"], ["tokens"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Mul", ["tokens", "column"], ["present"]),
        helper.make_node("ReduceSum", ["present", "one"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "one"], ["count"], keepdims=1),
        helper.make_node("Max", ["count", "least"], ["some"]),
        helper.make_node("Div", ["sum", "some"], ["mean"]),
        helper.make_node("MatMul", ["mean", "head"], ["scores"]),
    ]
    arrays = {name: np.asarray(value, np.float32) for name, value in weights.items()}
    arrays |= {name: np.array(value, np.int64) for name, value in whole.items()}
    arrays["least"] = np.ones(1, np.float32)
    first = "n" if batch is None else batch
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, [first, LENGTH])
        for name in ("ids", "attention_mask")
    ]
    output = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [first, CLASSES])
    initialisers = [numpy_helper.from_array(value, name) for name, value in arrays.items()]
    graph = helper.make_graph(nodes, "test", inputs, [output], initializer=initialisers)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    options = {"location": f"{path.stem}.data", "size_threshold": 0} if external else {}
    onnx.save_model(model, str(path), save_as_external_data=external, **options)
    return path


def pointwise(path: Path) -> Path:
    """Write a model without any operator that a quantizer changes: erf(x), x [n, 16]."""
    from onnx import helper

    nodes = [helper.make_node("Erf", ["x"], ["scores"])]
    return save_model(path, nodes, {}, {"x": ["n", *VECTOR]}, {"scores": ["n", *VECTOR]})


def two_by_two(path: Path) -> Path:
    """Write a model with two inputs and two outputs: [a - b, a * b], each [n, 3]."""
    from onnx import helper

    nodes = [
        helper.make_node("Mul", ["a", "b"], ["product"]),
        helper.make_node("Sub", ["a", "b"], ["difference"]),
    ]
    inputs: dict[str, Shape] = {"b": ["n", 3], "a": ["n", 3]}
    return save_model(path, nodes, {}, inputs, {"difference": ["n", 3], "product": ["n", 3]})


def renaming(path: Path) -> Path:
    """Write a model that renames its input before it uses it: [2 * x, x], each [n, 3]."""
    from onnx import helper

    nodes = [
        helper.make_node("Identity", ["x"], ["a"]),
        helper.make_node("Add", ["a", "x"], ["twice"]),
    ]
    outputs: dict[str, Shape] = {"twice": ["n", 3], "a": ["n", 3]}
    return save_model(path, nodes, {}, {"x": ["n", 3]}, outputs)


def labelled_items(
    model: Path, items: int, *, seed: int = 0, flipped_ratio: float = 0.1
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return items for a classifier of this module, and labels that it mostly gets right.

    Args:
        model: written by `conv_classifier` or `mlp_classifier`.
        items: how many.
        seed: of items and labels.
        flipped_ratio: share of items whose label is not the model's answer.

    Returns:
        x, float32 [items, ...], and labels, int64 [items].
    """
    random = np.random.default_rng(seed)
    prototypes = _prototypes(_input_shape(model)[1])
    near = prototypes[random.integers(CLASSES, size=items)]
    x = (near + random.normal(0, NOISE, near.shape)).astype(np.float32)
    labels = reference_answers(model, x)
    wrong = random.permutation(items)[: round(flipped_ratio * items)]
    labels[wrong] = (labels[wrong] + 1) % CLASSES
    return x, labels


def labelled_store(folder: Path, model: Path, items: int, *, seed: int = 0) -> Store:
    """Write `labelled_items` as a split to `folder`."""
    x, labels = labelled_items(model, items, seed=seed)
    return write_store(folder, {"x": x}, {"x": "float32"}, labels, np.arange(items))


def masked_items(items: int, *, seed: int = 0) -> dict[str, npt.NDArray[np.int64]]:
    """Return items for `masked_pooling`: ids, and a mask that ends in padding of many lengths."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, LENGTH, size=items)
    mask = (np.arange(LENGTH) < lengths[:, None]).astype(np.int64)
    return {"ids": random.integers(WORDS, size=mask.shape), "attention_mask": mask}


def masked_store(folder: Path, items: int) -> Store:
    """Write `masked_items`, without labels, as a split to `folder`."""
    arrays = masked_items(items)
    return write_store(folder, arrays, dict.fromkeys(arrays, "int64"), None, np.arange(items))


def vector_store(folder: Path, items: int) -> Store:
    """Write items for `pointwise`, without labels, as a split to `folder`."""
    x = np.random.default_rng(0).normal(size=(items, *VECTOR)).astype(np.float32)
    return write_store(folder, {"x": x}, {"x": "float32"}, None, np.arange(items))


def reference_answers(model: Path, x: Array | Mapping[str, Array]) -> npt.NDArray[np.int64]:
    """Return the class that ONNX's reference implementation gives each item, int64 [n].

    Args:
        model: a classifier of this module.
        x: items [n, ...], by input where there are several; a fixed batch is filled from the
            start at the end.
    """
    columns = x if isinstance(x, Mapping) else {"x": x}
    items = len(next(iter(columns.values())))
    step = _input_shape(model)[0] or items
    scores = []
    for start in range(0, items, step):
        rows = np.arange(start, start + step) % items
        batch = {name: values[rows] for name, values in columns.items()}
        scores.append(reference_outputs(model, batch)[0])
    return np.asarray(np.argmax(np.concatenate(scores)[:items], axis=1), np.int64)


def reference_outputs(model: Path, inputs: Mapping[str, Array]) -> list[Array]:
    """Return the outputs that ONNX's own slow, readable implementation gives."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    with np.errstate(all="ignore"):
        outputs = ReferenceEvaluator(onnx.load(model)).run(None, dict(inputs))
    return [np.asarray(values) for values in outputs]


def save_model(
    path: Path,
    nodes: Sequence[Any],
    weights: Mapping[str, Array],
    inputs: Mapping[str, Shape],
    outputs: Mapping[str, Shape],
    *,
    external: bool = False,
) -> Path:
    """Write a float32 model of opset 17.

    Args:
        path: the file to write.
        nodes: its operators in order.
        weights: initialisers by name.
        inputs: shapes by name; a string is a free axis.
        outputs: shapes by name.
        external: keep the weights in ``<stem>.data`` beside it.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    initialisers = [
        numpy_helper.from_array(np.asarray(values, np.float32), name)
        for name, values in weights.items()
    ]
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in x.items()]
        for x in (inputs, outputs)
    ]
    graph = helper.make_graph(list(nodes), "test", *ends, initializer=initialisers)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    options = {"location": f"{path.stem}.data", "size_threshold": 0} if external else {}
    onnx.save_model(model, str(path), save_as_external_data=external, **options)
    return path


def _classifier(
    path: Path,
    nodes: Sequence[Any],
    weights: Mapping[str, Array],
    item: tuple[int, ...],
    *,
    batch: int | None,
    external: bool,
) -> Path:
    first = "n" if batch is None else batch
    ends: tuple[dict[str, Shape], dict[str, Shape]] = (
        {"x": [first, *item]},
        {"scores": [first, CLASSES]},
    )
    return save_model(path, nodes, weights, *ends, external=external)


def _features(
    nodes: Sequence[Any], weights: Mapping[str, Array], item: tuple[int, ...]
) -> npt.NDArray[np.float32]:
    """Return the features of each prototype, float32 [CLASSES, k]."""
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    names = ("x", *weights)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    last = helper.make_tensor_value_info("features", TensorProto.FLOAT, None)
    graph = helper.make_graph(list(nodes), "body", ends, [last])
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    feeds = {name: values.astype(np.float32) for name, values in weights.items()}
    features = ReferenceEvaluator(model).run(None, {"x": _prototypes(item), **feeds})[0]
    return np.asarray(features, np.float32)


def _prototypes(item: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Return one typical item per class, float32 [CLASSES, ...]."""
    return np.random.default_rng(0).normal(0, 1, (CLASSES, *item)).astype(np.float32)


def _input_shape(model: Path) -> tuple[int, tuple[int, ...]]:
    """Return the fixed batch (0 where it is free) and the shape of one item."""
    import onnx

    shape = onnx.load(model, load_external_data=False).graph.input[0].type.tensor_type.shape
    first, *rest = (axis.dim_value for axis in shape.dim)
    return first, tuple(rest)
