"""A powercap folder that tests fill with joules of their own.

Looks like ``/sys/class/powercap``: zones nested as in the device tree and linked flat beside each
other, counters in whole microjoules that start again from 0 at their range.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ["RANGE_UJ", "FakePowercap"]

RANGE_UJ = 262_143_328_850
"""Range of a server's package counter. Source: 2^32 units of 2^-14 J, as Linux rounds it."""


class FakePowercap:
    """Write a powercap tree and move its counters.

    Args:
        root: an empty folder; give it to RaplMeter as `root`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._range_uj: dict[str, int] = {}

    def add_zone(
        self, zone: str, name: str, *, start_uj: int = 0, range_uj: int = RANGE_UJ
    ) -> Path:
        """Create a zone and return its folder.

        Args:
            zone: "intel-rapl:0", "intel-rapl:0:1" (inside the former), "intel-rapl-mmio:0".
            name: "package-0", "core", "dram", "psys".
            start_uj: first value of its counter, µJ.
            range_uj: value at which the counter starts again from 0, µJ.
        """
        folder = self.folder(zone)
        folder.mkdir(parents=True)
        if folder.parent != self.root:
            (self.root / zone).symlink_to(folder, target_is_directory=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
        self._range_uj[zone] = range_uj
        self.set_uj(zone, start_uj)
        return folder

    def advance(self, joules: Mapping[str, float]) -> None:
        """Let each zone's counter count so many joules, over its end where it gets there."""
        for zone, spent_j in joules.items():
            value_uj = int((self.folder(zone) / "energy_uj").read_text())
            self.set_uj(zone, (value_uj + round(spent_j * 1e6)) % self._range_uj[zone])

    def set_uj(self, zone: str, value_uj: int) -> None:
        """Set a counter, as a reset does."""
        path = self.folder(zone) / "energy_uj"
        fresh = path.with_suffix(".new")
        fresh.write_text(f"{value_uj}\n")
        fresh.replace(path)  # at once, as sysfs: a reader never sees half a value

    def folder(self, zone: str) -> Path:
        """Return the folder of a zone."""
        driver, *numbers = zone.split(":")
        names = [":".join([driver, *numbers[: depth + 1]]) for depth in range(len(numbers))]
        return self.root.joinpath(*names)
