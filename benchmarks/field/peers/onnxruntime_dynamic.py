"""ONNX Runtime's dynamic quantization with its defaults.

Source: ONNX Runtime documentation, "Quantize ONNX models", section "Dynamic quantization".
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.field.contract import Asked

RUNTIME = "onnxruntime"


def optimize(asked: Asked) -> Path:
    """Write ``model.onnx``."""
    from onnxruntime.quantization import quantize_dynamic

    target = Path(asked.output) / "model.onnx"
    quantize_dynamic(asked.model, target)
    return target
