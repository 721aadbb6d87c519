from __future__ import annotations

import math
from typing import Any

import pytest

from joulewise.core.errors import UsageError
from joulewise.core.settings import Budget, Settings, Usage


def test_defaults_are_half_a_point_at_95_percent() -> None:
    assert (Settings().margin, Settings().confidence) == (0.005, 0.95)


@pytest.mark.parametrize("margin", [0.0, -0.1, 1.0, 50.0, math.nan])
def test_a_margin_that_is_none_is_refused(margin: float) -> None:
    with pytest.raises(UsageError, match=r"a margin of .* points is none; use e\.g\. 0\.5"):
        Settings(margin=margin)


@pytest.mark.parametrize("confidence", [0.5, 0.0, 1.0, 95.0, math.nan])
def test_a_confidence_that_cannot_be_meant_is_refused(confidence: float) -> None:
    with pytest.raises(UsageError, match=r"a confidence of .* % is not between"):
        Settings(confidence=confidence)


def test_a_confidence_that_no_test_can_reach_is_refused() -> None:
    with pytest.raises(UsageError, match=r"99\.99 % is not between"):
        Settings(confidence=0.9999)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(UsageError, match="seed -1 is negative"):
        Settings(seed=-1)


def test_limits_that_are_none_are_refused() -> None:
    for wrong in ({"size_bytes": 0}, {"quality": 0.0}, {"quality": math.nan}):
        with pytest.raises(UsageError, match="must be positive"):
            Usage(**wrong)
    with pytest.raises(UsageError, match=r"a quality of 150 % is above 100 %"):
        Usage(quality=1.5)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
@pytest.mark.parametrize("name", ["max_s", "max_j"])
def test_a_budget_that_is_none_is_refused(name: str, value: float) -> None:
    with pytest.raises(UsageError, match="a budget must be positive"):
        Budget(**{name: value})


def test_usage_asks_for_nothing_by_default() -> None:
    assert Usage() == Usage(batch_items=1, latency_p95_s=None, expected_items=None)


@pytest.mark.parametrize("items", [0, -3])
def test_a_batch_that_is_not_positive_is_refused(items: int) -> None:
    with pytest.raises(UsageError, match=f"batch must be positive, not {items}"):
        Usage(batch_items=items)


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan])
def test_a_latency_that_is_not_positive_is_refused(seconds: float) -> None:
    with pytest.raises(UsageError, match="latency must be positive"):
        Usage(latency_p95_s=seconds)


def test_an_expectation_that_is_not_positive_is_refused() -> None:
    with pytest.raises(UsageError, match="expected must be positive, not 0"):
        Usage(expected_items=0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"metric": "f1"}, "there is no metric 'f1'; choose auto, macro_f1"),
        ({"metric": "macro_f1", "task": "values"}, "macro_f1 is of classes, not of values"),
        ({"metric": "correlation", "tolerance": 1.0}, "leave one of the two out"),
        ({"metric": "perplexity", "slice_name": "topic"}, "leave --slice out"),
    ],
)
def test_a_metric_that_does_not_go_with_the_rest_is_refused(
    changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        Settings(**changes)


def test_a_metric_says_what_the_output_is() -> None:
    assert Settings(task="vectors").kind == "vectors"
    assert Settings(metric="macro_f1", task="classes", slice_name="light").kind == "classes"
    assert Settings(metric="perplexity").kind == "tokens"
