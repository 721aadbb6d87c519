"""Folders that look like the Linux sys file system."""

from __future__ import annotations

from pathlib import Path

__all__ = ["write"]


def write(folder: Path, **files: str | int) -> Path:
    """Create or replace files, each at once: a reader never sees half a value."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        fresh = folder / f".{name}.new"
        fresh.write_text(f"{value}\n")
        fresh.replace(folder / name)
    return folder
