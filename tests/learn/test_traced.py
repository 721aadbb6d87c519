"""Flat graphs: the same answers, and no arithmetic on what the shapes tell already."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from joulewise.learn.traced import traced


class Gathers(nn.Module):  # type: ignore[misc]  # torch is skipped
    """Takes places from a table that a graph builds of two ranges, and one that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("first", torch.arange(3))

    def forward(self, x: Tensor, which: Tensor) -> Tensor:
        places = torch.stack([self.first.unsqueeze(0), torch.arange(3).unsqueeze(0)], dim=-1)
        rows, columns = places.unbind(-1)
        return x[rows, columns] + x[which]


def targets(flat: nn.Module) -> set[str]:
    return {str(node.target) for node in flat.graph.nodes if node.op == "call_function"}


def test_places_that_do_not_depend_on_inputs_are_constants() -> None:
    example = (torch.randn(3, 3), torch.tensor([2]))
    flat = traced(Gathers().eval(), example)
    other = (torch.randn(3, 3), torch.tensor([0]))
    for given in (example, other):
        torch.testing.assert_close(flat(*given), Gathers()(*given))
    assert not any("arange" in name or "cat" in name or "stack" in name for name in targets(flat))


def test_what_depends_on_inputs_is_left() -> None:
    class Counts(nn.Module):  # type: ignore[misc]  # torch is skipped
        def forward(self, x: Tensor) -> Tensor:
            return x * (x > 0).sum() + torch.arange(2)

    flat = traced(Counts().eval(), (torch.tensor([1.0, -1.0]),))
    both = torch.tensor([1.0, 1.0])
    torch.testing.assert_close(flat(both), Counts()(both))
    assert any("sum" in name for name in targets(flat))


def test_lists_of_numbers_leave_nothing_that_changes_a_constant() -> None:
    """`torch.tensor` detaches in place, which a saved program may not do to its constants."""

    class Takes(nn.Module):  # type: ignore[misc]  # torch is skipped
        def forward(self, x: Tensor) -> Tensor:
            return x.index_select(1, torch.tensor([2, 0]))

    example = (torch.randn(2, 3),)
    flat = traced(Takes().eval(), example)
    assert not any("detach" in name for name in targets(flat))
    saved = torch.export.export(flat, example).module()
    torch.testing.assert_close(saved(*example), Takes()(*example))
