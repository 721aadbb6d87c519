"""Read values of the Linux sys file system, with errors for people."""

from __future__ import annotations

from pathlib import Path

from joulewise.core.errors import SensorError

__all__ = ["read_line", "read_number"]


def read_line(path: Path) -> str:
    """Return the one line of a file.

    Raises:
        SensorError: the file is absent or may not be read; the message has the fix.
    """
    try:
        return path.read_text(errors="replace").strip()
    except PermissionError as error:
        raise SensorError(f"only root may read {path}; run: sudo chmod a+r {path}") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise SensorError(f"cannot read {path} ({reason}); is its driver still loaded?") from error


def read_number(path: Path) -> int:
    """Return the whole number in a file.

    Raises:
        SensorError: the file is absent, may not be read, or holds no whole number.
    """
    text = read_line(path)
    try:
        return int(text)
    except ValueError as error:
        raise SensorError(f"{path} holds {text!r}, not a number; reload its driver") from error
