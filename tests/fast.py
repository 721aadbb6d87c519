"""The real program with short measurements: ``python tests/fast.py optimize ...``."""

from __future__ import annotations

import pytest
from models import shorten_plans

from joulewise.cli import main

if __name__ == "__main__":
    shorten_plans(pytest.MonkeyPatch())
    main()
