"""LiteRT Quantizer's dynamic int8, which its documentation recommends for CPUs.

It was AI Edge Quantizer until version 0.10.

Source: LiteRT Quantizer documentation, "Quick Start", "Python API".
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.field.contract import Asked
from benchmarks.field.peers import litert_float

RUNTIME = "litert"


def optimize(asked: Asked) -> Path:
    """Write ``quantized.tflite``."""
    from litert_quantizer import quantizer, recipe

    original, target = litert_float.optimize(asked), Path(asked.output) / "quantized.tflite"
    tool = quantizer.Quantizer(str(original))
    tool.load_quantization_recipe(recipe.dynamic_wi8_afp32())
    tool.quantize().export_model(str(target), overwrite=True)
    return target
