"""Which exercise does the wearer of a watch do? Two seconds of its motion sensors.

Data: 140 recordings of 10 people doing 7 exercises of the shoulder with either arm (Burns et al.
2018, arXiv:1802.01489), acceleration and rotation along 3 axes each at 50 Hz; of the package
seglearn 1.2.5 (BSD-3-Clause). Six people are learned from, on the other four models are judged.
Windows of a recording go wrong together: `recording` says which they are, for `--cluster`.

Model: the network of `tests.workloads.time_series`, trained here;
`python -m tests.workloads.watch` prints its path.
"""

from __future__ import annotations

import codecs
import pickle
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.workloads.packages import cache_folder, member
from tests.workloads.time_series import EPOCHS, SEED, Items, export, trained

REQUIREMENT = "seglearn==1.2.5"
MEMBER = "seglearn/data/watch_dataset.npy"
VERSION = 1

TAUGHT, JUDGED = range(1, 7), range(7, 11)
"""Numbers of the people."""

WINDOW, HOP = 100, 50

KNOWN: Mapping[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): codecs.encode,
}
"""All that the file calls for: it makes arrays, and bytes out of text."""


class ArraysOnly(pickle.Unpickler):
    """Reads pickled arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what may be called; raises UnpicklingError for all else."""
        try:
            return KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not of an array") from None


def items() -> Items:
    """Return windows of four people, x, float32 [n, 6, 100], y: the exercise, and recording."""
    return _windows(JUDGED)


def lessons() -> Items:
    """Return windows of six other people."""
    return _windows(TAUGHT)


def model() -> Path:
    """Return the network as an ONNX file, trained once per machine."""
    target = cache_folder(f"watch-{SEED}-{EPOCHS}-{VERSION}") / "model.onnx"
    if not target.exists():
        part, taught = target.with_suffix(".part"), lessons()
        export(trained(taught), taught["x"][:2], part)
        part.rename(target)
    return target


@cache
def _recordings() -> dict[str, Any]:
    """Return X, arrays [samples, 6], and by recording y, the exercise, and subject."""
    with member(REQUIREMENT, MEMBER).open("rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        found: dict[str, Any] = ArraysOnly(file).load().item()
    return found


def _windows(people: Collection[int]) -> Items:
    found = _recordings()
    x, recording = [], []
    for number, (samples, person) in enumerate(zip(found["X"], found["subject"], strict=True)):
        if person in people:
            starts = range(0, len(samples) - WINDOW + 1, HOP)
            x += [samples[start : start + WINDOW].T for start in starts]
            recording += [number] * len(starts)
    return {
        "x": np.array(x, np.float32),
        "y": found["y"][recording],
        "recording": np.array(recording),
    }


if __name__ == "__main__":
    print(model())
