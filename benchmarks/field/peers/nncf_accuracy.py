"""NNCF's quantization with accuracy control: layers go back to float until the loss is small.

The measure of quality is that of the job: accuracy where there are labels, else agreement with the
original, for values within 5 %, or for vectors the mean cosine to the original's; `max_drop` is the
margin.

Source: NNCF documentation, "Quantizing with accuracy control", OpenVINO.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.field.contract import Asked
from joulewise.compress.nncf_int8 import model_type_of
from joulewise.workload.store import open_store
from joulewise.workload.task import AGREEMENT_TOLERANCE_RATIO

RUNTIME = "openvino"

Score = Callable[[Any, Any], float]
"""Quality of an answer, given the right one."""


def optimize(asked: Asked) -> Path:
    """Write ``model.xml`` and ``model.bin``."""
    import nncf
    import openvino

    target = Path(asked.output) / "model.xml"
    calibrate, validate = (open_store(Path(x)) for x in (asked.calibrate, asked.validate))
    model = openvino.Core().read_model(asked.model)
    compiled = openvino.compile_model(model, "CPU")
    batches = list(validate.batches(1))
    first = [compiled(batch)[0][0] for batch in batches]
    kind = asked.metric.partition(" ")[0]
    score: Score = SCORES.get(kind, _same_class)
    if validate.labels is not None and kind not in SCORES:
        first = list(validate.labels)

    def quality(candidate: Any, items: Iterable[Any]) -> float:  # noqa: ANN401
        return float(np.mean([score(candidate(batch)[0][0], first[row]) for row, batch in items]))

    numbered = nncf.Dataset(list(enumerate(batches)), lambda pair: pair[1])
    quantized = nncf.quantize_with_accuracy_control(
        model,
        nncf.Dataset(list(calibrate.batches(1))),
        numbered,
        quality,
        max_drop=asked.margin,
        model_type=model_type_of(model),
    )
    openvino.save_model(quantized, target)
    return target


def _same_class(scores: Any, right: Any) -> bool:  # noqa: ANN401
    """Return whether the class is that of the label or of the original's scores."""
    return bool(np.argmax(scores) == (right if np.ndim(right) == 0 else np.argmax(right)))


def _same_values(values: Any, right: Any) -> bool:  # noqa: ANN401
    """Return whether values are near the original's (`joulewise.workload.task.score_values`)."""
    off = float(np.linalg.norm(values - right) / np.linalg.norm(right))
    return off <= AGREEMENT_TOLERANCE_RATIO


def _cosine(vector: Any, right: Any) -> float:  # noqa: ANN401
    return float(vector @ right / (np.linalg.norm(vector) * np.linalg.norm(right)))


SCORES: Mapping[str, Score] = {"neighbour": _cosine, "values": _same_values}
"""First word of the metric -> quality of an answer; else the class counts."""
