"""The real program with short measurements: ``python -m tests.fast optimize ...``."""

from __future__ import annotations

import pytest

from joulewise.cli import main
from tests.models import shorten_plans

if __name__ == "__main__":
    shorten_plans(pytest.MonkeyPatch())
    main()
