"""The benchmark of texts: what it applies exists."""

from __future__ import annotations

import pytest

pytest.importorskip("tokenizers")

from benchmarks.texts import JOBS
from joulewise.compress.passes import check_step
from joulewise.core.recipe import parse_steps


@pytest.mark.parametrize("corpus", sorted(JOBS))
def test_recipes_exist_and_end_in_int8_without_padding(corpus: str) -> None:
    steps = parse_steps(JOBS[corpus].recipe)
    for step in steps:
        check_step(step)
    names = [step.name for step in steps]
    assert names[:-1] == ["drop_blocks", "trim_padding", "distill"]
    assert "int8" in names[-1]
