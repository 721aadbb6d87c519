"""The process in which one pass is applied. Started by `apply_step`."""

from __future__ import annotations

import warnings
from pathlib import Path

from joulewise.compress.passes import PASSES
from joulewise.core.child import serve
from joulewise.workload.store import open_store


def apply(
    name: str, parameters: dict[str, object], source: str, store: str, folder: str
) -> list[str]:
    """Apply the pass `name` and return the files it wrote."""
    warnings.simplefilter("ignore")
    change = PASSES.load(name)(**parameters)
    return list(change.apply(Path(source), open_store(Path(store)), Path(folder)))


if __name__ == "__main__":
    serve({"apply": apply})
