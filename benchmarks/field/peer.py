"""The process in which an optimiser runs, in its own environment. Started by `field.run`."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from benchmarks.field.contract import Asked, Made
from joulewise.core.child import serve


def optimize(module: str, packages: Sequence[str], asked: dict[str, object]) -> dict[str, object]:
    """Have an optimiser make its model.

    Args:
        module: that of benchmarks.field.peers.
        packages: whose versions are told.
        asked: the fields of `Asked`.

    Returns:
        The fields of `Made`.
    """
    warnings.simplefilter("ignore")
    logging.getLogger().setLevel(logging.ERROR)
    peer = import_module(f"benchmarks.field.peers.{module}")
    request = Asked(**asked)  # type: ignore[arg-type]
    os.chdir(request.output)  # some leave files where they are
    main: Path = peer.optimize(request)
    versions = {name: version(name) for name in packages}
    return asdict(Made(main=str(main), runtime=peer.RUNTIME, versions=versions))


if __name__ == "__main__":
    serve({"optimize": optimize})
