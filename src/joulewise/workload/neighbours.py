"""Which item lies nearest to which: how answers that are vectors (embeddings) are compared.

A vector has no right value of its own: turned or stretched together, embeddings serve as well as
before. What a search or a clustering does with them hangs on who is near whom.

Source: agreement of nearest neighbours as likeness of two embeddings, Tavares, Ayres and Smaragdis
2024 (arXiv:2411.08687), with one neighbour: two sets of one item are alike by 1 or by 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["NOBODY", "TIE", "nearest", "same_nearest"]

Array = npt.NDArray[Any]
Places = npt.NDArray[np.int64]

TIE = 1e-5
"""Difference of cosines within which two items are equally near.

Source: a judgement: rounding of float32 through a network of a dozen layers moves a cosine by about
1e-6; neighbours that differ in kind are further apart by far.
"""

NOBODY = -1
"""The nearest item where an item, or every other one, has no direction (zero or not finite)."""

BLOCK_VALUES = 1 << 24
"""Cosines that are held at a time: 64 MiB."""


def nearest(vectors: Array) -> Places:
    """Return for each item the other one with the largest cosine, int64 [n].

    Of items that are equally near the first counts, so that rounding does not choose among copies.

    Args:
        vectors: floats [n, k].

    Returns:
        Numbers of items; NOBODY where there is none.
    """
    rows = _directions(vectors).astype(np.float32)
    known = np.asarray(np.isfinite(rows).all(axis=1))
    rows[~known] = 0.0
    items = len(rows)
    found = np.full(items, NOBODY, np.int64)
    step = max(1, BLOCK_VALUES // max(1, items))
    for start in range(0, items, step):
        block = np.arange(start, min(start + step, items))
        cosines = rows[block] @ rows.T
        cosines[:, ~known] = -np.inf
        cosines[np.arange(len(block)), block] = -np.inf
        best = cosines.max(axis=1, initial=-np.inf)
        first = np.argmax(cosines >= best[:, None] - TIE, axis=1)
        found[block] = np.where(np.isfinite(best) & known[block], first, NOBODY)
    return found


def same_nearest(ours: Places, theirs: Places, vectors: Array) -> npt.NDArray[np.bool_]:
    """Return where what we found nearest is nearest in `vectors` too, bool [n].

    Args:
        ours: nearest items as another model has them, int64 [n].
        theirs: nearest items in `vectors`, int64 [n].
        vectors: floats [n, k]; what is as near as `theirs`, within TIE, is right as well.
    """
    rows, items = _directions(vectors), np.arange(len(vectors))
    with np.errstate(invalid="ignore"):
        lost = np.einsum("ij,ij->i", rows[items], rows[theirs] - rows[ours])
    somebody = (ours != NOBODY) & (theirs != NOBODY)
    return np.asarray(somebody & (lost <= TIE))


def _directions(vectors: Array) -> npt.NDArray[np.float64]:
    """Return the rows with length 1; what has no direction becomes NaN."""
    rows = vectors.astype(np.float64)
    with np.errstate(all="ignore"):
        rows = rows / np.abs(rows).max(axis=1, initial=0.0, keepdims=True)  # squares may overflow
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))
