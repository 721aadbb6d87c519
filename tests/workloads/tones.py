"""Which key of a telephone sounds in these 40 ms, under somebody's voice, or does none?

Sound: the 16 pairs of tones of ITU-T Q.23, each of a random phase, off by as much as receivers must
bear in frequency and in level (Q.24, table A-1, of AT&T), and as long as the shortest that they
must know; added to the speech of `tests.workloads.voices`, 8,000 samples a second, which is up to
10 dB louder or 10 dB weaker. One in 17 is speech alone. Models learn from an English and a Spanish
voice, and are judged on a French and an Italian one.

Model: the network M3 of Dai et al. 2017 (arXiv:1610.00087, table 1), trained here;
`python -m tests.workloads.tones` prints its path.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tests.workloads import voices
from tests.workloads.packages import cache_folder
from tests.workloads.time_series import EPOCHS, SEED, Items, export, trained

if TYPE_CHECKING:
    from torch import nn

LOW_HZ, HIGH_HZ = (697.0, 770.0, 852.0, 941.0), (1209.0, 1336.0, 1477.0, 1633.0)
KEYS = "123A456B789C*0#D"
"""By row, then by column: the low tone is that of the row, the high one that of the column."""

RATE, LENGTH, WINDOWS = 8_000, 320, 4
"""Samples a second and of an item; items from a second of speech."""

OFF, TWIST_DB, SNR_DB = 0.015, (-8.0, 4.0), (-10.0, 10.0)
"""Of tones: largest relative error of frequency, high over low level, level over the voice's."""

WIDTH, KERNEL, STRIDE, POOL = 256, 80, 4, 4
"""Of the network: channels, the first convolution, and what is pooled after each."""

VERSION = 1


def items() -> Items:
    """Return sound, x, float32 [8348, 1, 320], and y: the key's place in KEYS, 16 for none."""
    return _mixed(voices.JUDGED)


def lessons() -> Items:
    """Return others, x, float32 [10448, 1, 320] and y."""
    return _mixed(voices.TAUGHT)


def model() -> Path:
    """Return the network as an ONNX file, trained once per machine."""
    target = cache_folder(f"tones-{SEED}-{EPOCHS}-{VERSION}") / "model.onnx"
    if not target.exists():
        part, taught = target.with_suffix(".part"), lessons()
        export(trained(taught, _network), taught["x"][:2], part)
        part.rename(target)
    return target


def key(random: np.random.Generator, place: int) -> npt.NDArray[np.float64]:
    """Return the sound of a key, [LENGTH], its root mean square 1.

    Args:
        random: gives phases, and how far the tones are off.
        place: of the key in KEYS.
    """
    row, column = divmod(place, len(HIGH_HZ))
    hertz = np.array([LOW_HZ[row], HIGH_HZ[column]]) * (1 + random.uniform(-OFF, OFF, size=2))
    turns = hertz[:, None] * np.arange(LENGTH) / RATE + random.uniform(size=(2, 1))
    low, high = np.sin(2 * np.pi * turns)
    both = low + _times(random.uniform(*TWIST_DB)) * high
    sound: npt.NDArray[np.float64] = both / np.sqrt(np.square(both).mean())
    return sound


@cache
def _mixed(names: tuple[str, ...]) -> Items:
    """Return each window of speech with a key, or with none."""
    random, x, y = np.random.default_rng(SEED), [], []
    for second in voices.spoken(names):
        speech = second[:: voices.RATE // RATE]
        level = np.sqrt(np.square(speech).mean())
        for window in speech[: WINDOWS * LENGTH].reshape(WINDOWS, LENGTH):
            place = int(random.integers(len(KEYS) + 1))
            x.append(window)
            if place < len(KEYS):
                x[-1] = window + level * _times(random.uniform(*SNR_DB)) * key(random, place)
            y.append(place)
    return {"x": np.stack(x)[:, None].astype(np.float32), "y": np.array(y)}


def _times(decibels: float) -> float:
    """Return a ratio of levels as that of amplitudes."""
    return float(10 ** (decibels / 20))


def _network(channels: int, classes: int) -> nn.Module:
    """Return the network before it has learned."""
    from torch import nn

    return nn.Sequential(
        nn.Conv1d(channels, WIDTH, KERNEL, stride=STRIDE, padding=KERNEL // 2, bias=False),
        nn.BatchNorm1d(WIDTH),
        nn.ReLU(),
        nn.MaxPool1d(POOL),
        nn.Conv1d(WIDTH, WIDTH, 3, padding=1, bias=False),
        nn.BatchNorm1d(WIDTH),
        nn.ReLU(),
        nn.MaxPool1d(POOL),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(WIDTH, classes),
    )


if __name__ == "__main__":
    print(model())
