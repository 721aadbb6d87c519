"""LiteRT Quantizer's static int8, calibrated in the mode that its documentation recommends.

What goes in and comes out is int8 too, as the recipe has it; the runtime converts both.

Source: LiteRT Quantizer documentation, "Quantization Workflow", steps 1 to 4.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.field.contract import Asked
from benchmarks.field.peers import litert_float
from joulewise.compress.litert import calibration_items
from joulewise.workload.store import open_store

RUNTIME = "litert"


def optimize(asked: Asked) -> Path:
    """Write ``quantized.tflite``."""
    from litert_quantizer import calibrator, quantizer, recipe

    original, target = litert_float.optimize(asked), Path(asked.output) / "quantized.tflite"
    items = list(calibration_items(original, open_store(Path(asked.calibrate)), asked.batch_items))
    tool = quantizer.Quantizer(str(original))
    tool.load_quantization_recipe(recipe.static_wi8_ai8())
    calibrated = tool.calibrate(
        {"serving_default": items},
        mode=calibrator.CalibrationMode.CALIBRATION_PROFILER_BASED,
    )
    tool.quantize(calibrated).export_model(str(target), overwrite=True)
    return target
