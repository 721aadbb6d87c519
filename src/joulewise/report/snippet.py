"""Python that runs a bundle's model on its plain runtime, without joulewise."""

from __future__ import annotations

from joulewise.core.recipe import RunSettings
from joulewise.core.records import Bundle

__all__ = ["run_requirement", "run_snippet"]

_DISTRIBUTIONS = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "litert": "ai-edge-litert",
}
"""Runtime -> what pip calls it."""

_GRAPH_LEVELS = {"basic": "ORT_ENABLE_BASIC", "all": "ORT_ENABLE_ALL"}


def run_snippet(bundle: Bundle) -> str:
    """Return a script with a function ``predict(batch)``; it starts in the bundle's folder.

    The runtime is the recipe's; an artifact in a runtime's own format leaves no choice.
    """
    path, run = bundle.artifact.main, bundle.recipe.run
    match _runtime(bundle):
        case "litert":
            return _litert(path, run)
        case "openvino":
            return _openvino(path, run, bundle.workload.batch_items)
        case _:
            return _onnxruntime(path, run)


def run_requirement(bundle: Bundle) -> str:
    """Return what pip must install for the script, at the version that was proved."""
    package = _DISTRIBUTIONS[_runtime(bundle)]
    found = bundle.packages.get(package)
    return f"{package}=={found} numpy" if found else f"{package} numpy"


def _runtime(bundle: Bundle) -> str:
    kind, asked = bundle.artifact.format, bundle.recipe.run.runtime
    found = asked if kind == "onnx" else kind
    return found if found in _DISTRIBUTIONS else "onnxruntime"


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


def _litert(path: str, run: RunSettings) -> str:
    return _lines(
        "import numpy as np",
        "from ai_edge_litert.interpreter import Interpreter",
        "",
        f"interpreter = Interpreter({path!r}, num_threads={run.threads})",
        "interpreter.allocate_tensors()",
        "signature = interpreter.get_signature_runner()",
        "taken = next(iter(signature.get_input_details().values()))['index']",
        "given = signature.get_output_details()['output_0']['index']",
        "del signature  # while it is there the interpreter does not run",
        "",
        "",
        "def predict(batch: np.ndarray) -> np.ndarray:",
        "    interpreter.set_tensor(taken, batch)",
        "    interpreter.invoke()",
        "    return interpreter.get_tensor(given)",
    )


def _config(key: str, on: bool) -> str:
    return f"options.add_session_config_entry({key!r}, {str(int(on))!r})"


def _lines(*lines: str) -> str:
    return "\n".join(lines) + "\n"
