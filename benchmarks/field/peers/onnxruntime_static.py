"""ONNX Runtime's static quantization: pre-processing, then QDQ with its defaults.

Source: ONNX Runtime documentation, "Quantize ONNX models", sections "Pre-processing" and "Static
quantization"; a data reader as in its example of ResNet50.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.field.contract import Asked
from joulewise.workload.store import open_store

RUNTIME = "onnxruntime"


def optimize(asked: Asked) -> Path:
    """Write ``model.onnx``."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches: Iterator[dict[str, Any]] = open_store(Path(asked.calibrate)).batches(1)

        def get_next(self) -> dict[str, Any] | None:
            return next(self._batches, None)

    prepared, target = (Path(asked.output) / name for name in ("prepared.onnx", "model.onnx"))
    quant_pre_process(asked.model, str(prepared))
    quantize_static(str(prepared), str(target), Reader())
    return target
