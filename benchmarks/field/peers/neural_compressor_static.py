"""Intel Neural Compressor's static int8 of a PyTorch program, by way of PT2E, for Inductor.

Source: Intel Neural Compressor documentation, "PyTorch Static Quantization", section "Static
Quantization with PT2E Backend".
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.field.contract import Asked
from benchmarks.field.network import batches_of, name_sources, network_of, save_program
from joulewise.learn.traced import traced

RUNTIME = "torchao"


def optimize(asked: Asked) -> Path:
    """Write ``model.pt2``; it is compiled where it is opened.

    Raises:
        RuntimeError: nothing was quantized.
    """
    import torch
    from neural_compressor.torch.export import export
    from neural_compressor.torch.quantization import StaticQuantConfig, convert, prepare

    network = network_of(asked)
    example = next(batches_of(asked.calibrate, network.inputs, asked.batch_items))
    exported = export(model=traced(network, example), example_inputs=example)
    name_sources(exported)
    prepared = prepare(exported, quant_config=StaticQuantConfig())
    with torch.no_grad():
        for batch in batches_of(asked.calibrate, network.inputs, asked.batch_items):
            prepared(*batch)
    converted = convert(prepared)
    if not any("quantize_per" in str(node.target) for node in converted.graph.nodes):
        raise RuntimeError("Neural Compressor quantized nothing")
    return save_program(torch.export.export(converted, example), network.inputs, asked)
