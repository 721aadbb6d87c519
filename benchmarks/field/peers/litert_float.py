"""LiteRT with the model as it is, converted from PyTorch.

Source: LiteRT documentation, "Convert PyTorch models to LiteRT".
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.field.contract import Asked
from benchmarks.field.network import batches_of, network_of
from joulewise.compress.litert import name_inputs
from joulewise.learn.traced import traced

RUNTIME = "litert"


def optimize(asked: Asked) -> Path:
    """Write ``model.tflite``, whose inputs have the names of the original's."""
    import litert_torch

    network, target = network_of(asked), Path(asked.output) / "model.tflite"
    example = next(batches_of(asked.calibrate, network.inputs, asked.batch_items))
    litert_torch.convert(traced(network, example), example).export(str(target))
    name_inputs(target, network.inputs)
    return target
