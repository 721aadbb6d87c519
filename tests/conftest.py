"""What holds for all tests."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path


def pytest_configure() -> None:
    """Use no calibration of this machine, and let Ctrl-C work in the programs under test.

    A shell starts background jobs with SIGINT ignored, and an ignored signal is inherited.
    """
    nowhere = Path(tempfile.gettempdir()) / f"joulewise-tests-{os.getpid()}"
    os.environ["JOULEWISE_HOME"] = str(nowhere)  # made by none of them
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
