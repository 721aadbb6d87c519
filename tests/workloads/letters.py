"""Which capital letter is it? A table of 16 numbers that describe the picture of one.

Data: Letter Recognition (Frey and Slate 1991, Machine Learning 6, 161-182): 20,000 pictures of
letters in 20 fonts, distorted at random, each as 16 whole numbers from 0 to 15; of Debian's package
opencv-doc (Apache-2.0). `LETTERS` names the file where the package is not installed. The rows are
in no order, and some are alike: each is taken once. The first 12,000 are learned from, on the rest
models are judged.

Model: a network of three linear layers, trained here; `python -m tests.workloads.letters` prints
its path.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tests.workloads.packages import cache_folder
from tests.workloads.time_series import EPOCHS, SEED, Items, export, trained

if TYPE_CHECKING:
    from torch import nn

FILE = Path(
    os.environ.get("LETTERS", "/usr/share/doc/opencv-doc/examples/data/letter-recognition.data")
)

LESSONS = 12_000
WIDTH = 256
VERSION = 1


def items() -> Items:
    """Return what describes 6,668 pictures, x, float32 [n, 16], and y: 0 for A to 25 for Z."""
    x, y = _table()
    return {"x": x[LESSONS:], "y": y[LESSONS:]}


def lessons() -> Items:
    """Return 12,000 others, x, float32 [n, 16] and y."""
    x, y = _table()
    return {"x": x[:LESSONS], "y": y[:LESSONS]}


def model() -> Path:
    """Return the network as an ONNX file, trained once per machine."""
    target = cache_folder(f"letters-{SEED}-{EPOCHS}-{VERSION}") / "model.onnx"
    if not target.exists():
        part, taught = target.with_suffix(".part"), lessons()
        export(trained(taught, _network), taught["x"][:2], part)
        part.rename(target)
    return target


@cache
def _table() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    rows = [line.split(",") for line in FILE.read_text().split()]
    y = np.array([ord(row[0]) - ord("A") for row in rows])
    x = np.array([row[1:] for row in rows], np.float32)
    first = np.sort(np.unique(x, axis=0, return_index=True)[1])
    return x[first], y[first]


def _network(values: int, classes: int) -> nn.Module:
    """Return the network before it has learned; what comes in is standardised by it."""
    import torch
    from torch import Tensor, nn

    class Standardised(nn.Module):  # type: ignore[misc]  # torch is skipped
        def __init__(self) -> None:
            super().__init__()
            x = torch.from_numpy(lessons()["x"])
            self.register_buffer("mean", x.mean(dim=0))
            self.register_buffer("deviation", x.std(dim=0))

        def forward(self, x: Tensor) -> Tensor:
            return (x - self.mean) / self.deviation

    return nn.Sequential(
        Standardised(),
        nn.Linear(values, WIDTH),
        nn.ReLU(),
        nn.Linear(WIDTH, WIDTH),
        nn.ReLU(),
        nn.Linear(WIDTH, classes),
    )


if __name__ == "__main__":
    print(model())
