"""ONNX Runtime with the model as it is."""

from __future__ import annotations

from pathlib import Path

from benchmarks.field.contract import Asked

RUNTIME = "onnxruntime"


def optimize(asked: Asked) -> Path:
    """Return the original."""
    return Path(asked.model)
