"""NNCF's quantization with accuracy control: layers go back to float until the loss is small.

The measure of quality is that of the job: accuracy where there are labels, else agreement with the
original; `max_drop` is the margin.

Source: NNCF documentation, "Quantizing with accuracy control", OpenVINO.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.field.contract import Asked
from joulewise.workload.store import open_store

RUNTIME = "openvino"


def optimize(asked: Asked) -> Path:
    """Write ``model.xml`` and ``model.bin``."""
    import nncf
    import openvino

    target = Path(asked.output) / "model.xml"
    calibrate, validate = (open_store(Path(x)) for x in (asked.calibrate, asked.validate))
    model = openvino.Core().read_model(asked.model)
    compiled = openvino.compile_model(model, "CPU")
    batches = list(validate.batches(1))
    right = (
        validate.labels
        if validate.labels is not None
        else np.array([_answer(compiled(batch)) for batch in batches])
    )

    def quality(candidate: Any, items: Iterable[Any]) -> float:  # noqa: ANN401
        return float(np.mean([_answer(candidate(batch)) == right[row] for row, batch in items]))

    numbered = nncf.Dataset(list(enumerate(batches)), lambda pair: pair[1])
    quantized = nncf.quantize_with_accuracy_control(
        model,
        nncf.Dataset(list(calibrate.batches(1))),
        numbered,
        quality,
        max_drop=asked.margin,
    )
    openvino.save_model(quantized, target)
    return target


def _answer(outputs: Any) -> int:  # noqa: ANN401
    return int(np.argmax(outputs[0][0]))
