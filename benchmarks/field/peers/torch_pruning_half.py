"""Torch-Pruning: half of the channels go, then the network is fine-tuned on the labels.

Fine-tuning is left to the user; ours is that of Torch-Pruning's own benchmarks with its defaults,
with the two drops of the learning rate at the same parts of the epochs.

Source: Torch-Pruning's README, "High-level Pruners", and its reproduce/main.py, `train_model`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.field.contract import Asked
from benchmarks.field.network import batches_of, network_of, save_program
from joulewise.learn.traced import traced
from joulewise.workload.store import open_store

RUNTIME = "torch-compiled"

BATCH_ITEMS = 128
LEARNING_RATE = 0.01
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
DROPS = (0.6, 0.8)
"""Parts of all epochs after which the learning rate falls to a tenth."""


def optimize(asked: Asked) -> Path:
    """Write ``model.pt2``; it is compiled where it is opened.

    Raises:
        ValueError: there is nothing to learn from.
    """
    import torch

    if asked.train is None:
        raise ValueError("pruning needs labelled items to learn from, and there are none")
    torch.manual_seed(0)
    network = network_of(asked)
    example = next(batches_of(asked.calibrate, network.inputs, asked.batch_items))
    _prune(network, example)
    _fine_tune(network, asked.train, asked.epochs)
    program = torch.export.export(traced(network, example), example)
    return save_program(program, network.inputs, asked)


def _prune(network: Any, example: tuple[Any, ...]) -> None:  # noqa: ANN401
    """Take half of all channels out, but for those of the final classifier."""
    import torch
    import torch_pruning

    with torch.no_grad():
        classes = network(*example)[0].shape[-1]
    widths = {torch.nn.Linear: "out_features", torch.nn.Conv2d: "out_channels"}
    pruner = torch_pruning.pruner.BasePruner(
        network,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=[
            layer
            for layer in network.modules()
            if type(layer) in widths and getattr(layer, widths[type(layer)]) == classes
        ],
        round_to=8,
    )
    pruner.step()


def _fine_tune(network: Any, folder: str, epochs: int) -> None:  # noqa: ANN401
    """Train all weights on the labels."""
    import numpy as np
    import torch

    from joulewise.learn.items import Items
    from joulewise.learn.losses import comparable, form_of

    items = Items(store=open_store(Path(folder)), names=network.inputs)
    if items.labels is None:
        raise ValueError("pruning needs labelled items to learn from; these have no labels")
    optimizer = torch.optim.SGD(
        network.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    milestones = [max(1, round(part * epochs)) for part in DROPS]
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.1)
    with torch.no_grad():
        form = form_of(network(*items.at(np.arange(network.fixed_items or BATCH_ITEMS)))[0])
    network.train()
    for _ in range(epochs):
        order = torch.randperm(items.count).split(network.fixed_items or BATCH_ITEMS)
        for rows in (part.numpy() for part in order):
            optimizer.zero_grad()
            scores = comparable(network(*items.at(rows)), form)[0]
            targets = torch.from_numpy(items.labels[rows])
            torch.nn.functional.cross_entropy(scores, targets).backward()
            optimizer.step()
        scheduler.step()
    network.eval()
