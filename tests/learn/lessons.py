"""A small thing to learn, and a program that learns it and is killed on the way.

``python -m tests.learn.lessons FOLDER STEP`` ends by SIGKILL within the given step.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from joulewise.learn.trainer import Lessons, Plan, train
from joulewise.workload.store import Store, write_store

ITEMS = 96
CLASSES = 4
PLAN = Plan(epochs=4, batch_items=16, rate=0.01, augment="mixup", precision="f32")
"""24 steps in which everything random takes part: order, mixtures and dropout."""


class Net(nn.Module):  # type: ignore[misc]
    """Images [n, 1, 6, 6] -> scores [n, 4]: a convolution, batch normalisation, dropout, linear.

    Args:
        seed: of the weights.
        width: channels in the middle.
        dies_at: call in training at which the process kills itself, None for never.
    """

    def __init__(self, seed: int, width: int = 6, dies_at: int | None = None) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(1, width, 3)
            self.norm = nn.BatchNorm2d(width)
            self.drop = nn.Dropout(0.2)
            self.head = nn.Linear(width, CLASSES)
        self.calls, self.dies_at = 0, dies_at

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        self.calls += self.training
        if self.training and self.calls == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return (self.head(self.drop(self.norm(self.conv(x)).relu().mean(dim=(2, 3)))),)


def store(folder: Path, items: int = ITEMS, *, seed: int = 0, labelled: bool = True) -> Store:
    """Write images with a bright corner each; the label is which corner."""
    random = np.random.default_rng(seed)
    labels = random.integers(CLASSES, size=items)
    x = random.normal(0, 0.5, size=(items, 1, 6, 6)).astype(np.float32)
    for row, label in enumerate(labels):
        top, left = 3 * (label // 2), 3 * (label % 2)
        x[row, 0, top : top + 3, left : left + 3] += [[2, 0, -2], [0, label, 0], [1, 0, 1]]
    known = labels if labelled else None
    return write_store(folder, {"x": x}, {"x": "float32"}, known, np.arange(items))


def lessons(folder: Path) -> Lessons:
    """Write items to learn from and to be judged on; labels and a teacher."""
    return Lessons(
        train=store(folder / "train"),
        search=store(folder / "search", 48, seed=1),
        inputs=("x",),
        teacher=Net(seed=5, width=9),
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    place = Path(sys.argv[1])
    student = Net(seed=0, dies_at=int(sys.argv[2]))
    train(student, lessons(place), PLAN, checkpoint=place / "checkpoint", save_every_s=0)
