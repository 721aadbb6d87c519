"""The stand-in for NVIDIA's library: compiled from C, its cards in a file."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "meter" / "nvml_stub.c"


@dataclass(frozen=True, kw_only=True)
class Card:
    """A card as NVML sees it; None is "not supported"."""

    energy_mj: int | None = 1_000_000
    power_mw: int | None = 50_000
    mig: int | None = None
    lost: bool = False

    @property
    def line(self) -> str:
        figures = [-1 if x is None else x for x in (self.energy_mj, self.power_mw, self.mig)]
        return " ".join(map(str, [*figures, int(self.lost)]))


class NvmlStub:
    """Compile the library into `folder` and write its cards."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            pytest.skip("compiling the stub of libnvidia-ml.so.1 needs a C compiler")
        self.control = folder / "cards"
        self.library = folder / "libnvidia-ml.so.1"
        command = [compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(self.library)]
        subprocess.run([*command, str(SOURCE)], check=True)

    def set(self, *cards: Card) -> None:
        """Replace the cards at once, as a reader must never see half of them."""
        fresh = self.control.with_suffix(".new")
        fresh.write_text("".join(f"{card.line}\n" for card in cards))
        fresh.replace(self.control)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the binding of this process load the stub, until the test ends."""
        pynvml = pytest.importorskip("pynvml", reason="needs: pip install 'joulewise[nvidia]'")
        monkeypatch.setenv("NVML_STUB", str(self.control))
        monkeypatch.setattr(pynvml, "CDLL", lambda _name: ctypes.CDLL(str(self.library)))
        monkeypatch.setattr(pynvml, "nvmlLib", None)
        monkeypatch.setattr(pynvml, "_nvmlLib_refcount", 0)
        monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
