"""LiteRT with the model as it is, converted from PyTorch.

Source: LiteRT documentation, "Convert PyTorch models to LiteRT".
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.field.contract import Asked
from benchmarks.field.network import batches_of, network_of, traced

RUNTIME = "litert"


def optimize(asked: Asked) -> Path:
    """Write ``model.tflite``, and the names of its inputs, in order, to ``inputs.json``."""
    import litert_torch

    network, target = network_of(asked), Path(asked.output) / "model.tflite"
    example = next(batches_of(asked.calibrate, network.inputs, asked.batch_items))
    litert_torch.convert(traced(network, example).eval(), example).export(str(target))
    target.with_name("inputs.json").write_text(json.dumps(network.inputs))
    return target
