"""Neural Compressor's static int8 of an ONNX file with its defaults (onnx-neural-compressor).

Source: Neural Compressor (ONNX) documentation, "Getting Started", section "Static Quantization".
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
    from onnx_neural_compressor.data_reader import CalibrationDataReader
    from onnx_neural_compressor.quantization import config, quantize

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rewind()

        def get_next(self) -> dict[str, Any] | None:
            return next(self._batches, None)

        def rewind(self) -> None:
            self._batches: Iterator[dict[str, Any]] = open_store(Path(asked.calibrate)).batches(1)

    target = Path(asked.output) / "model.onnx"
    quantize(asked.model, str(target), config.StaticQuantConfig(calibration_data_reader=Reader()))
    return target
