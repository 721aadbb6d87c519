"""Ranges of activations, from calibration items.

One walk over the items finds the least and the largest number of every tensor; where the observer
asks for more, a second walk counts the numbers between them in equal bins. So memory depends
neither on the number of items nor on the range of values, and the same items give the same ranges.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from joulewise.core.errors import PassError
from joulewise.learn.session import open_session
from joulewise.workload.store import Store

__all__ = [
    "Histogram",
    "Range",
    "channel_peaks",
    "check_observer",
    "least_error",
    "observe",
    "percentile",
]

Array = npt.NDArray[Any]
Range = tuple[float, float]
"""Least and largest number that 8 bits must tell apart; 0 lies between them."""

BINS = 2048

STEPS = 255
"""Steps between the two ends of a range of 8 bits."""

ENDS = 128
"""Ends that are tried on each side of a range, evenly spread from 0 to the outermost number."""

TINY = 1e-30

MARK = 1e30
"""Numbers of this size or more stand for minus infinity (a masked place before a softmax, say): no
range of 8 bits holds them and others."""

CALIBRATION_BATCH_ITEMS = 16
BATCH_BYTES = 1 << 28
"""Most items, and most bytes of activations, that are computed at a time."""


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """How many numbers of a tensor lie where.

    Args:
        low: least number, at most 0.
        high: largest number, at least 0.
        counts: numbers in equal bins from `low` to `high`.
    """

    low: float
    high: float
    counts: npt.NDArray[np.int64]

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        """Ends of the bins, [bins + 1]."""
        return np.linspace(self.low, self.high, len(self.counts) + 1)


def check_observer(name: str) -> None:
    """Raise PassError unless `name` is an observer: minmax, mse, or p and a percentage."""
    if name in ("minmax", "mse"):
        return
    ratio = _ratio(name)
    if ratio is None or not 0.5 < ratio <= 1:
        raise PassError(f"there is no range {name!r}; choose minmax, mse, or p99.99 and the like")


def observe(
    model: Path, names: Sequence[str], calibration: Store, observer: str, batch_items: int | None
) -> dict[str, Range]:
    """Return the range of each tensor that has one: not of those with marks, or with no numbers.

    Args:
        model: an ONNX file.
        names: float tensors of its graph: inputs, or what nodes give.
        calibration: items.
        observer: "minmax" from the least number to the largest; "p99.99" so much of all numbers in
            percent, as many left out on either side; "mse" by the least squared error.
        batch_items: the batch that the model is fixed to, None where it is free.

    Raises:
        PassError: there is no such observer.
    """
    check_observer(observer)
    batches = _Activations(model, names, calibration, batch_items)
    ranges = dict.fromkeys(names, (0.0, 0.0))
    for batch in batches:
        for name, values in batch.items():
            low, high = ranges[name]
            ranges[name] = float(values.min(initial=low)), float(values.max(initial=high))
    ranges = {name: x for name, x in ranges.items() if x[0] > -MARK and x[1] < MARK}
    if observer == "minmax":
        return ranges
    counts = {name: np.zeros(BINS, np.int64) for name in ranges}
    for batch in batches:
        for name in ranges:
            counts[name] += _counted(batch[name], *ranges[name])
    histograms = {
        name: Histogram(low=low, high=high, counts=counts[name])
        for name, (low, high) in ranges.items()
    }
    ratio = _ratio(observer)
    if ratio is None:
        return {name: least_error(each) for name, each in histograms.items()}
    return {name: percentile(each, ratio) for name, each in histograms.items()}


def channel_peaks(
    model: Path, names: Sequence[str], calibration: Store, batch_items: int | None
) -> dict[str, Array]:
    """Return the largest absolute number of each channel, that is, of each place on the last axis.

    Args:
        model: an ONNX file.
        names: float tensors of its graph: inputs, or what nodes give.
        calibration: items.
        batch_items: the batch that the model is fixed to, None where it is free.
    """
    peaks: dict[str, Array] = {}
    for batch in _Activations(model, names, calibration, batch_items):
        for name, values in batch.items():
            size = np.abs(values).reshape(-1, values.shape[-1])
            found = size.max(axis=0, where=size < MARK, initial=0.0)
            peaks[name] = np.maximum(found, peaks.get(name, 0.0))
    return peaks


def percentile(histogram: Histogram, ratio: float) -> Range:
    """Return the range that holds a share of all numbers, as many left out on either side.

    Args:
        histogram: of a tensor.
        ratio: the share, (0.5, 1].
    """
    below = np.concatenate([[0], np.cumsum(histogram.counts)])
    left_out = (1 - ratio) / 2 * below[-1]
    low, high = np.interp([left_out, below[-1] - left_out], below, histogram.edges)
    return min(0.0, float(low)), max(0.0, float(high))


def least_error(histogram: Histogram) -> Range:
    """Return the range in which rounding to 8 bits has the least mean squared error.

    What lies inside is off by step² / 12 on average, what lies outside by its distance to the end.

    Args:
        histogram: of a tensor.

    Source: Banner et al. 2019, equations 1 to 5, with counts for the density (arXiv:1810.05723);
    differs: both ends are searched, since the ranges of unsigned activations are not symmetric.
    """
    edges = histogram.edges
    middles = (edges[1:] + edges[:-1]) / 2
    shares = histogram.counts / max(1, histogram.counts.sum())
    below = np.concatenate([[0.0], np.cumsum(shares)])
    lows = np.linspace(histogram.low, 0, ENDS, endpoint=False)
    highs = np.linspace(histogram.high, 0, ENDS, endpoint=False)
    cut_low = np.square(np.maximum(lows[:, None] - middles, 0)) @ shares
    cut_high = np.square(np.maximum(middles - highs[:, None], 0)) @ shares
    inside = np.interp(highs, edges, below) - np.interp(lows, edges, below)[:, None]
    step = (highs - lows[:, None]) / STEPS
    error = cut_low[:, None] + cut_high + inside * step**2 / 12
    row, column = np.unravel_index(np.argmin(error), error.shape)
    return float(lows[row]), float(highs[column])


def _ratio(observer: str) -> float | None:
    """Return the share of numbers that "p99.99" stands for, None where it is another observer."""
    found = re.fullmatch(r"p(\d+(?:\.\d+)?)", observer)
    return None if found is None else float(found[1]) / 100


class _Activations:
    """What tensors of a graph are on calibration items, batch by batch; may be walked again."""

    def __init__(
        self, model: Path, names: Sequence[str], calibration: Store, batch_items: int | None
    ) -> None:
        import onnx

        graph = onnx.load(model)
        given = {value.name for value in graph.graph.output}
        inner = [x for x in names if x not in given and x not in calibration.inputs]
        graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
        self._session = open_session(graph, rewrite=False)
        self._fed = [name for name in names if name in calibration.inputs]
        self._asked = [name for name in names if name not in calibration.inputs]
        self._calibration = calibration
        self._batch_items = batch_items or self._fitting()

    def __iter__(self) -> Iterator[Mapping[str, Array]]:
        for batch in self._calibration.batches(self._batch_items):
            yield self._run(batch)

    def _run(self, batch: Mapping[str, Array]) -> dict[str, Array]:
        found = self._session.run(self._asked, batch) if self._asked else []
        return {**{x: batch[x] for x in self._fed}, **dict(zip(self._asked, found, strict=True))}

    def _fitting(self) -> int:
        """Return how many items are computed at a time."""
        one_bytes = sum(
            values.nbytes for values in self._run(self._calibration.batch(0, 1)).values()
        )
        return min(CALIBRATION_BATCH_ITEMS, max(1, BATCH_BYTES // max(1, one_bytes)))


def _counted(values: Array, low: float, high: float) -> npt.NDArray[np.int64]:
    """Return how many values lie in each of BINS equal bins from `low` to `high`."""
    bins = (values.ravel() - low) * (BINS / max(high - low, TINY))
    return np.bincount(np.clip(bins, 0, BINS - 1).astype(np.int32), minlength=BINS)
