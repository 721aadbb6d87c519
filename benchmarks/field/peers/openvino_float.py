"""OpenVINO with the model as it is, at the precision that OpenVINO chooses by itself."""

from __future__ import annotations

from pathlib import Path

from benchmarks.field.contract import Asked

RUNTIME = "openvino"


def optimize(asked: Asked) -> Path:
    """Return the original."""
    return Path(asked.model)
