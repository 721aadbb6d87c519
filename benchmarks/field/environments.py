"""An environment of its own for every optimiser, made once per machine and list of packages."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import platformdirs

from benchmarks.conditions import ROOT
from joulewise.core.errors import JoulewiseError

__all__ = ["EnvironmentFailedError", "python_of"]

RUNTIMES = Path(__file__).with_name("runtimes")
"""A package with the runtimes that joulewise does not have itself."""


class EnvironmentFailedError(JoulewiseError):
    """An optimiser cannot be installed; its line says what pip said last."""


def python_of(name: str, requirements: Sequence[str]) -> Path:
    """Return the interpreter of an environment, made if missing.

    It has joulewise, the runtimes of the side-by-side, and `requirements`.

    Args:
        name: of the environment.
        requirements: as pip takes them; the newest versions at the time when it is made.

    Raises:
        EnvironmentFailedError: pip cannot install them.
    """
    made_of = f"{ROOT}\n{RUNTIMES}\n{sys.version}\n{sorted(requirements)}"
    key = hashlib.sha256(made_of.encode()).hexdigest()[:12]
    folder = Path(platformdirs.user_cache_dir("joulewise")) / "field" / f"{name}-{key}"
    python, whole = folder / "bin" / "python", folder / "whole"
    if not whole.exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        _install(python, requirements)
        _install(python, ["-e", str(ROOT), "-e", str(RUNTIMES)])
        whole.touch()
    return python


def _install(python: Path, requirements: Sequence[str]) -> None:
    done = subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", *requirements],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        last = said[-1] if said else f"pip ended with exit code {done.returncode}"
        raise EnvironmentFailedError(f"cannot install {' '.join(requirements)}: {last}")
