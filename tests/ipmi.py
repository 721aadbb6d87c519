"""A machine with a BMC: an executable that prints what ipmitool prints."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

__all__ = ["printed", "put_on_path"]


def printed(watts: int, period: str, state: str = "activated") -> str:
    """Return the lines of ``ipmitool dcmi power reading``, as lib/ipmi_dcmi.c writes them."""
    return f"""
    Instantaneous power reading:              {watts:8d} Watts
    Minimum during sampling period:                  6 Watts
    Maximum during sampling period:                304 Watts
    Average power reading over sample period:       49 Watts
    IPMI timestamp:                           03/06/2025 07:40:35 UTC
    Sampling period:                          {period}
    Power reading state is:                   {state}

"""


def put_on_path(
    folder: Path, monkeypatch: pytest.MonkeyPatch, text: str, *, code: int = 0, errors: str = ""
) -> None:
    """Make ``ipmitool`` an executable that prints a text, if it is asked for the power."""
    said = folder / "said.txt"
    said.write_text(text)
    tool = folder / "ipmitool"
    tool.write_text(
        "#!/bin/sh\n"
        '[ "$*" = "dcmi power reading" ] || exit 9\n'
        f'[ {code} = 0 ] || printf "%s\\n" "{errors}" >&2\n'
        f'cat "{said}"\n'
        f"exit {code}\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
