"""The residual blocks of a graph that can be left out: what goes in is what comes out.

A residual sum is u + f(u) where f holds weights; sums of which one starts where the other ends, or
a normalisation or activation later, are a chain. A block is one sum (ResNet) or, where kinds of
sums take turns, one round of them (attention and feed-forward of a transformer's layer).

Source: He et al. 2016, equation 1 (arXiv:1512.03385); Vaswani et al. 2017, section 3.1
(arXiv:1706.03762).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from joulewise.learn.graph import SHAPES, Flow, Shape, arrays_of, drop_unused, shapes_of

if TYPE_CHECKING:
    import onnx

__all__ = ["Block", "residual_blocks", "without_blocks"]

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass(frozen=True, kw_only=True)
class Block:
    """A part of a graph that can be left out.

    Args:
        start: name of the value that goes in.
        end: name of the value that comes out; where the block is left out, that is `start`.
    """

    start: str
    end: str


def residual_blocks(model: onnx.ModelProto) -> tuple[Block, ...]:
    """Return the residual blocks of a graph in its order.

    Args:
        model: in plain form.
    """
    search = _Search(model)
    blocks = [block for chain in search.chains() for block in search.blocks(chain)]
    return tuple(block for block in blocks if search.closed(block))


def without_blocks(model: onnx.ModelProto, blocks: Collection[Block]) -> onnx.ModelProto:
    """Return the graph with blocks left out.

    Args:
        model: in plain form; not changed.
        blocks: found in it.
    """
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    instead = {block.end: block.start for block in blocks}

    def source(name: str) -> str:
        while name in instead:
            name = instead[name]
        return name

    for node in graph.node:
        node.input[:] = [source(name) for name in node.input]
    for value in graph.output:
        if value.name in instead:
            (maker,) = (node for node in graph.node if value.name in node.output)
            maker.CopyFrom(onnx.helper.make_node("Identity", [source(value.name)], [value.name]))
    drop_unused(graph)
    del graph.value_info[:]
    return made


Chain = Sequence[Block]
"""Residual sums, each from u to u + f(u)."""


class _Search:
    """Looks for residual blocks in one graph."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._nodes = list(model.graph.node)
        self._flow = Flow(model.graph)
        self._weights = set(arrays_of(model.graph))
        self._shapes = shapes_of(model)
        self._outputs = {value.name for value in model.graph.output}
        self._places = {name: n for n, node in enumerate(self._nodes) for name in node.output}
        self._upstream: list[int] = []  # by node, a bit for every node that it depends on
        for place, node in enumerate(self._nodes):
            bits = 1 << place
            for before in self._flow.before(node):
                bits |= self._upstream[self._places[before.output[0]]]
            self._upstream.append(bits)

    def chains(self) -> list[list[Block]]:
        """Return the residual sums, grouped by chains, in order."""
        chains: list[list[Block]] = []
        for found in self._sums():
            if chains and self._follows(chains[-1][-1], found):
                chains[-1].append(found)
            else:
                chains.append([found])
        return chains

    def blocks(self, chain: Chain) -> list[Block]:
        """Return the blocks of a chain: rounds of its kinds of sums."""
        kinds = [self._kinds(each.start, each.end) for each in chain]
        length = next(
            n for n in range(1, len(chain) + 1) if kinds[n:] == kinds[: len(chain) - n]
            and len(chain) % n == 0
        )  # fmt: skip
        if length == len(chain):
            length = 1
        ends = [*(each.start for each in chain[1:]), self._tail(chain)]
        return [
            Block(start=chain[first].start, end=ends[first + length - 1])
            for first in range(0, len(chain), length)
        ]

    def closed(self, block: Block) -> bool:
        """Return whether nothing but its end leaves a block, and that is as large as its start."""
        inside = self._between(block.start, block.end)
        names = {name for place in inside for name in self._nodes[place].output} - {block.end}
        used_outside = any(
            self._places[user.output[0]] not in inside
            for name in names
            for user in self._flow.users[name]
            if user.op_type not in SHAPES
        )
        sizes = [self._shapes.get(name) for name in (block.start, block.end)]
        return not (used_outside or names & self._outputs) and _may_be_equal(*sizes)

    def _sums(self) -> list[Block]:
        """Return the sums of a value and something with weights that was made of it."""
        found: list[Block] = []
        for node in self._nodes:
            if node.op_type != "Add" or len(set(node.input) & set(self._places)) < 2:
                continue
            for start, other in (node.input, reversed(node.input)):
                each = Block(start=start, end=node.output[0])
                if self._is_made_of(other, start) and self._has_weights(each) and self.closed(each):
                    found.append(each)
        return [each for each in found if not self._contains_another(each, found)]

    def _contains_another(self, outer: Block, sums: Sequence[Block]) -> bool:
        inside = self._between(outer.start, outer.end)
        return any(self._places[each.end] in inside for each in sums if each.end != outer.end)

    def _follows(self, first: Block, second: Block) -> bool:
        """Return whether a sum starts where another ends, without weights in between."""
        if first.end == second.start:
            return True
        reaches = self._is_made_of(second.start, first.end)
        return reaches and not self._has_weights(Block(start=first.end, end=second.start))

    def _tail(self, chain: Chain) -> str:
        """Return where the last block of a chain ends: past what follows the sums before it."""
        last = chain[-1].end
        before = self._nodes[self._places[chain[0].start]].op_type
        if len(chain) > 1:
            wanted = self._kinds(chain[-2].end, chain[-1].start)
        else:
            wanted = [before] if before not in WEIGHTED else []
        later = (node.output[0] for node in self._nodes[self._places[last] + 1 :])
        ends = [last, *(name for name in later if self._is_made_of(name, last))]
        alike = (end for end in ends if self._kinds(last, end) == wanted)
        fitting = (end for end in alike if self.closed(Block(start=last, end=end)))
        return next(fitting, last)

    def _is_made_of(self, name: str, source: str) -> bool:
        return name != source and bool(
            self._upstream[self._places[name]] >> self._places[source] & 1
        )

    def _between(self, start: str, end: str) -> set[int]:
        """Return the nodes that `end` is made by out of `start`."""
        first, last = self._places[start], self._places[end]
        return {
            place
            for place in range(first + 1, last + 1)
            if self._upstream[place] >> first & 1 and self._upstream[last] >> place & 1
        }

    def _kinds(self, start: str, end: str) -> list[str]:
        return sorted(self._nodes[place].op_type for place in self._between(start, end))

    def _has_weights(self, block: Block) -> bool:
        return any(
            self._nodes[place].op_type in WEIGHTED and self._nodes[place].input[1] in self._weights
            for place in self._between(block.start, block.end)
        )


def _may_be_equal(first: Shape | None, second: Shape | None) -> bool:
    """Return whether two shapes are equal as far as they are known."""
    if first is None or second is None:
        return True
    if len(first) != len(second):
        return False
    pairs = zip(first, second, strict=True)
    return all(a == b for a, b in pairs if isinstance(a, int) and isinstance(b, int))
