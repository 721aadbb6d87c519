from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulewise.core.errors import SensorError
from joulewise.meter.apple import (
    LATE_S,
    AppleMeter,
    command_line,
    parse_sample,
    probe,
    samples,
)
from tests.clock import Clock
from tests.powermetrics import FakePowermetrics, plist

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the fake is a shell script")

NOTHING = {"cpu": 0.0, "gpu": 0.0, "ane": 0.0}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePowermetrics:
    return FakePowermetrics(tmp_path, monkeypatch)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def meter(fake: FakePowermetrics, clock: Clock) -> Iterator[AppleMeter]:
    fake.sample(0.1, {"cpu": 7.0, "gpu": 7.0, "ane": 7.0})  # before it was opened
    with closing(AppleMeter(clock=clock)) as meter:
        yield meter


# ---------------------------------------------------------------- one sample

PUBLISHED = [
    # elapsed s, mJ, mW as powermetrics itself divides them; an M1 (macgpu_test.go) and a sample of
    # five seconds (powerwatch, powermetrics.rs)
    (2.019178750, {"cpu": 89, "gpu": 31, "ane": 0}, 59.4301),
    (5.015204, {"cpu": 1923, "gpu": 5807, "ane": 0}, 1541.31),
]


@pytest.mark.parametrize(("seconds", "rails_mj", "combined_mw"), PUBLISHED)
def test_published_samples_add_up_to_their_combined_power(
    seconds: float, rails_mj: dict[str, int], combined_mw: float
) -> None:
    sample = parse_sample(plist(seconds, {rail: mj / 1e3 for rail, mj in rails_mj.items()}))
    assert set(sample.rails_j) == {"cpu", "gpu", "ane"}
    assert sum(sample.rails_j.values()) / sample.seconds == pytest.approx(
        combined_mw / 1e3, rel=1e-5
    )


def test_graphics_that_are_told_twice_count_once() -> None:
    sample = parse_sample(plist(1.0, {"cpu": 1.0, "gpu": 5.0}, gpu={"gpu_energy": 5000}))
    assert sample.rails_j == pytest.approx({"cpu": 1.0, "gpu": 5.0})


def test_graphics_that_only_their_own_sampler_tells_count_too() -> None:
    sample = parse_sample(plist(1.0, {"cpu": 1.0}, gpu={"gpu_energy": 208}))
    assert sample.rails_j == pytest.approx({"cpu": 1.0, "gpu": 0.208})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "not understood"),
        (b"<plist><dict></plist>", "not understood"),
        (b"<plist version='1.0'><array/></plist>", "not understood"),
        (plist(1.0, {"gpu": 1.0}), "no cpu_energy; it needs a Mac with an Apple chip"),
        (plist(1.0, {"cpu": 1.0}, processor={}), "no cpu_energy"),
        (plist(1.0, {"cpu": 1.0}, processor={"package_joules": 3.5}), "no cpu_energy"),
        (plist(1.0, {"cpu": 1.0}, elapsed_ns=0), "below 0"),
        (plist(1.0, {"cpu": 1.0}, elapsed_ns="soon"), "not understood"),
        (plist(1.0, {"cpu": -1.0}), "below 0"),
        (plist(1.0, {"cpu": 1.0}, processor={"cpu_energy": "many"}), "not understood"),
        (b'<!DOCTYPE p [<!ENTITY a "b">]><plist><string>&a;</string></plist>', "not understood"),
    ],
)
def test_samples_that_make_no_sense_are_errors(text: bytes, reason: str) -> None:
    with pytest.raises(SensorError, match=reason) as caught:
        parse_sample(text)
    assert "\n" not in str(caught.value)


@given(cuts=st.lists(st.floats(0.0, 100.0), min_size=1, max_size=5), leading=st.booleans())
def test_samples_are_told_apart_wherever_the_nul_is(cuts: list[float], leading: bool) -> None:
    texts = [plist(1.0, {"cpu": round(joules, 3)}) for joules in cuts]
    written = b"\0" * leading + b"\0".join(texts)
    found = [parse_sample(text) for text in samples(io.BytesIO(written))]
    assert [each.rails_j["cpu"] for each in found] == pytest.approx(cuts, abs=1e-3)


def test_a_sample_is_there_with_its_last_line_and_not_with_the_next_nul() -> None:
    class Pipe(io.BytesIO):
        def __next__(self) -> bytes:
            line = self.readline()
            assert line, "asked for more than one sample"
            return line

    text = plist(1.0, {"cpu": 1.0})
    assert next(samples(Pipe(text))) == text.strip()


# ---------------------------------------------------------------- the stream


def test_rails_add_up_from_the_first_sample_on(
    fake: FakePowermetrics, meter: AppleMeter, clock: Clock
) -> None:
    assert meter.read().rails_j == NOTHING
    total_j = 0.0
    for joules in (1.0, 2.0, 0.5):
        clock.now_s += 1.0
        fake.sample(1.0, {"cpu": joules, "gpu": 2 * joules, "ane": 0.25})
        total_j += 3 * joules + 0.25
        reading = meter.read()
        assert reading.total_j == pytest.approx(total_j)
        assert reading.time_s == pytest.approx(clock.now_s)
    assert reading.rails_j == pytest.approx({"cpu": 3.5, "gpu": 7.0, "ane": 0.75})


def test_a_reading_waits_for_the_sample_that_holds_its_moment(
    fake: FakePowermetrics, meter: AppleMeter, clock: Clock
) -> None:
    clock.now_s = 0.25
    for _ in range(3):
        fake.sample(0.1, {"cpu": 1.0, "gpu": 0.0, "ane": 0.0})
    reading = meter.read()
    assert reading.time_s == pytest.approx(0.3)
    assert reading.total_j == pytest.approx(3.0)


def test_sensor_names_the_rails_that_are_there(fake: FakePowermetrics) -> None:
    fake.write(plist(0.1, {"cpu": 0.0}, gpu={}))
    with closing(AppleMeter()) as meter:
        assert meter.sensor.rails == ("cpu",)
        assert (meter.sensor.grade, meter.component) == ("B", "machine")


def test_samples_that_are_late_stay_an_error(
    fake: FakePowermetrics, meter: AppleMeter, clock: Clock
) -> None:
    clock.now_s = 1.0 + LATE_S + 0.1
    fake.sample(1.0, NOTHING)
    for _ in range(2):
        with pytest.raises(SensorError, match=r"2\.1 s late .*asleep"):
            meter.read()
        fake.sample(10.0, NOTHING)


def test_rails_that_change_are_an_error(
    fake: FakePowermetrics, meter: AppleMeter, clock: Clock
) -> None:
    clock.now_s = 1.0
    fake.sample(1.0, {"cpu": 1.0, "gpu": 1.0})
    with pytest.raises(SensorError, match="other rails than before"):
        meter.read()


def test_end_of_powermetrics_is_an_error(
    fake: FakePowermetrics, meter: AppleMeter, clock: Clock
) -> None:
    clock.now_s = 1.0
    fake.refuse("second_to_last\nout of order\n")
    for _ in range(2):
        with pytest.raises(SensorError, match=r"ended \(out of order\); measure again"):
            meter.read()


def test_close_ends_powermetrics(meter: AppleMeter) -> None:
    meter.close()
    assert meter._process.poll() is not None
    assert not meter._thread.is_alive()


# ---------------------------------------------------------------- what users can mend


@pytest.mark.parametrize(
    "text",
    ["powermetrics must be invoked as the superuser\n", "sudo: a password is required\n"],
)
def test_missing_rights_have_their_fix(fake: FakePowermetrics, text: str) -> None:
    fake.refuse(text)
    reason = str(probe(platform="darwin"))
    assert "needs root: run joulewise with sudo, or" in reason
    assert "/etc/sudoers.d/powermetrics" in reason
    assert "\n" not in reason


def test_probe_accepts_a_mac(fake: FakePowermetrics) -> None:
    fake.sample(0.1, NOTHING)
    assert probe(platform="darwin") is None
    assert fake.told() == ["-f", "plist", "-b", "1", "-i", "100", "-s", "cpu_power,gpu_power"]


def test_probe_elsewhere_needs_macos() -> None:
    assert probe(platform="linux") == ("it needs macOS on a Mac with an Apple chip, this is linux")


def test_without_powermetrics_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "it comes with macOS" in str(probe(platform="darwin"))


def test_who_is_not_root_uses_sudo_and_is_never_asked_for_a_password(
    fake: FakePowermetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command_line(0.1, root=False) == ["sudo", "-n", *command_line(0.1, root=True)]
    monkeypatch.setattr(os, "geteuid", lambda: 501)
    fake.sample(0.1, NOTHING)
    with closing(AppleMeter()):
        assert fake.told("sudo") == ["-n"]
