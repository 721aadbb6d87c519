"""Keys sound as ITU-T Q.23 has them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.workloads.tones import HIGH_HZ, KEYS, LENGTH, LOW_HZ, OFF, RATE, TWIST_DB, key

FINE = 64
"""Points of the spectrum for each that a window gives by itself."""


@pytest.mark.parametrize("place", range(len(KEYS)), ids=list(KEYS))
def test_key_is_a_low_and_a_high_tone(place: int) -> None:
    sound = key(np.random.default_rng(place), place)
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(LENGTH), FINE * LENGTH))
    hertz = np.fft.rfftfreq(FINE * LENGTH, 1 / RATE)
    low, high = (_loudest(spectrum, hertz, tones) for tones in (LOW_HZ, HIGH_HZ))
    row, column = divmod(place, 4)
    assert low[0] == pytest.approx(LOW_HZ[row], rel=OFF + 0.002)
    assert high[0] == pytest.approx(HIGH_HZ[column], rel=OFF + 0.002)
    assert TWIST_DB[0] - 0.5 < 20 * np.log10(high[1] / low[1]) < TWIST_DB[1] + 0.5
    assert np.square(sound).mean() == pytest.approx(1)


def test_keypad() -> None:
    """ITU-T Q.23, table 1: 5 is 770 and 1336 Hz, # 941 and 1477 Hz."""
    for name, low_hz, high_hz in (("5", 770, 1336), ("#", 941, 1477)):
        row, column = divmod(KEYS.index(name), 4)
        assert (LOW_HZ[row], HIGH_HZ[column]) == (low_hz, high_hz)


def _loudest(
    spectrum: np.ndarray, hertz: np.ndarray, tones: tuple[float, ...]
) -> tuple[float, float]:
    """Return frequency and level of what is loudest around these tones."""
    near = (hertz > 0.95 * tones[0]) & (hertz < 1.05 * tones[-1])
    place = np.flatnonzero(near)[spectrum[near].argmax()]
    return float(hertz[place]), float(spectrum[place])
