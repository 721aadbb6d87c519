"""Fashion-MNIST's 60,000 training images, for a model to learn from.

Data: Debian's package dataset-fashion-mnist (MIT licence). `FASHION_MNIST` names the folder of its
IDX files where the package is not installed. The demo's network and its 16,000 images are part of
joulewise; 6,000 of those are among these and are left out of the lessons.
"""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FOLDER = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))

PACKAGE = "dataset-fashion-mnist"

HEADER_BYTES = {"images": 16, "labels": 8}
SIDE = 28


def lessons() -> dict[str, npt.NDArray[Any]]:
    """Return pictures x, uint8 [60000, 1, 28, 28], and classes y, int64 [60000]."""
    x = _read("images", "train-images-idx3-ubyte.gz").reshape(-1, 1, SIDE, SIDE)
    return {"x": x, "y": _read("labels", "train-labels-idx1-ubyte.gz").astype(np.int64)}


def _read(kind: str, name: str) -> npt.NDArray[np.uint8]:
    if not (FOLDER / name).exists():
        raise FileNotFoundError(f"there is no {FOLDER / name}: apt install {PACKAGE}")
    with gzip.open(FOLDER / name) as file:
        return np.frombuffer(file.read(), np.uint8, offset=HEADER_BYTES[kind])
