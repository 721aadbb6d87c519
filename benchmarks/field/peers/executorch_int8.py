"""ExecuTorch's static int8, per channel, for its XNNPACK backend.

Source: ExecuTorch documentation, "XNNPACK Backend", section "Quantization", "8-bit Quantization
using the PT2E Flow".
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.field.contract import Asked
from benchmarks.field.network import batches_of, network_of
from joulewise.learn.traced import traced

RUNTIME = "executorch"


def optimize(asked: Asked) -> Path:
    """Write ``model.pte``, and beside it the names of its inputs."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from executorch.exir import to_edge_transform_and_lower
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    network = network_of(asked)
    example = next(batches_of(asked.calibrate, network.inputs, asked.batch_items))
    quantizer = XNNPACKQuantizer()
    quantizer.set_global(get_symmetric_quantization_config(is_per_channel=True))
    with torch.no_grad():
        exported = torch.export.export(traced(network, example), example).module()
        prepared = prepare_pt2e(exported, quantizer)
        for batch in batches_of(asked.calibrate, network.inputs, asked.batch_items):
            prepared(*batch)
        quantized = convert_pt2e(prepared)
        lowered = to_edge_transform_and_lower(
            torch.export.export(quantized, example), partitioner=[XnnpackPartitioner()]
        ).to_executorch()
    target = Path(asked.output) / "model.pte"
    target.write_bytes(lowered.buffer)
    target.with_suffix(".json").write_text(json.dumps(list(network.inputs)))
    return target
