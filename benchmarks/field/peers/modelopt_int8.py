"""NVIDIA ModelOpt's int8 of an ONNX file, calibrated on the CPU.

What stays in float stays in float32, as fp16, its default, is for TensorRT.

Source: Model Optimizer documentation, "ONNX Quantization - Linux".
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.field.contract import Asked
from joulewise.workload.store import open_store

RUNTIME = "onnxruntime"


def optimize(asked: Asked) -> Path:
    """Write ``model.onnx``."""
    from modelopt.onnx.quantization import quantize

    items, target = open_store(Path(asked.calibrate)), Path(asked.output) / "model.onnx"
    whole = items.batch(0, items.items)
    quantize(
        asked.model,
        quantize_mode="int8",
        calibration_data={name: np.asarray(values) for name, values in whole.items()},
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(target),
    )
    return target
