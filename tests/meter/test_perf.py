from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from joulewise.core.errors import SensorError
from joulewise.meter.perf import (
    ROOT,
    Event,
    RaplPerfMeter,
    find_events,
    open_event,
    perf_event_open,
    probe,
)
from joulewise.meter.rapl import PLAUSIBLE_W, rapl_sensor
from joulewise.meter.sysfs import read_number
from joulewise.testing.perf import FakePerf
from tests.clock import Clock

PACKAGE, DRAM = ("energy-pkg", 0), ("energy-ram", 0)
ALL = ("energy-cores", "energy-pkg", "energy-ram", "energy-gpu", "energy-psys")


@pytest.fixture
def tree(tmp_path: Path) -> FakePerf:
    return FakePerf(tmp_path, events=ALL)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def meter(tree: FakePerf, clock: Clock) -> Iterator[RaplPerfMeter]:
    with closing(RaplPerfMeter(tree.root, opener=tree.open, clock=clock)) as meter:
        yield meter


def rails(root: Path, vendor: str | None = None) -> dict[str, int]:
    """Return rail -> CPU that its counter is opened on."""
    return {event.rail: event.cpu for event in find_events(root, vendor)}


# ---------------------------------------------------------------- what is in the total


def test_total_is_package_and_dram_only(tree: FakePerf, meter: RaplPerfMeter) -> None:
    tree.advance({(event, 0): 8.0 for event in ALL} | {DRAM: 3.0})
    reading = meter.read()
    assert reading.rails_j == pytest.approx({"package-0": 8.0, "dram-0": 3.0})
    assert reading.total_j == pytest.approx(11.0)


def test_single_cores_have_a_pmu_of_their_own_that_is_not_read(tree: FakePerf) -> None:
    cores = tree.root / "bus/event_source/devices/power_core/events"
    cores.mkdir(parents=True)
    (cores / "energy-core").write_text("event=0x01\n")
    assert set(rails(tree.root)) == {"package-0", "dram-0"}


def test_every_socket_counts_on_a_cpu_of_its_own(tmp_path: Path) -> None:
    FakePerf(tmp_path, {0: 0, 18: 1})
    assert rails(tmp_path) == {"package-0": 0, "dram-0": 0, "package-1": 18, "dram-1": 18}


def test_dies_of_intel_have_counters_of_their_own(tmp_path: Path) -> None:
    FakePerf(tmp_path, {0: 0, 24: 0}, ("energy-pkg",))
    assert rails(tmp_path, "GenuineIntel") == {"package-0-die-0": 0, "package-0-die-1": 24}


def test_dies_of_amd_show_their_packages_counter_which_counts_once(tmp_path: Path) -> None:
    FakePerf(tmp_path, {0: 0, 8: 0, 16: 1, 24: 1}, ("energy-pkg",))
    assert rails(tmp_path, "AuthenticAMD") == {"package-0": 0, "package-1": 16}


@pytest.mark.parametrize(("mask", "cpus"), [("0", {0}), ("0,2", {0, 2}), ("0-2", {0, 1, 2})])
def test_mask_of_cpus(tmp_path: Path, mask: str, cpus: set[int]) -> None:
    tree = FakePerf(tmp_path, {0: 0, 1: 1, 2: 2}, ("energy-pkg",))
    (tree.pmu / "cpumask").write_text(f"{mask}\n")
    assert set(rails(tmp_path).values()) == cpus


def test_figures_are_those_of_the_same_counters_through_powercap(meter: RaplPerfMeter) -> None:
    other = rapl_sensor("rapl", meter.sensor.rails)
    for name in ("grade", "boundary", "rails", "resolution_j", "update_period_s", "pair_ratio"):
        assert getattr(meter.sensor, name) == getattr(other, name)
    assert (meter.sensor.low_ratio, meter.sensor.high_ratio) == (other.low_ratio, other.high_ratio)
    assert meter.sensor.name == "rapl-perf"


# ---------------------------------------------------------------- counters


def test_wrap_of_the_hardware_goes_on(tree: FakePerf, clock: Clock) -> None:
    tree.show(*PACKAGE, 2**32 - 2**14)
    with closing(RaplPerfMeter(tree.root, opener=tree.open, clock=clock)) as meter:
        tree.show(*PACKAGE, 2**14)
        assert meter.read().rails_j["package-0"] == pytest.approx(2.0)


def test_counter_of_more_than_32_bits(tree: FakePerf, meter: RaplPerfMeter, clock: Clock) -> None:
    for _ in range(5):
        tree.advance({PACKAGE: 100_000.0})
        clock.now_s += 100_000.0 / 250
        total_j = meter.read().total_j
    assert total_j == pytest.approx(500_000.0)


def test_reset_stays_an_error(tree: FakePerf, meter: RaplPerfMeter, clock: Clock) -> None:
    tree.advance({PACKAGE: 100.0})
    clock.now_s += 1.0
    meter.read()
    tree.show(*PACKAGE, 0)
    for _ in range(2):
        with pytest.raises(SensorError, match=r"package-0 fell from .*measure again"):
            meter.read()
        tree.advance({PACKAGE: 300.0})
        clock.now_s += 1e6


def test_jump_that_no_cpu_draws_is_an_error(
    tree: FakePerf, meter: RaplPerfMeter, clock: Clock
) -> None:
    clock.now_s += 1.0
    tree.advance({PACKAGE: 2.0 * PLAUSIBLE_W})
    with pytest.raises(SensorError, match=r"rose by 4000\.000 J, which nothing draws"):
        meter.read()


def test_cpu_that_went_offline_is_an_error(tree: FakePerf, meter: RaplPerfMeter) -> None:
    tree.unplug(*DRAM)
    with pytest.raises(SensorError, match=r"dram-0 gives no value .*CPU 0 taken offline"):
        meter.read()


def test_closed_meter_says_so(meter: RaplPerfMeter) -> None:
    meter.close()
    with pytest.raises(SensorError, match="cannot read the counter package-0"):
        meter.read()


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_close_closes_all_counters(tree: FakePerf) -> None:
    descriptors: list[int] = []

    def opener(event: Event) -> int:
        descriptors.append(tree.open(event))
        return descriptors[-1]

    meter = RaplPerfMeter(tree.root, opener=opener)
    assert [is_open(descriptor) for descriptor in descriptors] == [True, True]
    meter.close()
    assert [is_open(descriptor) for descriptor in descriptors] == [False, False]


# ---------------------------------------------------------------- what users can mend


def test_permission_has_its_fix_in_one_line(tree: FakePerf) -> None:
    for tree.forbidden in (errno.EACCES, errno.EPERM):
        with pytest.raises(SensorError) as caught:
            RaplPerfMeter(tree.root, opener=tree.open)
        assert "sudo sysctl kernel.perf_event_paranoid=0" in str(caught.value)
        assert "sudo setcap cap_perfmon=ep /" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_counters_opened_before_a_refusal_are_closed(tmp_path: Path) -> None:
    tree = FakePerf(tmp_path, {0: 0, 18: 1})
    descriptors: list[int] = []

    def opener(event: Event) -> int:
        if event.cpu:
            raise OSError(errno.ENODEV, "No such device")
        descriptors.append(tree.open(event))
        return descriptors[-1]

    assert "does not open the counter package-1" in str(probe(tmp_path, opener=opener))
    assert [is_open(descriptor) for descriptor in descriptors] == [False, False]


def test_probe_accepts_a_tree_that_opens(tree: FakePerf) -> None:
    assert probe(tree.root, opener=tree.open) is None


@pytest.mark.parametrize("events", [(), ("energy-psys", "energy-cores")])
def test_probe_says_why_there_is_none(tmp_path: Path, events: tuple[str, ...]) -> None:
    FakePerf(tmp_path, events=events)
    assert "no RAPL events" in str(probe(tmp_path))
    assert "no RAPL events" in str(probe(tmp_path / "absent"))


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("cpumask", "none", "cannot read the list of CPUs 'none'"),
        ("type", "", "not a number"),
        ("events/energy-pkg", "umask=?", "not an event"),
        ("events/energy-pkg.scale", "x", "not joules"),
        ("events/energy-ram.unit", "Watts", "not joules"),
    ],
)
def test_sys_files_that_make_no_sense_are_errors(
    tree: FakePerf, file: str, text: str, reason: str
) -> None:
    (tree.pmu / file).write_text(text)
    assert reason in str(probe(tree.root, opener=tree.open))


def test_machine_without_a_known_system_call_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("joulewise.meter.perf.SYSCALL", {})
    with pytest.raises(SensorError, match="perf events need Linux"):
        perf_event_open(1, 0)


# ---------------------------------------------------------------- the real system call

SOFTWARE, TASK_CLOCK_NS = 1, 1
"""PERF_TYPE_SOFTWARE and PERF_COUNT_SW_TASK_CLOCK of linux/include/uapi/linux/perf_event.h."""


def opened(kind: int, config: int, **where: int) -> int:
    """Open a real event, or skip with the kernel's reason."""
    if not sys.platform.startswith("linux"):
        pytest.skip("perf events need Linux")
    try:
        return perf_event_open(kind, config, **where)
    except OSError as error:
        pytest.skip(f"this kernel does not open perf events for us: {error.strerror}")


def count(descriptor: int) -> int:
    return int.from_bytes(os.read(descriptor, 8), sys.byteorder)


def test_kernel_understands_the_attributes() -> None:
    """The task clock counts our own nanoseconds: an independent clock has as many."""
    descriptor = opened(SOFTWARE, TASK_CLOCK_NS, pid=0)
    try:
        first_s, first = time.thread_time(), count(descriptor)
        while time.thread_time() - first_s < 0.02:
            pass
        last, last_s = count(descriptor), time.thread_time()
    finally:
        os.close(descriptor)
    inner_s = (last - first) * 1e-9
    assert 0.02 * 0.9 <= inner_s <= (last_s - first_s) * 1.01


def test_kernel_refuses_an_event_that_is_none() -> None:
    os.close(opened(SOFTWARE, TASK_CLOCK_NS, pid=0))
    with pytest.raises(OSError, match=r"No such file|not supported|Invalid"):
        perf_event_open(SOFTWARE, 10**6, pid=0)


def test_counter_of_the_whole_machine_from_its_sys_files() -> None:
    """The PMU ``msr`` has files like RAPL's and counts cycles of the time stamp counter."""
    pmu = ROOT / "bus/event_source/devices/msr"
    if not (pmu / "events/tsc").exists():
        pytest.skip("this machine has no PMU msr")
    config = int((pmu / "events/tsc").read_text().strip().removeprefix("event="), 0)
    event = Event(rail="tsc", kind=read_number(pmu / "type"), config=config, cpu=0, step_j=1.0)
    os.close(opened(event.kind, event.config, cpu=0))
    descriptor = open_event(event)
    try:
        first = count(descriptor)
        assert count(descriptor) > first > 0
    finally:
        os.close(descriptor)
