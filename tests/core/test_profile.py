from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulewise.core.profile import OperatorTime, Profile, Work, longest_first
from joulewise.core.records import dump, load

TIMES = st.floats(0.0, 10.0)


def profile(call_s: float, *seconds: float) -> Profile:
    operators = [OperatorTime(kind=f"K{i}", count=1.0, seconds=s) for i, s in enumerate(seconds)]
    return Profile(
        runtime="onnxruntime", batch_items=1, calls=5, call_s=call_s,
        operators=longest_first(operators),
    )  # fmt: skip


@given(TIMES, st.lists(TIMES, max_size=5))
def test_shares_add_up_to_one(call_s: float, seconds: list[float]) -> None:
    found = profile(call_s, *seconds)
    assert found.outside_s >= 0
    assert found.total_s >= max(found.call_s, found.operators_s) - 1e-9
    whole = sum(found.shares.values()) + found.outside_ratio
    assert whole == pytest.approx(1.0 if found.total_s else 0.0)


@given(st.lists(TIMES, max_size=5))
def test_longest_come_first(seconds: list[float]) -> None:
    told = [each.seconds for each in profile(1.0, *seconds).operators]
    assert told == sorted(seconds, reverse=True)


def test_what_lies_outside() -> None:
    found = profile(4.0, 1.0, 2.0)
    assert (found.outside_s, found.outside_ratio) == (1.0, 0.25)
    assert found.shares == {"K1": 0.5, "K0": 0.25}


def test_profiling_may_take_longer_than_the_call() -> None:
    found = profile(2.0, 3.0)
    assert (found.outside_s, found.total_s, found.shares) == (0.0, 3.0, {"K0": 1.0})


def test_intensity() -> None:
    assert Work(mac=30, moved_bytes=20).mac_per_byte == 1.5
    assert Work(mac=0, moved_bytes=0).mac_per_byte == 0.0


def test_is_kept_as_json(tmp_path: Path) -> None:
    dump(profile(2.0, 0.5), tmp_path / "p.json")
    assert load(Profile, tmp_path / "p.json") == profile(2.0, 0.5)
