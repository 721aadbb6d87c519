from __future__ import annotations

import torch
from torch import Tensor, nn

from joulewise.learn.fixed_batch import FixedBatch, takes_more


class Net(nn.Module):  # type: ignore[misc]  # torch is skipped
    """Batch normalisation, then something for a fixed number of items."""

    def __init__(self, places: Tensor) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.places = places

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.norm(x) * self.places
        return y, y.sum(dim=1)


def test_any_number_of_items_goes_through_in_parts() -> None:
    net = Net(torch.ones(4, 1)).eval()
    x = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    left, right = FixedBatch(net, 4)(x)
    assert torch.equal(left, net.norm(x))
    assert torch.equal(right, net.norm(x).sum(dim=1))
    assert FixedBatch(net, 4)(x[:1])[0].shape == (1, 3)


def test_whether_more_go_through_is_tried() -> None:
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    assert takes_more(Net(torch.ones(1, 1)).eval(), (x,), 4)
    assert not takes_more(Net(torch.ones(4, 1)).eval(), (x,), 4)
    assert not takes_more(_Reversed().eval(), (x,), 4)


class _Reversed(nn.Module):  # type: ignore[misc]  # torch is skipped
    """Runs with any number of items, but what it gives an item depends on the others."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x.flip(0),)


def test_few_items_do_not_change_statistics() -> None:
    x = 5 + torch.randn(32, 3, generator=torch.Generator().manual_seed(0))
    for items, changes in ((4, False), (16, True)):
        net = Net(torch.ones(items, 1))
        FixedBatch(net, items).train()(x)
        assert torch.equal(net.norm.running_mean, torch.zeros(3)) != changes
