"""A bundle with a claim that holds on any machine: the changed model needs a fraction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from joulewise.core.recipe import Recipe, RunSettings, Step
from joulewise.core.records import Artifact, Bundle, describe_artifact
from joulewise.core.settings import Settings
from joulewise.pipeline import optimize
from joulewise.search import run, session
from tests.models import Job, make_job, shorten_plans

CHANNELS = 48
LAYERS = 4


def make_cheaper_bundle(folder: Path) -> Bundle:
    """Write a bundle to ``folder/out`` whose verdict is "cheaper".

    The original is the tiny classifier with layers that cost a lot and change no answer; the pass
    gives the classifier without them. All else is the real chain.
    """
    job = make_job(folder / "job", items=600)
    wasteful = add_waste(job.model, folder / "job" / "wasteful.onnx")
    one_thread = RunSettings(runtime="onnxruntime", threads=1)
    lossless = (Recipe(run=RunSettings(runtime="onnxruntime")), Recipe(run=one_thread))
    changed = (Recipe(steps=(Step(name="static_int8"),), run=one_thread),)
    with pytest.MonkeyPatch.context() as patch:
        shorten_plans(patch)
        patch.setattr(run, "lossless_recipes", lambda *_: lossless)
        patch.setattr(run, "changed_recipes", lambda *_: changed)
        patch.setattr(session, "apply_step", lambda *given: remove_waste(job, given[3]))
        return optimize(
            wasteful,
            str(job.data),
            folder / "out",
            settings=Settings(
                margin=0.05, runtimes=("onnxruntime",), meter="cpu-time", proposals=0
            ),
        )


def add_waste(model: Path, target: Path, layers: int = LAYERS) -> Path:
    """Write `model` with convolutions whose result is added times 1e-9."""
    proto = onnx.load(model)
    graph, scores = proto.graph, proto.graph.output[0].name
    random = np.random.default_rng(0)
    for node in graph.node:
        node.output[:] = ["plain" if name == scores else name for name in node.output]
    weights: dict[str, Any] = {"scale": np.array([1e-9])}
    last, channels = "x", 1
    for layer in range(layers):
        weights[f"waste{layer}"] = random.normal(0, 0.05, (CHANNELS, channels, 3, 3))
        graph.node.append(
            helper.make_node("Conv", [last, f"waste{layer}"], [f"w{layer}"], pads=[1, 1, 1, 1])
        )
        last, channels = f"w{layer}", CHANNELS
    graph.node.extend(
        [
            helper.make_node("ReduceMean", [last], ["mean"], axes=[2, 3], keepdims=0),
            helper.make_node("ReduceMean", ["mean"], ["mean1"], axes=[1], keepdims=1),
            helper.make_node("Mul", ["mean1", "scale"], ["little"]),
            helper.make_node("Add", ["plain", "little"], [scores]),
        ]
    )
    graph.initializer.extend(
        numpy_helper.from_array(values.astype(np.float32), name) for name, values in weights.items()
    )
    onnx.save(proto, target)
    return target


def remove_waste(job: Job, folder: Path) -> Artifact:
    """Write the classifier without the waste, as a pass would."""
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(job.model.read_bytes())
    return describe_artifact(folder, ["model.onnx"], "onnx")
