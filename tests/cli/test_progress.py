"""What is written about long steps where there is no terminal to draw a bar in."""

from __future__ import annotations

import pytest

from joulewise.cli.progress import Terminal


def told(capsys: pytest.CaptureFixture[str], *shares: float) -> list[str]:
    with Terminal(quiet=False) as terminal:
        for share in shares:
            terminal.part(share, "done")
    return [line.split(" %")[0].strip() for line in capsys.readouterr().err.splitlines()]


def test_a_line_for_every_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, *(number / 100 for number in range(101))) == [
        str(percent) for percent in range(10, 101, 10)
    ]


def test_the_next_step_is_told_though_the_last_did_not_say_that_it_ended(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert told(capsys, 0.1, 0.9, 0.0, 0.05, 0.2, 0.25, 0.4) == ["10", "90", "20", "40"]
