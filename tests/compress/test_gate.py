from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from joulewise.compress.gate import SIGNALS, Gate, Terms, are_probabilities
from joulewise.core.errors import PassError, UsageError
from joulewise.core.statistics import noninferiority_p_value

Array = npt.NDArray[Any]

SHARES = np.array([[0.8, 0.1, 0.1], [0.5, 0.25, 0.25], [1 / 3, 1 / 3, 1 / 3]])

CLOSED_FORM: dict[str, Any] = {
    "margin": np.log([8.0, 2.0, 1.0]),
    "max_probability": [0.8, 0.5, 1 / 3],
    "entropy": [0.8**0.8 * 0.1**0.2, 2**-1.5, 1 / 3],
}


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("probabilities", [True, False], ids=["probabilities", "logits"])
def test_confidence_has_its_closed_form(signal: str, probabilities: bool) -> None:
    gate = Gate(signal=signal, threshold=0.0, probabilities=probabilities)
    scores = SHARES if probabilities else np.log(SHARES) + np.array([[5.0], [-3.0], [0.0]])
    np.testing.assert_allclose(gate.confidence(scores), CLOSED_FORM[signal])


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("probabilities", [True, False])
@pytest.mark.parametrize("threshold", [0.0, 1e30])
def test_what_is_not_a_number_is_deferred(
    signal: str, probabilities: bool, threshold: float
) -> None:
    gate = Gate(signal=signal, threshold=threshold, probabilities=probabilities)
    deferred = gate.deferred(np.array([[np.nan, 1.0], [0.0, np.nan], [0.5, 0.5]]))
    assert list(deferred) == [True, True, threshold > 0]


def test_a_class_without_any_probability_is_no_reason_to_defer() -> None:
    for signal in SIGNALS:
        gate = Gate(signal=signal, threshold=0.999, probabilities=True)
        assert not gate.deferred(np.array([[1.0, 0.0, 0.0]])).any()


def test_probabilities_are_told_from_logits() -> None:
    assert are_probabilities(SHARES)
    assert are_probabilities(np.round(SHARES * 256) / 256)
    assert not are_probabilities(np.log(SHARES))
    assert not are_probabilities(np.array([[0.9, 0.2]]))
    assert not are_probabilities(np.array([[np.nan, 1.0]]))


def terms(**given: Any) -> Terms:
    return Terms(**{"signal": "margin", "threshold": None, "loss": 0.02, "confidence": 0.9} | given)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"signal": "mood"}, "margin"),
        ({"threshold": -1.0}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"loss": 0.0}, "0.002"),
        ({"confidence": 1.0}, "0.95"),
        ({"defer": 1.0}, "0.1"),
    ],
)
def test_terms_that_cannot_be_meant_are_one_line(given: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word) as caught:
        terms(**given)
    assert "\n" not in str(caught.value)


flags = hnp.arrays(bool, 80)


@given(
    hnp.arrays(float, 80, elements=st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, np.inf, np.nan])),
    flags,
    flags,
)
def test_found_threshold_passes_the_exact_test(confidence: Array, one: Array, two: Array) -> None:
    """Whatever the items: the counts are those of the threshold, and their p-value is small."""
    try:
        found = terms(loss=0.1).find(confidence, one, two)
    except PassError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    kept = confidence >= found.threshold
    assert found.lost == np.sum(kept & two & ~one)
    assert found.gained == np.sum(kept & one & ~two)
    assert found.deferred_ratio == pytest.approx(1 - np.mean(kept))
    p_value = noninferiority_p_value(found.gained, found.lost, 80, 0.1)
    assert p_value <= 1 - found.confidence + 1e-12
    assert found.confidence == pytest.approx(0.9)


def simulated(random: np.random.Generator, items: int) -> tuple[Array, Array, Array]:
    """A first stage that is wrong with probability exp(-2 c) / 2 at confidence c in [0, 4]."""
    confidence = random.uniform(0, 4, items)
    return confidence, random.random(items) > 0.5 * np.exp(-2 * confidence), np.ones(items, bool)


def test_loss_of_found_thresholds_is_below_the_bound_as_often_as_stated() -> None:
    """True loss at threshold t: the integral of exp(-2 c) / 8 from t to 4."""
    random, above, rounds = np.random.default_rng(0), 0, 60
    for _ in range(rounds):
        found = terms(confidence=0.8).find(*simulated(random, 400))
        loss = (np.exp(-2 * found.threshold) - np.exp(-8)) / 16
        above += loss > 0.02
        assert found.confidence == pytest.approx(0.8)
    assert above <= 0.2 * rounds + 2 * np.sqrt(0.16 * rounds)


@settings(max_examples=30, deadline=None)  # exact p-values take their time
@given(flags, flags, st.sampled_from([0.05, 0.3, 0.7]))
def test_no_less_is_passed_on_than_asked(one: Array, two: Array, defer: float) -> None:
    """Nor more than it takes: the plain threshold's share, or the next step above the least."""
    confidence = np.linspace(0, 4, 80)
    try:
        plain = terms(loss=0.1).find(confidence, one, two).deferred_ratio
    except PassError as error:
        plain = 0.0 if "leave the second stage out" in str(error) else np.nan
    if np.isnan(plain):
        return
    found = terms(loss=0.1, defer=defer).find(confidence, one, two)
    assert max(plain, defer) <= found.deferred_ratio <= max(plain, defer) + 1 / 80 + 1e-9


def test_more_items_defer_less() -> None:
    random = np.random.default_rng(1)
    few, many = (
        np.mean([terms(loss=0.01).find(*simulated(random, n)).deferred_ratio for _ in range(5)])
        for n in (300, 6000)
    )
    assert few > many > 0.22  # 0.01 = (exp(-2 t) - exp(-8)) / 16 at t = 0.91, of 4


def test_too_few_items_give_the_confidence_that_they_can_give() -> None:
    confidence = np.linspace(0, 1, 50)
    found = terms(loss=0.002).find(confidence, confidence > 0.3, np.ones(50, bool))
    assert found.lost == 0
    assert found.deferred_ratio == pytest.approx(0.3, abs=0.03)
    assert found.confidence == pytest.approx(1 - 0.998**50, abs=1e-3)


def test_given_threshold_is_used_whatever_it_loses() -> None:
    confidence = np.linspace(0, 1, 100)
    found = terms(threshold=0.5).find(confidence, confidence < 0, confidence >= 0)
    assert (found.threshold, found.lost) == (0.5, 50)
    assert found.confidence < 0.01


def test_equally_sure_items_stay_together() -> None:
    """A saturated first stage: items at the top cannot be told apart, some of them are wrong."""
    confidence = np.repeat([0.2, 0.6, 1.0], 100)
    first = np.repeat([False, True, True], 100)
    found = terms().find(confidence, first, np.ones(300, bool))
    assert found.threshold == pytest.approx(0.4)
    with pytest.raises(PassError, match="whatever it passes on"):
        terms().find(confidence, ~first, np.ones(300, bool))


def test_first_stage_that_needs_no_second_is_said_so() -> None:
    with pytest.raises(PassError, match="leave the second stage out"):
        terms().find(np.linspace(0, 1, 300), np.ones(300, bool), np.ones(300, bool))
