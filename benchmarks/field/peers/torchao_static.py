"""torchao's static int8 for x86, compiled by Inductor.

Source: torchao documentation, "PyTorch 2 Export Quantization with X86 Backend through Inductor".
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.field.contract import Asked
from benchmarks.field.network import batches_of, name_sources, network_of, save_program
from joulewise.learn.traced import traced

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
        name_sources(exported)
        prepared = prepare_pt2e(exported, quantizer)
        for batch in batches_of(asked.calibrate, network.inputs, asked.batch_items):
            prepared(*batch)
        converted = convert_pt2e(prepared)
        program = torch.export.export(converted, example)
    return save_program(program, network.inputs, asked)
