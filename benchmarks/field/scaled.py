"""Parts of the demo's 16,000 images, to see what more data costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from joulewise.demo import DATA

Items = dict[str, npt.NDArray[Any]]


def images_2000() -> Items:
    """Return the first 2,000."""
    return _first(2000)


def images_4000() -> Items:
    """Return the first 4,000."""
    return _first(4000)


def images_8000() -> Items:
    """Return the first 8,000."""
    return _first(8000)


def _first(items: int) -> Items:
    with np.load(DATA) as archive:
        return {name: archive[name][:items] for name in archive.files}
