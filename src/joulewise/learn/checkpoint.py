"""What a training run needs to go on after it was killed, in one file.

The file is replaced as a whole, begins with the digest of the rest, and is read without unpickling
anything but tensors and plain values. A damaged file is no error: the run starts anew.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch

from joulewise.core.errors import JoulewiseError, PassError
from joulewise.core.records import write_atomic

__all__ = ["load_checkpoint", "save_checkpoint"]

DIGEST_BYTES = 32

UNREADABLE = (EOFError, OSError, RuntimeError, ValueError, pickle.UnpicklingError)
"""What reading raises where a file is missing or not one of ours."""


def save_checkpoint(file: Path, state: dict[str, Any]) -> None:
    """Write a state; at every moment the file holds the one before or the new one.

    Args:
        file: where to; its folder is made.
        state: tensors, numbers, strings, and lists and dicts of these.

    Raises:
        PassError: the file cannot be written.
    """
    stream = io.BytesIO()
    torch.save(state, stream)
    content = stream.getvalue()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, hashlib.sha256(content).digest() + content)
    except (OSError, JoulewiseError) as error:
        raise PassError(f"cannot keep the state of training: {error}") from error


def load_checkpoint(file: Path) -> dict[str, Any] | None:
    """Return the state in a file, None where there is none or it is damaged."""
    try:
        content = file.read_bytes()
        if hashlib.sha256(content[DIGEST_BYTES:]).digest() != content[:DIGEST_BYTES]:
            return None
        with warnings.catch_warnings(action="ignore"):  # those of a reader that soon gives up
            state = torch.load(io.BytesIO(content[DIGEST_BYTES:]), weights_only=True)
    except UNREADABLE:
        return None
    return dict(state)
