from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from joulewise.core.errors import PassError
from joulewise.learn.attention import head_groups
from joulewise.learn.graph import flexible
from joulewise.learn.network import Network, save_network
from joulewise.learn.structure import (
    Group,
    Part,
    channel_groups,
    cut_checked,
    gates,
    multiplications,
    proved,
    prunable,
)
from joulewise.testing import models
from tests.learn.graphs import HEADS, WIDTH, Chain, attention, without_wires

Array = np.ndarray[Any, np.dtype[Any]]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def opened(model: Path) -> Network:
    network = Network(flexible(onnx.load(model)))
    network.eval()
    return network


def items(network: Network, count: int = 3, seed: int = 1) -> tuple[torch.Tensor, ...]:
    shape = [dim.dim_value for dim in network.to_onnx().graph.input[0].type.tensor_type.shape.dim]
    random = np.random.default_rng(seed)
    return (torch.from_numpy(random.standard_normal((count, *shape[1:])).astype(np.float32)),)


def outputs(model: Path | onnx.ModelProto, x: Array) -> Array:
    given = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(given, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x})
    return np.asarray(found)


def summary(network: Network, group: Group) -> dict[str, str]:
    """Return initializer of the weights -> what their layer does with a group."""
    return {network.weight_of(str(part.layer)): part.side for part in group.parts}


def check_cut(model: Path, network: Network, gone: dict[Group, Array], folder: Path) -> Network:
    """Cut units out; ONNX Runtime must agree on the whole graph with zeros for the cut wires."""
    smaller = cut_checked(network, gone, items(network))
    save_network(smaller, folder / "smaller.onnx")
    wires: dict[str, tuple[int, list[int]]] = {}
    for group, units in gone.items():
        for part in group.of("reads"):
            layer = network.layers[str(part.layer)]
            axis = 0 if isinstance(layer, nn.Linear) else 1
            _, places = wires.setdefault(network.weight_of(str(part.layer)), (axis, []))
            places += part.channels[units].ravel().tolist()
    x = items(network, count=8, seed=2)[0].numpy()
    expected = outputs(without_wires(model, wires), x)
    found = outputs(folder / "smaller.onnx", x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    return smaller


def half(group: Group, seed: int = 0) -> Array:
    return np.random.default_rng(seed).permutation(group.units)[: group.units // 2]


def test_chain(tmp_path: Path) -> None:
    chain = Chain().conv(6, name="a").add("Relu").conv(8, name="b").add("Relu").pooled_head()
    model = chain.model(tmp_path / "m.onnx")
    network = opened(model)
    groups = prunable(network, items(network))
    assert [(group.name, group.units) for group in groups] == [("a", 6), ("b", 8)]
    assert summary(network, groups[0]) == {"a": "writes", "b": "reads"}
    assert summary(network, groups[1]) == {"b": "writes", "head": "reads"}
    smaller = check_cut(model, network, {group: half(group) for group in groups}, tmp_path)
    assert [layer.weight.shape[0] for layer in smaller.layers.values()] == [3, 4, 4]


def test_channels_flattened_into_features(tmp_path: Path) -> None:
    model = models.conv_classifier(tmp_path / "m.onnx")
    network = opened(model)
    (group,) = prunable(network, items(network))
    (reader,) = group.of("reads")
    np.testing.assert_array_equal(reader.channels, np.arange(6 * 16).reshape(6, 16))
    check_cut(model, network, {group: half(group)}, tmp_path)


def test_residual_stream_is_one_group(tmp_path: Path) -> None:
    model = models.residual_classifier(tmp_path / "m.onnx")
    network = opened(model)
    groups = prunable(network, items(network))
    assert [group.units for group in groups] == [6, 8, 8, 8]
    readers = {"block1.first", "block2.first", "block3.first", "head"}
    writers = {"stem", "block1.second", "block2.second", "block3.second"}
    expected = dict.fromkeys(readers, "reads") | dict.fromkeys(writers, "writes")
    assert summary(network, groups[0]) == expected
    check_cut(model, network, {groups[0]: half(groups[0])}, tmp_path)


def test_depthwise_passes_channels_on(tmp_path: Path) -> None:
    chain = Chain().conv(6, name="a").add("Relu").conv(6, name="deep", group=6)
    model = chain.conv(5, name="b", size=1).pooled_head().model(tmp_path / "m.onnx")
    network = opened(model)
    groups = prunable(network, items(network))
    assert summary(network, groups[0]) == {"a": "writes", "deep": "passes", "b": "reads"}
    smaller = check_cut(model, network, {group: half(group) for group in groups}, tmp_path)
    (deep,) = [node for node in smaller.to_onnx().graph.node if "deep" in node.input]
    assert {a.name: a.i for a in deep.attribute}["group"] == 3


def test_grouped_convolution_loses_a_channel_of_each_of_its_groups(tmp_path: Path) -> None:
    chain = Chain().conv(8, name="a").add("Relu").conv(8, name="b", group=2).add("Relu")
    model = chain.pooled_head().model(tmp_path / "m.onnx")
    network = opened(model)
    groups = prunable(network, items(network))
    assert [group.units for group in groups] == [4, 4]
    (writer,) = groups[0].of("writes")
    np.testing.assert_array_equal(writer.channels, [[0, 4], [1, 5], [2, 6], [3, 7]])
    smaller = cut_checked(network, {group: half(group) for group in groups}, items(network))
    assert [layer.weight.shape[:2] for layer in smaller.layers.values()] == [(4, 2), (4, 2), (4, 4)]


def test_branches_joined_side_by_side(tmp_path: Path) -> None:
    chain = Chain().conv(4, name="a")
    first, chain.value, chain.width = chain.value, "x", 2
    chain.conv(6, name="b").add("Concat", first, axis=1)
    chain.width = 10
    model = chain.conv(5, name="c").pooled_head().model(tmp_path / "m.onnx")
    network = opened(model)
    groups = {group.name: group for group in prunable(network, items(network))}
    assert list(groups) == ["a", "b", "c"]
    assert groups["b"].of("reads")[0].channels.ravel().tolist() == list(range(6))
    assert groups["a"].of("reads")[0].channels.ravel().tolist() == list(range(6, 10))
    check_cut(model, network, {group: half(group) for group in groups.values()}, tmp_path)


def test_heads_of_attention(tmp_path: Path) -> None:
    model = attention(tmp_path / "m.onnx")
    graph = flexible(onnx.load(model))
    network = Network(graph).eval()
    proposals = head_groups(network, graph)
    (group,) = proved(network, proposals, items(network))
    assert group.units == HEADS
    roles = {"query": "writes", "key": "writes", "value": "writes", "out": "reads"}
    assert summary(network, group) == roles
    smaller = check_cut(model, network, {group: np.array([1])}, tmp_path)
    widths = {smaller.weight_of(key): layer.weight.shape for key, layer in smaller.layers.items()}
    assert widths["query"] == (WIDTH * 2 // 3, WIDTH)
    assert widths["out"] == (WIDTH, WIDTH * 2 // 3)


@pytest.mark.parametrize("norm", [True, False])
def test_channels_inside_heads_are_left_alone(tmp_path: Path, norm: bool) -> None:
    """Neither the features of queries and values nor what a normalisation mixes can go."""
    network = opened(attention(tmp_path / "m.onnx", norm=norm))
    groups = prunable(network, items(network))
    written = [
        {name for name, side in summary(network, group).items() if side == "writes"}
        for group in groups
    ]
    stream = {"embed", "out", "narrow"}
    assert written == ([{"wide"}] if norm else [stream, {"wide"}])


def _mix(chain: Chain, kind: str) -> None:
    if kind == "softmax":
        chain.add("Softmax", axis=1)
    elif kind == "order":
        chain.add("Transpose", perm=[0, 2, 1, 3])
    else:
        before = chain.value
        mean = chain.add("ReduceMean", axes=[1], keepdims=1).value
        chain.value = before
        chain.add("Sub", mean)


@pytest.mark.parametrize("kind", ["softmax", "order", "mean"])
def test_mixed_channels_are_left_alone(tmp_path: Path, kind: str) -> None:
    chain = Chain().conv(6, name="a").add("Relu")
    _mix(chain, kind)
    model = chain.conv(5, name="b").add("Relu").pooled_head().model(tmp_path / "m.onnx")
    network = opened(model)
    assert [group.name for group in prunable(network, items(network))] == ["b"]


def test_answers_are_left_alone(tmp_path: Path) -> None:
    chain = Chain().conv(6, name="a")
    shown = chain.value
    chain.add("Relu").pooled_head()
    ends: dict[str, Sequence[int | str]] = {shown: ["n", 6, 6, 6], chain.value: ["n", 4]}
    network = opened(chain.model(tmp_path / "m.onnx", ends))
    assert prunable(network, items(network)) == ()


def test_shared_weights_are_left_alone(tmp_path: Path) -> None:
    chain = Chain().conv(6, name="a").add("Relu").conv(6, name="b").add("Relu")
    chain.add("Conv", "b", "b.bias", pads=[1] * 4).add("Relu").conv(3, name="c").pooled_head()
    network = opened(chain.model(tmp_path / "m.onnx"))
    assert [group.name for group in prunable(network, items(network))] == ["c"]


def test_a_wrong_group_is_refused(tmp_path: Path) -> None:
    """The proof itself: channels of one layer, wires of others."""
    chain = Chain().conv(6, name="a").add("Relu").conv(6, name="b").add("Relu").pooled_head()
    network = opened(chain.model(tmp_path / "m.onnx"))
    first, second = channel_groups(network, items(network))
    wrong = Group(name="a", parts=(*first.of("writes"), *second.of("reads")))
    shifted = Group(name="a", parts=(*first.of("writes"), _rolled(first)))
    for group in (wrong, shifted):
        assert proved(network, [group], items(network)) == ()
        with pytest.raises(PassError, match="without these channels"):
            cut_checked(network, {group: np.array([0, 3])}, items(network))


def _rolled(group: Group) -> Part:
    (part,) = group.of("reads")
    return replace(part, channels=np.roll(part.channels, 1, axis=0))


def test_gates_scale_what_readers_see(tmp_path: Path) -> None:
    chain = Chain().conv(6, name="a").add("Relu").pooled_head()
    network = opened(chain.model(tmp_path / "m.onnx"))
    (group,) = prunable(network, items(network))
    x = items(network)
    (whole,) = network(*x)
    bias = network.layers["1_Gemm"].bias
    with gates(network, [group]) as opening:
        opening[group][:] = 0.5
        (gated,) = network(*x)
    torch.testing.assert_close(gated - bias, (whole - bias) / 2)
    torch.testing.assert_close(network(*x)[0], whole)


def test_multiplications_of_one_item(tmp_path: Path) -> None:
    chain = Chain().conv(6, name="a").conv(6, name="deep", group=6).pooled_head()
    network = opened(chain.model(tmp_path / "m.onnx"))
    expected = [36 * 6 * 2 * 9, 36 * 6 * 9, 6 * 4]
    for count in (1, 3):
        assert list(multiplications(network, items(network, count)).values()) == expected


LINKS = ("conv", "relu", "depthwise", "grouped", "residual", "concat", "softmax", "shuffle", "pool")


def _grow(chain: Chain, link: str) -> None:
    if link == "conv":
        chain.conv(int(chain.random.choice([4, 6, 8])))
    elif link == "relu":
        chain.add("Relu")
    elif link == "depthwise":
        chain.conv(chain.width, group=chain.width)
    elif link == "grouped":
        chain.conv(chain.width, group=2)
    elif link == "residual":
        before, width = chain.value, chain.width
        chain.conv(6).add("Relu").conv(width).add("Add", before)
    elif link == "concat":
        before, width = chain.value, chain.width
        chain.conv(4).add("Concat", before, axis=1)
        chain.width += width
    elif link == "softmax":
        chain.add("Softmax", axis=1)
    elif link == "pool":
        chain.add("AveragePool", kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4)
    else:  # as in ShuffleNet: channels of two halves take turns
        apart = chain.tensor(np.array([0, 2, chain.width // 2, 36], np.int64))
        together = chain.tensor(np.array([0, chain.width, 6, 6], np.int64))
        chain.add("Reshape", apart).add("Transpose", perm=[0, 2, 1, 3]).add("Reshape", together)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    links=st.lists(st.sampled_from(LINKS), min_size=2, max_size=6),
    flat=st.booleans(),
    seed=st.integers(0, 99),
)
def test_nothing_wrong_is_ever_cut(tmp_path: Path, links: list[str], flat: bool, seed: int) -> None:
    chain = Chain(seed).conv(6)
    for link in links:
        _grow(chain, link)
    model = (chain.flat_head() if flat else chain.pooled_head()).model(tmp_path / "m.onnx")
    network = opened(model)
    try:
        groups = prunable(network, items(network))
    except PassError:
        return  # Torch-Pruning cannot follow it
    for group in groups:
        if all(  # what a grouped convolution reads is not one axis of its weights
            getattr(network.layers[str(p.layer)], "groups", 1) == 1 for p in group.of("reads")
        ):
            check_cut(model, network, {group: half(group, seed)}, tmp_path)
