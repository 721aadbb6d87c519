"""Tiny but real jobs, and short measurements, for tests of the whole chain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from joulewise.meter.interleave import Plan
from joulewise.testing.models import (
    conv_classifier,
    labelled_items,
    masked_items,
    masked_pooling,
    reference_answers,
    save_model,
)

SHORT_PLANS: Mapping[str, Mapping[str, Plan]] = {
    "joulewise.pipeline": {"PROOF_PLAN": Plan(rounds=6, block_s=0.05, warm_up_s=0.1)},
    "joulewise.search.bench": {
        "QUICK_PLAN": Plan(rounds=2, block_s=0.02, warm_up_s=0.05),
        "FULL_PLAN": Plan(rounds=4, block_s=0.03, warm_up_s=0.1),
    },
}
"""Module -> plan -> a shorter one: intervals are wider, and all else is as it is."""

WIDTH = 768


@dataclass(frozen=True, kw_only=True)
class Job:
    """A model and its data on disk."""

    model: Path
    data: Path


def make_job(folder: Path, items: int = 1500, *, flipped_ratio: float = 0.0) -> Job:
    """Write a convolutional classifier and items whose labels are its answers, some flipped."""
    folder.mkdir(parents=True, exist_ok=True)
    model = conv_classifier(folder / "tiny.onnx")
    x, labels = labelled_items(model, items, flipped_ratio=flipped_ratio)
    np.savez(folder / "items.npz", x=x, y=labels)
    return Job(model=model, data=folder / "items.npz")


def make_wide(folder: Path, items: int = 600, *, lessons: int = 0) -> Job:
    """Write a classifier of 32 numbers on which int8 pays several times over, and items for it.

    With `lessons`, as many other items are in ``lessons.npz``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    weights = {
        name: generator.normal(0, (2 / before) ** 0.5, (before, after))
        for name, before, after in (("a", 32, WIDTH), ("b", WIDTH, WIDTH), ("c", WIDTH, 4))
    }
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["a.sum"]),
        helper.make_node("Relu", ["a.sum"], ["a.out"]),
        helper.make_node("MatMul", ["a.out", "b"], ["b.sum"]),
        helper.make_node("Relu", ["b.sum"], ["b.out"]),
        helper.make_node("MatMul", ["b.out", "c"], ["scores"]),
    ]
    model = save_model(folder / "wide.onnx", nodes, weights, {"x": ["n", 32]}, {"scores": ["n", 4]})
    typical = generator.normal(size=(8, 32))
    for name, count in (("items", items), ("lessons", lessons)):
        near = typical[generator.integers(8, size=count)]
        x = (near + generator.normal(0, 0.05, near.shape)).astype(np.float32)
        if count:
            np.savez(folder / f"{name}.npz", x=x, y=reference_answers(model, x))
    return Job(model=model, data=folder / "items.npz")


def shorten_plans(patch: pytest.MonkeyPatch) -> None:
    """Make measurements of this process short."""
    for module, plans in SHORT_PLANS.items():
        for name, plan in plans.items():
            patch.setattr(import_module(module), name, plan)


def make_regression(folder: Path, items: int = 800, *, lessons: int = 0) -> Job:
    """Write a regressor, and items whose labels are floats that it predicts with some error.

    The items are those of Friedman's first problem; the network has random features, and their
    weights are those of least squares with a penalty. With `lessons`, as many other items are in
    ``lessons.npz``.

    Source: Friedman 1991, Annals of Statistics 19, 1-67, equation 61.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    x = random.uniform(size=(items + lessons, 10)).astype(np.float32)
    curve = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2
    y = curve + 10 * x[:, 3] + 5 * x[:, 4] + random.normal(size=len(x))
    weights = {"first": random.normal(size=(10, 64)), "bias": random.normal(size=64)}
    features = np.maximum(x @ weights["first"] + weights["bias"], 0)
    both = np.column_stack([features, np.ones(len(x))])
    found = np.linalg.solve(both.T @ both + 0.1 * np.eye(65), both.T @ y)
    nodes = [
        helper.make_node("Gemm", ["x", "first", "bias"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["features"]),
        helper.make_node("Gemm", ["features", "last", "offset"], ["y"]),
    ]
    weights |= {"last": found[:-1, None], "offset": found[-1:]}
    model = save_model(folder / "regressor.onnx", nodes, weights, {"x": ["n", 10]}, {"y": ["n", 1]})
    np.savez(folder / "items.npz", x=x[:items], y=y[:items])
    if lessons:
        np.savez(folder / "lessons.npz", x=x[items:], y=y[items:])
    return Job(model=model, data=folder / "items.npz")


def make_embeddings(folder: Path, items: int = 800) -> Job:
    """Write an encoder of tokens with a mask, whose vectors have length 1, and items for it."""
    folder.mkdir(parents=True, exist_ok=True)
    pooled = onnx.load(masked_pooling(folder / "pooled.onnx"))
    pooled.graph.node.extend(
        [
            helper.make_node("ReduceL2", ["scores"], ["length"], axes=[1]),
            helper.make_node("Div", ["scores", "length"], ["vectors"]),
        ]
    )
    pooled.graph.output[0].name = "vectors"
    onnx.save(pooled, folder / "encoder.onnx")
    tokens = masked_items(items)
    np.savez(folder / "items.npz", ids=tokens["ids"], attention_mask=tokens["attention_mask"])
    return Job(model=folder / "encoder.onnx", data=folder / "items.npz")


def make_language(folder: Path, items: int = 800) -> Job:
    """Write a model that tells the next of 20 tokens from the last, and texts drawn from it.

    Every text has up to 12 tokens; labels are the next ones, -100 behind the end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    weights = {"table": random.normal(0, 1.5, (20, 8)), "head": random.normal(0, 0.7, (8, 20))}
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["vectors"]),
        helper.make_node("MatMul", ["vectors", "head"], ["scores"]),
    ]
    ends: Mapping[str, Sequence[int | str]] = {"ids": ["n", 12]}
    model = save_model(folder / "language.onnx", nodes, weights, ends, {"scores": ["n", 12, 20]})
    made = onnx.load(model)
    made.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    onnx.save(made, model)
    chances = np.exp(weights["table"] @ weights["head"])
    limits = np.cumsum(chances / chances.sum(axis=1, keepdims=True), axis=1)
    tokens = np.zeros((items, 13), np.int64)
    tokens[:, 0] = random.integers(20, size=items)
    for place in range(12):
        drawn = random.uniform(size=(items, 1))
        tokens[:, place + 1] = (drawn > limits[tokens[:, place]]).sum(axis=1).clip(max=19)
    lengths = random.integers(4, 13, size=(items, 1))
    labels = np.where(np.arange(12) < lengths, tokens[:, 1:], -100)
    np.savez(folder / "items.npz", ids=tokens[:, :12], y=labels)
    return Job(model=model, data=folder / "items.npz")
