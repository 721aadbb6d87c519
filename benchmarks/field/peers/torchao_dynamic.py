"""torchao's int8 weights and dynamic int8 activations for linear layers, compiled by Inductor.

Source: torchao documentation, "First Quantization Example", section "W8A8-INT".
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.field.contract import Asked
from benchmarks.field.network import batches_of, network_of, save_program
from joulewise.learn.traced import traced

RUNTIME = "torchao"


def optimize(asked: Asked) -> Path:
    """Write ``model.pt2``; it is compiled where it is opened."""
    import torch
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
    from torchao.utils import unwrap_tensor_subclass

    network = network_of(asked)
    example = next(batches_of(asked.calibrate, network.inputs, asked.batch_items))
    quantize_(network, Int8DynamicActivationInt8WeightConfig())
    plain = unwrap_tensor_subclass(network)
    program = torch.export.export(traced(plain, example), example)
    return save_program(program, network.inputs, asked)
