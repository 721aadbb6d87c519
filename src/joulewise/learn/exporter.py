"""The process in which a model is written as ONNX. Started by `as_onnx`."""

from __future__ import annotations

import warnings
from pathlib import Path

from joulewise.core.child import serve
from joulewise.learn.source import export_reference


def export(reference: str, data: str, weights: str | None, target: str, beside: list[str]) -> None:
    """Write the model that `reference` names to `target`."""
    warnings.simplefilter("ignore")
    path = None if weights is None else Path(weights)
    export_reference(reference, data, path, Path(target), beside)


if __name__ == "__main__":
    serve({"export": export})
