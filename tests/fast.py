"""The real program with short measurements: ``python -m tests.fast optimize ...``."""

from __future__ import annotations

import pytest

from joulewise.cli import main
from joulewise.meter import staircase
from joulewise.search import unfinished
from tests.models import shorten_plans


def shorten_staircases(patch: pytest.MonkeyPatch) -> None:
    """Make steps of 0.3 s enough for a meter that tells 10 times a second, whoever else is busy."""
    patch.setattr(staircase, "SHORTEST_STEP_S", 0.3)
    patch.setattr(staircase, "SETTLE_S", 0.15)
    patch.setattr(staircase, "SETTLE_UPDATES", 0)
    patch.setattr(staircase, "MIN_UPDATES", 3)
    patch.setattr(staircase, "warnings_of", lambda *_: ())


if __name__ == "__main__":
    shorten_plans(pytest.MonkeyPatch())
    shorten_staircases(pytest.MonkeyPatch())
    pytest.MonkeyPatch().setattr(unfinished, "BEAT_S", 0.0)  # trials are short, so notes are many
    main()
