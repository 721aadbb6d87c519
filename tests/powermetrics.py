"""An executable called powermetrics that writes the samples which the test puts before it."""

from __future__ import annotations

import os
import plistlib
from collections.abc import Mapping
from pathlib import Path

import pytest

__all__ = ["FakePowermetrics"]

SCRIPT = """#!/bin/sh
cd {folder} || exit 9
printf '%s\\n' "$@" > arguments
n=0
while kill -0 $PPID 2> /dev/null; do
    if [ -f refusal ]; then cat refusal >&2; exit 1; fi
    if [ -f $n.plist ]; then
        [ $n -gt 0 ] && printf '\\000'
        cat $n.plist
        n=$((n + 1))
    else
        sleep 0.005
    fi
done
"""

SUDO = """#!/bin/sh
printf '%s\\n' "$1" > {folder}/sudo
shift
exec "$@"
"""


class FakePowermetrics:
    """Write powermetrics, and sudo, into a folder and put it first on the path.

    Args:
        root: an empty folder.
        monkeypatch: sets the path.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = root / "samples"
        (root / "bin").mkdir()
        self.folder.mkdir()
        for name, script in (("powermetrics", SCRIPT), ("sudo", SUDO)):
            executable = root / "bin" / name
            executable.write_text(script.format(folder=self.folder))
            executable.chmod(0o755)
        monkeypatch.setenv("PATH", f"{root / 'bin'}{os.pathsep}{os.environ['PATH']}")
        self._written = 0

    def write(self, text: bytes) -> None:
        """Let powermetrics write this next."""
        fresh = self.folder / "fresh"
        fresh.write_bytes(text)
        fresh.rename(self.folder / f"{self._written}.plist")
        self._written += 1

    def sample(self, seconds: float, joules: Mapping[str, float], **more: object) -> None:
        """Let powermetrics write a sample.

        Args:
            seconds: time since the one before, s.
            joules: "cpu" -> joules since the one before.
            more: further entries of the property list.
        """
        self.write(plist(seconds, joules, **more))

    def refuse(self, text: str) -> None:
        """Let powermetrics complain and end."""
        (self.folder / "refusal").write_text(text)

    def told(self, name: str = "arguments") -> list[str]:
        """Return what it, or sudo, was started with."""
        return (self.folder / name).read_text().split()


def plist(seconds: float, joules: Mapping[str, float], **more: object) -> bytes:
    """Return a sample as powermetrics writes it, cut to what concerns energy."""
    energies = {f"{rail}_energy": round(1e3 * j) for rail, j in joules.items()}
    powers = {f"{rail}_power": 1e3 * j / seconds for rail, j in joules.items()}
    processor = {**energies, **powers, "combined_power": sum(powers.values())}
    fields = {
        "is_delta": True,
        "elapsed_ns": round(1e9 * seconds),
        "hw_model": "MacBookPro17,1",
        "processor": processor,
        "gpu": {"freq_hz": 714.836, "gpu_energy": energies.get("gpu_energy", 0)},
        **more,
    }
    return plistlib.dumps(fields)
