"""NNCF's post-training quantization with its defaults, for OpenVINO.

Its documentation has one thing to be said of a model: that it is a transformer.

Source: NNCF documentation, "Post-Training Quantization", OpenVINO.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.field.contract import Asked
from joulewise.compress.nncf_int8 import model_type_of
from joulewise.workload.store import open_store

RUNTIME = "openvino"


def optimize(asked: Asked) -> Path:
    """Write ``model.xml`` and ``model.bin``."""
    import nncf
    import openvino

    target = Path(asked.output) / "model.xml"
    items = open_store(Path(asked.calibrate))
    model = openvino.Core().read_model(asked.model)
    data = nncf.Dataset(list(items.batches(1)))
    openvino.save_model(nncf.quantize(model, data, model_type=model_type_of(model)), target)
    return target
