"""Run the real program as its users do: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

TIMEOUT_S = 300.0
FAST = ("-m", "tests.fast")
ROOT = Path(__file__).parents[2]

Done = subprocess.CompletedProcess[str]


def joulewise(
    *arguments: object, folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> Done:
    """Run ``joulewise`` with `arguments` in `folder`."""
    return _run("-m", "joulewise", *arguments, folder=folder, environment=environment)


def fast(*arguments: object) -> Done:
    """Run the same program with short measurements."""
    return _run(*FAST, *arguments, environment={"PYTHONPATH": str(ROOT)})


def _run(
    *arguments: object, folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> Done:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
    )


def only_line(done: Done) -> str:
    """Return the one line of a foreseen failure; stdout must be empty."""
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("joulewise: ")
    return lines[0]
