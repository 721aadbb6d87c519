"""Microsoft Olive's search over ONNX Runtime's quantization, static and dynamic.

The search and the metrics are those of the documentation's examples: a few points of TPE, accuracy
first, which may fall by the margin, then latency. What is right is what the labels say, else the
original; of vectors the class is the nearest other item of the original's vectors, of values the
item itself where they are within 5 % of the original's, and nothing else.

Olive 0.13 leaves the documentation in three places: custom metrics end with an error, so does an
evaluator without a type, and the sampler's `max_samples` and `seed` are lost, so that it would try
all points. `max_iter` stands in for it: six points are drawn, of which Olive leaves out those that
do not exist.

Source: Olive documentation, "Olive Options", "How to Define Evaluation Metrics", section "Configure
multiple metrics", "How to Setup Custom Dataset for Calibration and Evaluation", and "How to Use
Python Interface".
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.field.contract import Asked
from joulewise.workload.neighbours import nearest
from joulewise.workload.store import Store, open_store
from joulewise.workload.task import AGREEMENT_TOLERANCE_RATIO

RUNTIME = "onnxruntime"


def optimize(asked: Asked) -> Path:
    """Write ``model.onnx``.

    Raises:
        RuntimeError: nothing that Olive tried meets the goals.
    """
    os.environ["OLIVE_DISABLE_TELEMETRY"] = "1"
    import olive

    output = Path(asked.output)
    found = olive.run(
        {
            "input_model": {"type": "ONNXModel", "model_path": asked.model},
            "systems": {
                "local_system": {
                    "type": "LocalSystem",
                    "accelerators": [
                        {"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}
                    ],
                }
            },
            "data_configs": [
                {
                    "name": name,
                    "type": "DataContainer",
                    "load_dataset_config": {"type": "items", "data_dir": folder},
                    "post_process_data_config": {"type": "answers"},
                }
                for name, folder in (("calibrate", asked.calibrate), ("validate", asked.validate))
            ],
            "evaluators": {
                "common_evaluator": {
                    "type": "OnnxEvaluator",
                    "metrics": _metrics(asked.margin, _register(asked)),
                }
            },
            "passes": {
                "onnx_quantization": {"type": "OnnxQuantization", "data_config": "calibrate"}
            },
            "search_strategy": {"execution_order": "joint", "sampler": "tpe", "max_iter": 5},
            "evaluator": "common_evaluator",
            "host": "local_system",
            "target": "local_system",
            "clean_cache": True,
            "cache_dir": str(output / "cache"),
            "output_dir": str(output),
        }
    )
    best = found.get_best_candidate()
    if best is None:
        raise RuntimeError("Olive found no version that meets the goals")
    return Path(best.model_path)


def _metrics(margin: float, classes: int) -> list[dict[str, Any]]:
    accuracy = {
        "name": "accuracy",
        "type": "accuracy",
        "data_config": "validate",
        "sub_types": [
            {
                "name": "accuracy_score",
                "priority": 1,
                "metric_config": {"task": "multiclass", "num_classes": classes},
                "goal": {"type": "max-degradation", "value": margin},
            }
        ],
    }
    latency = {
        "name": "latency",
        "type": "latency",
        "data_config": "validate",
        "sub_types": [{"name": "avg", "priority": 2}],
    }
    return [accuracy, latency]


def _register(asked: Asked) -> int:
    """Tell Olive how items are read and what an answer is; return how many answers there are."""
    import torch
    from olive.data.registry import Registry

    first, vectors = _scores(asked), asked.metric.startswith("neighbour")
    values = asked.metric == "values"
    given = torch.from_numpy(first.reshape(len(first), -1))
    original = torch.nn.functional.normalize(given)

    @Registry.register_dataset()  # type: ignore[untyped-decorator]
    def items(data_dir: str) -> list[tuple[dict[str, Any], int]]:
        store = open_store(Path(data_dir))
        right = _right(store, first, asked.metric) if data_dir == asked.validate else None
        return [
            ({name: x[0] for name, x in batch.items()}, 0 if right is None else int(right[row]))
            for row, batch in enumerate(store.batches(1))
        ]

    @Registry.register_post_process()  # type: ignore[untyped-decorator]
    def answers(outputs: Any) -> Any:  # noqa: ANN401
        if values:
            off, item = torch.cdist(outputs.flatten(1), given).min(1)
            near = off <= AGREEMENT_TOLERANCE_RATIO * given[item].norm(dim=1)
            return torch.where(near, item, len(given))
        if not vectors:
            return outputs.argmax(1)
        return (outputs @ original.T).topk(2).indices[:, 1]  # nearest is the item itself

    if values:
        return len(first) + 1
    return len(first) if vectors else first.shape[1]


def _right(store: Store, first: Any, metric: str) -> Any:  # noqa: ANN401
    if metric == "values":
        return np.arange(len(first))
    if metric.startswith("neighbour"):
        return nearest(first)
    return first.argmax(1) if store.labels is None else store.labels


def _scores(asked: Asked) -> Any:  # noqa: ANN401
    """Return the original's first output for the items on which quality is looked at."""
    import onnxruntime

    session = onnxruntime.InferenceSession(asked.model, providers=["CPUExecutionProvider"])
    batches = open_store(Path(asked.validate)).batches(1)
    return np.concatenate([session.run(None, batch)[0] for batch in batches])
