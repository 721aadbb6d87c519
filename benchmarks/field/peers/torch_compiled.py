"""PyTorch with the model compiled by Inductor.

Source: PyTorch documentation, "torch.compile", and "Inductor freezing".
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.field.contract import Asked
from benchmarks.field.network import batches_of, network_of, save_program
from joulewise.learn.traced import traced

RUNTIME = "torch-compiled"


def optimize(asked: Asked) -> Path:
    """Write ``model.pt2``; it is compiled where it is opened."""
    import torch

    network = network_of(asked)
    example = next(batches_of(asked.calibrate, network.inputs, asked.batch_items))
    program = torch.export.export(traced(network, example), example)
    return save_program(program, network.inputs, asked)
