"""NNCF's post-training quantization with its defaults, for OpenVINO.

Source: NNCF documentation, "Post-Training Quantization", OpenVINO.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.field.contract import Asked
from joulewise.workload.store import open_store

RUNTIME = "openvino"


def optimize(asked: Asked) -> Path:
    """Write ``model.xml`` and ``model.bin``."""
    import nncf
    import openvino

    target = Path(asked.output) / "model.xml"
    items = open_store(Path(asked.calibrate))
    model = openvino.Core().read_model(asked.model)
    openvino.save_model(nncf.quantize(model, nncf.Dataset(list(items.batches(1)))), target)
    return target
