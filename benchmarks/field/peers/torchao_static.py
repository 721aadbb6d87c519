"""torchao's static int8 for x86, compiled by Inductor.

Source: torchao documentation, "PyTorch 2 Export Quantization with X86 Backend through Inductor".
"""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Any

from benchmarks.field.contract import Asked
from benchmarks.field.network import batches_of, network_of, save_program, traced

RUNTIME = "torchao"


def optimize(asked: Asked) -> Path:
    """Write ``model.pt2``; it is compiled where it is opened."""
    import torch
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    network = network_of(asked)
    example = next(batches_of(asked.calibrate, network.inputs, asked.batch_items))
    quantizer = X86InductorQuantizer()
    quantizer.set_global(get_default_x86_inductor_quantization_config())
    with torch.no_grad():
        exported = torch.export.export(traced(network, example), example).module()
        _name_sources(exported)
        prepared = prepare_pt2e(exported, quantizer)
        for batch in batches_of(asked.calibrate, network.inputs, asked.batch_items):
            prepared(*batch)
        converted = convert_pt2e(prepared)
        program = torch.export.export(converted, example)
    return save_program(program, network.inputs, asked)


def _name_sources(exported: Any) -> None:  # noqa: ANN401
    """Write beside every operator which layer it comes from.

    The quantizer looks for layers, not for operators. An export of a module of layers would tell
    them (`strict=True`); our module is a flat graph, which has lost them.
    """
    import torch
    from torch import nn

    aten = torch.ops.aten
    layers = {
        aten.add.Tensor: operator.add,
        aten.batch_norm.default: nn.BatchNorm2d,
        aten.conv1d.default: nn.Conv1d,
        aten.conv2d.default: nn.Conv2d,
        aten.gelu.default: nn.GELU,
        aten.hardswish.default: nn.Hardswish,
        aten.hardtanh.default: nn.Hardtanh,
        aten.leaky_relu.default: nn.LeakyReLU,
        aten.linear.default: nn.Linear,
        aten.mul.Tensor: operator.mul,
        aten.relu.default: nn.ReLU,
        aten.relu6.default: nn.ReLU6,
        aten.silu.default: nn.SiLU,
        aten.tanh.default: nn.Tanh,
    }
    for node in exported.graph.nodes:
        if node.target in layers:
            node.meta["source_fn_stack"] = [(node.name, layers[node.target])]
