"""ONNX Runtime as the judge of what a graph computes, outside of any measurement."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

__all__ = ["open_session"]

FATAL = 4
"""Severity below which ONNX Runtime writes nothing: what fails is raised as well."""


def open_session(model: Path | bytes | onnx.ModelProto, *, rewrite: bool = True) -> Any:  # noqa: ANN401 - its types are not public
    """Return an ONNX Runtime session on the CPU whose threads sleep while they wait.

    Args:
        model: the graph, or its file.
        rewrite: False runs every node as it stands in the graph.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not rewrite:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = model if isinstance(model, Path | bytes) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
