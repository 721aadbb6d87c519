"""What a graph is made of: operator types and how often each stands in it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from joulewise.core.errors import MissingExtraError

__all__ = ["count_operators"]


def count_operators(path: Path) -> Counter[str]:
    """Return operator type -> number of nodes of the main graph; empty for files other than ONNX.

    Raises:
        MissingExtraError: onnx is not installed.
    """
    if path.suffix != ".onnx":
        return Counter()
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError("onnx", "onnx") from error
    graph = onnx.load(path, load_external_data=False).graph
    return Counter(node.op_type for node in graph.node)
