"""Python that runs a bundle's model on its plain runtime, without joulewise."""

from __future__ import annotations

from joulewise.core.recipe import RunSettings
from joulewise.core.records import Bundle

__all__ = ["run_requirement", "run_snippet"]

_GRAPH_LEVELS = {"basic": "ORT_ENABLE_BASIC", "all": "ORT_ENABLE_ALL"}


def run_snippet(bundle: Bundle) -> str:
    """Return a script with a function ``predict(batch)``; it starts in the bundle's folder.

    The runtime is the recipe's; an artifact in OpenVINO's own format leaves no choice.
    """
    path = bundle.artifact.main
    if _needs_openvino(bundle):
        return _openvino(path, bundle.recipe.run, bundle.workload.batch_items)
    return _onnxruntime(path, bundle.recipe.run)


def run_requirement(bundle: Bundle) -> str:
    """Return what pip must install for the script, at the version that was proved."""
    package = "openvino" if _needs_openvino(bundle) else "onnxruntime"
    found = bundle.packages.get(package)
    return f"{package}=={found} numpy" if found else f"{package} numpy"


def _needs_openvino(bundle: Bundle) -> bool:
    return bundle.artifact.format == "openvino" or bundle.recipe.run.runtime == "openvino"


def _onnxruntime(path: str, run: RunSettings) -> str:
    options = []
    if run.threads is not None:
        options.append(f"options.intra_op_num_threads = {run.threads}")
    if run.spinning is not None:
        options.append(_config("session.intra_op.allow_spinning", run.spinning))
    if run.graph in _GRAPH_LEVELS:
        level = _GRAPH_LEVELS[run.graph]
        options.append(f"options.graph_optimization_level = ort.GraphOptimizationLevel.{level}")
    return _lines(
        "import numpy as np",
        "import onnxruntime as ort",
        "",
        "options = ort.SessionOptions()",
        *options,
        f"session = ort.InferenceSession({path!r}, options, providers=['CPUExecutionProvider'])",
        "name = session.get_inputs()[0].name",
        "",
        "",
        "def predict(batch: np.ndarray) -> np.ndarray:",
        "    return session.run(None, {name: batch})[0]",
    )


def _openvino(path: str, run: RunSettings, batch_items: int) -> str:
    settings = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}
    if run.threads is not None:
        settings["INFERENCE_NUM_THREADS"] = str(run.threads)
    if run.precision is not None:
        settings["INFERENCE_PRECISION_HINT"] = run.precision
    return _lines(
        "import numpy as np",
        "import openvino as ov",
        "",
        "core = ov.Core()",
        f"model = core.read_model({path!r})",
        "shape = model.input(0).partial_shape",
        f"shape[0] = {batch_items}  # items per batch, as proved",
        "model.reshape(shape)",
        f"settings = {settings!r}",
        "compiled = core.compile_model(model, 'CPU', settings)",
        "",
        "",
        "def predict(batch: np.ndarray) -> np.ndarray:",
        "    return compiled(batch)[0]",
    )


def _config(key: str, on: bool) -> str:
    return f"options.add_session_config_entry({key!r}, {str(int(on))!r})"


def _lines(*lines: str) -> str:
    return "\n".join(lines) + "\n"
