"""Small graphs whose channels hang together in different ways; weights are seeded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper

from joulewise.testing import models

Array = np.ndarray[Any, np.dtype[Any]]

IMAGE = (2, 6, 6)
TOKENS, WIDTH, HEADS = 5, 12, 3


class Chain:
    """Grows a graph on images [n, 2, 6, 6] node by node; `value` is where it is, `width` how wide.

    Args:
        seed: of the weights.
    """

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.weights: dict[str, Array] = {}
        self.value, self.width = "x", IMAGE[0]

    def add(self, kind: str, *more: str, **attributes: Any) -> Chain:
        """Append a node that reads the value and `more`."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [self.value, *more], [name], **attributes))
        self.value = name
        return self

    def conv(self, width: int, *, name: str = "", size: int = 3, group: int = 1) -> Chain:
        """Append a convolution that keeps height and width, with a bias."""
        name = name or f"w{len(self.weights)}"
        shape = (width, self.width // group, size, size)
        self.weights[name] = self.random.normal(0, (size * size * shape[1]) ** -0.5, shape)
        self.weights[f"{name}.bias"] = self.random.normal(0, 0.3, width)
        self.width = width
        return self.add("Conv", name, f"{name}.bias", pads=[size // 2] * 4, group=group)

    def tensor(self, value: Array, name: str = "") -> str:
        """Keep a constant or a weight; return its name."""
        name = name or f"w{len(self.weights)}"
        self.weights[name] = value
        return name

    def gemm(self, inputs: int, outputs: int = 4, *, name: str = "head") -> Chain:
        """Append a linear layer, its weights as [in, out]."""
        self.weights[name] = self.random.normal(0, inputs**-0.5, (inputs, outputs))
        self.weights[f"{name}.bias"] = self.random.normal(0, 0.3, outputs)
        self.width = outputs
        return self.add("Gemm", name, f"{name}.bias")

    def pooled_head(self) -> Chain:
        """Append the mean over places and a linear layer."""
        return self.add("GlobalAveragePool").add("Flatten").gemm(self.width)

    def flat_head(self) -> Chain:
        """Append a linear layer that reads every place of every channel."""
        return self.add("Flatten").gemm(self.width * IMAGE[1] * IMAGE[2])

    def model(self, path: Path, outputs: Mapping[str, Sequence[int | str]] | None = None) -> Path:
        """Write the graph; its output is the last value, [n, 4], unless named."""
        return written(path, self.nodes, self.weights, outputs or {self.value: ["n", 4]})


def written(
    path: Path,
    nodes: Sequence[NodeProto],
    weights: Mapping[str, Array],
    outputs: Mapping[str, Sequence[int | str]],
    item: Sequence[int] = IMAGE,
) -> Path:
    """Write a graph of float32 weights; integers stay what they are."""
    floats = {name: value for name, value in weights.items() if value.dtype.kind == "f"}
    others = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value, name))
        for name, value in weights.items()
        if name not in floats
    ]
    return models.save_model(path, [*others, *nodes], floats, {"x": ["n", *item]}, outputs)


def attention(path: Path, *, seed: int = 0, norm: bool = True, layers: int = 1) -> Path:
    """Write layers of a transformer, [n, 5, 12] -> [n, 4], with three heads of four.

    Queries, keys and values come from linear layers of their own. Without `norm` nothing but the
    sums keeps the residual stream together; else both kinds of sums are normalised. The names of
    the second layer begin with "1.".
    """
    random = np.random.default_rng(seed)
    weights: dict[str, Array] = {
        "scale": np.array(2.0),
        "split": np.array([0, TOKENS, HEADS, -1], np.int64),
        "joined": np.array([0, TOKENS, WIDTH], np.int64),
    }
    nodes: list[NodeProto] = []

    def linear(name: str, value: str, inputs: int, outputs: int) -> str:
        weights[name] = random.normal(0, inputs**-0.5, (inputs, outputs))
        weights[f"{name}.bias"] = random.normal(0, 0.3, outputs)
        nodes.append(helper.make_node("MatMul", [value, name], [f"{name}.product"]))
        both = [f"{name}.product", f"{name}.bias"]
        nodes.append(helper.make_node("Add", both, [f"{name}.out"]))
        return f"{name}.out"

    def node(kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def normal(name: str, value: str) -> str:
        if not norm:
            return value
        weights[f"{name}.gain"] = random.uniform(0.5, 1.5, WIDTH)
        weights[f"{name}.shift"] = random.normal(0, 0.3, WIDTH)
        inputs = [value, f"{name}.gain", f"{name}.shift"]
        return node("LayerNormalization", inputs, f"{name}.normal")

    stream = normal("embed", linear("embed", "x", WIDTH, WIDTH))
    for number in range(layers):
        at, parts = "" if number == 0 else f"{number}.", {}
        for name, order in (
            ("query", [0, 2, 1, 3]),
            ("key", [0, 2, 3, 1]),
            ("value", [0, 2, 1, 3]),
        ):
            made = linear(f"{at}{name}", stream, WIDTH, WIDTH)
            split = node("Reshape", [made, "split"], f"{at}{name}.split")
            parts[name] = node("Transpose", [split], f"{at}{name}.heads", perm=order)
        scores = node("MatMul", [parts["query"], parts["key"]], f"{at}raw")
        scores = node("Div", [scores, "scale"], f"{at}scores")
        shares = node("Softmax", [scores], f"{at}shares", axis=-1)
        mixed = node("MatMul", [shares, parts["value"]], f"{at}mixed")
        merged = node("Transpose", [mixed], f"{at}merged", perm=[0, 2, 1, 3])
        flat = node("Reshape", [merged, "joined"], f"{at}flat")
        answer = linear(f"{at}out", flat, WIDTH, WIDTH)
        stream = normal(f"{at}attended", node("Add", [answer, stream], f"{at}attended"))
        wide = node("Relu", [linear(f"{at}wide", stream, WIDTH, 16)], f"{at}active")
        answer = linear(f"{at}narrow", wide, 16, WIDTH)
        stream = normal(f"{at}fed", node("Add", [answer, stream], f"{at}fed"))
    linear("head", node("ReduceMean", [stream], "mean", axes=[1], keepdims=0), WIDTH, 4)
    return written(path, nodes, weights, {"head.out": ["n", 4]}, (TOKENS, WIDTH))


def without_wires(model: Path, wires: Mapping[str, tuple[int, Sequence[int]]]) -> ModelProto:
    """Return a model whose weights are zero where readers take what is to be cut.

    Args:
        model: the whole one.
        wires: initializer -> axis along which the layer reads, and the places that are cut.
    """
    whole = onnx.load(model)
    for tensor in whole.graph.initializer:
        if tensor.name in wires:
            axis, places = wires[tensor.name]
            value = np.moveaxis(numpy_helper.to_array(tensor).copy(), axis, 0)
            value[list(places)] = 0
            value = np.ascontiguousarray(np.moveaxis(value, 0, axis))
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return whole
