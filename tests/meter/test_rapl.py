from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulewise.core.energy import Meter
from joulewise.core.errors import SensorError
from joulewise.meter.rapl import PLAUSIBLE_W, RaplMeter, find_zones, probe
from joulewise.testing.meter_contract import MeterContract, Spend
from joulewise.testing.powercap import FakePowercap

PACKAGE, CORE, DRAM = "intel-rapl:0", "intel-rapl:0:0", "intel-rapl:0:1"


class FakeClock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def tree(tmp_path: Path) -> FakePowercap:
    """One package with core and DRAM."""
    tree = FakePowercap(tmp_path)
    tree.add_zone(PACKAGE, "package-0")
    tree.add_zone(CORE, "core")
    tree.add_zone(DRAM, "dram")
    return tree


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def meter(tree: FakePowercap, clock: FakeClock) -> Iterator[RaplMeter]:
    meter = RaplMeter(tree.root, clock=clock)
    yield meter
    meter.close()


class TestRaplMeter(MeterContract):
    @pytest.fixture
    def meter(self, tree: FakePowercap) -> Iterator[Meter]:
        meter = RaplMeter(tree.root)
        yield meter
        meter.close()

    @pytest.fixture
    def spend(self, tree: FakePowercap) -> Spend:
        return lambda: tree.advance({PACKAGE: 2.0, DRAM: 0.5})


def rails(root: Path) -> tuple[str, ...]:
    return tuple(zone.rail for zone in find_zones(root))


def test_total_is_package_and_dram_without_core(tree: FakePowercap, meter: RaplMeter) -> None:
    tree.advance({PACKAGE: 10.0, CORE: 8.0, DRAM: 3.0})
    reading = meter.read()
    assert reading.rails_j == pytest.approx({"package-0": 10.0, "dram-0": 3.0})
    assert reading.total_j == pytest.approx(13.0)


def test_psys_uncore_and_mmio_are_left_out(tree: FakePowercap) -> None:
    tree.add_zone("intel-rapl:0:2", "uncore")
    tree.add_zone("intel-rapl:1", "psys")
    tree.add_zone("intel-rapl-mmio:0", "package-0")
    assert rails(tree.root) == ("package-0", "dram-0")


def test_every_socket_counts(tree: FakePowercap) -> None:
    tree.add_zone("intel-rapl:1", "package-1")
    tree.add_zone("intel-rapl:1:0", "dram")
    assert rails(tree.root) == ("package-0", "dram-0", "package-1", "dram-1")


def test_zones_of_one_name_count_once(tree: FakePowercap) -> None:
    tree.add_zone("intel-rapl:1", "package-0", start_uj=77)
    assert rails(tree.root) == ("package-0", "dram-0")


def test_mirrored_dies_count_once(tmp_path: Path) -> None:
    tree = FakePowercap(tmp_path)
    tree.add_zone("intel-rapl:0", "package-0-die-0", start_uj=123_456)
    tree.add_zone("intel-rapl:1", "package-0-die-1", start_uj=123_456)
    assert rails(tmp_path) == ("package-0-die-0",)


def test_dies_with_counters_of_their_own_all_count(tmp_path: Path) -> None:
    tree = FakePowercap(tmp_path)
    tree.add_zone("intel-rapl:0", "package-0-die-0", start_uj=5)
    tree.add_zone("intel-rapl:1", "package-0-die-1", start_uj=6)
    tree.add_zone("intel-rapl:2", "package-1-die-0", start_uj=6)
    assert rails(tmp_path) == ("package-0-die-0", "package-0-die-1", "package-1-die-0")


@settings(deadline=None)
@given(
    start_uj=st.integers(0, 99_999_999),
    windows=st.lists(st.tuples(st.floats(0, 99.0), st.floats(0, 99.0)), min_size=1, max_size=12),
)
def test_windows_add_up_to_the_whole_under_wraps(
    tmp_path_factory: pytest.TempPathFactory,
    start_uj: int,
    windows: list[tuple[float, float]],
) -> None:
    tree = FakePowercap(tmp_path_factory.mktemp("powercap"))
    tree.add_zone(PACKAGE, "package-0", start_uj=start_uj, range_uj=100_000_000)
    tree.add_zone(DRAM, "dram", start_uj=start_uj, range_uj=100_000_000)
    tree.add_zone(CORE, "core", start_uj=start_uj, range_uj=100_000_000)
    clock = FakeClock()
    meter = RaplMeter(tree.root, clock=clock)
    try:
        readings = [meter.read()]
        for package_j, dram_j in windows:
            tree.advance({PACKAGE: package_j, DRAM: dram_j, CORE: package_j / 2})
            clock.now_s += 1.0
            readings.append(meter.read())
    finally:
        meter.close()
    deltas_j = [b.total_j - a.total_j for a, b in pairwise(readings)]
    assert min(deltas_j) >= 0
    assert sum(deltas_j) == pytest.approx(sum(map(sum, windows)), abs=1e-5 * len(windows))


def test_reset_is_an_error(tree: FakePowercap, meter: RaplMeter, clock: FakeClock) -> None:
    tree.advance({PACKAGE: 1000.0})
    clock.now_s += 10.0
    meter.read()
    tree.set_uj(PACKAGE, 0)
    clock.now_s += 1.0
    with pytest.raises(SensorError, match=r"package-0 fell from .* no wrap.*measure again"):
        meter.read()


def test_failed_reading_does_not_count(
    tree: FakePowercap, meter: RaplMeter, clock: FakeClock
) -> None:
    tree.advance({PACKAGE: 5.0, DRAM: 5.0})
    clock.now_s += 1.0
    meter.read()
    tree.advance({PACKAGE: 7.0})
    (tree.folder(DRAM) / "energy_uj").unlink()
    with pytest.raises(SensorError):
        meter.read()
    tree.set_uj(DRAM, 5_000_000)
    assert meter.read().total_j == pytest.approx(17.0)


def test_jump_that_no_cpu_draws_is_an_error(
    tree: FakePowercap, meter: RaplMeter, clock: FakeClock
) -> None:
    clock.now_s += 1.0
    tree.advance({PACKAGE: 2.0 * PLAUSIBLE_W})
    with pytest.raises(SensorError, match=r"rose from 0 to .* no CPU draws.*measure again"):
        meter.read()


def test_reader_that_stood_still_for_a_minute_is_no_jump(
    tree: FakePowercap, clock: FakeClock
) -> None:
    def read(path: Path) -> str:
        if clock.now_s > 0 and path == tree.root / PACKAGE / "energy_uj":
            clock.now_s += 60.0
            tree.advance({PACKAGE: 60.0 * 200.0})
        return path.read_text()

    meter = RaplMeter(tree.root, read=read, clock=clock)
    clock.now_s = 1.0
    assert meter.read().total_j == pytest.approx(12_000.0)
    meter.close()


def test_reset_stays_an_error(tree: FakePowercap, meter: RaplMeter, clock: FakeClock) -> None:
    tree.advance({PACKAGE: 100.0})
    meter.read()
    tree.set_uj(PACKAGE, 0)
    with pytest.raises(SensorError, match="fell from"):
        meter.read()
    tree.advance({PACKAGE: 101.0})
    clock.now_s += 1e6
    with pytest.raises(SensorError, match="fell from"):
        meter.read()


def test_value_beyond_its_range_is_an_error(tree: FakePowercap, clock: FakeClock) -> None:
    tree.set_uj(PACKAGE, 10**15)
    meter = RaplMeter(tree.root, clock=clock)
    tree.set_uj(PACKAGE, 1)
    clock.now_s = 1e9
    with pytest.raises(SensorError, match="no wrap"):
        meter.read()
    meter.close()


def refusing(error: OSError, name: str = "energy_uj") -> Callable[[Path], str]:
    def read(path: Path) -> str:
        if path.name == name:
            raise error
        return path.read_text()

    return read


def test_permission_error_has_its_fix(tree: FakePowercap) -> None:
    with pytest.raises(SensorError, match=r"sudo chmod a\+r .*every reboot.*udev") as caught:
        RaplMeter(tree.root, read=refusing(PermissionError(13, "Permission denied")))
    assert "\n" not in str(caught.value)


def test_counter_that_vanishes_is_an_error(tree: FakePowercap, meter: RaplMeter) -> None:
    (tree.folder(PACKAGE) / "energy_uj").unlink()
    with pytest.raises(SensorError, match=r"cannot read .*No such file.*modprobe"):
        meter.read()


def test_counter_that_is_no_number_is_an_error(tree: FakePowercap, meter: RaplMeter) -> None:
    (tree.folder(DRAM) / "energy_uj").write_text("\n")
    with pytest.raises(SensorError, match="not a number"):
        meter.read()


def test_probe_accepts_a_readable_tree(tree: FakePowercap) -> None:
    assert probe(tree.root) is None


def test_probe_says_why_there_is_none(tmp_path: Path) -> None:
    FakePowercap(tmp_path).add_zone("intel-rapl:0", "psys")
    assert "no RAPL package counter" in str(probe(tmp_path))
    assert "no RAPL package counter" in str(probe(tmp_path / "absent"))


def test_probe_says_why_a_counter_is_unreadable(tree: FakePowercap) -> None:
    path = tree.folder(PACKAGE) / "energy_uj"
    path.unlink()
    path.mkdir()
    assert "cannot read" in str(probe(tree.root))


def test_no_wrap_is_missed_however_long_the_caller_waits(tmp_path: Path) -> None:
    tree = FakePowercap(tmp_path)
    range_uj = int(PLAUSIBLE_W * 0.02 * 1e6)  # may wrap every 20 ms: read every 10 ms
    tree.add_zone(PACKAGE, "package-0", range_uj=range_uj)
    meter = RaplMeter(tmp_path)
    for _ in range(3):
        tree.advance({PACKAGE: range_uj * 0.6e-6})
        wait_for_own_thread(meter)
    total_j = meter.read().total_j
    meter.close()
    assert total_j == pytest.approx(3 * range_uj * 0.6e-6)


def test_no_wrap_is_missed_after_a_counter_was_away(tmp_path: Path) -> None:
    tree = FakePowercap(tmp_path)
    range_uj = int(PLAUSIBLE_W * 0.02 * 1e6)
    tree.add_zone(PACKAGE, "package-0", range_uj=range_uj)
    refused = threading.Event()
    away = threading.Event()

    def read(path: Path) -> str:
        if away.is_set() and path.name == "energy_uj":
            refused.set()
            raise PermissionError(13, "Permission denied")
        return path.read_text()

    meter = RaplMeter(tmp_path, read=read)
    away.set()
    assert refused.wait(10.0)  # the meter's own thread met the fault
    away.clear()
    for _ in range(3):
        tree.advance({PACKAGE: range_uj * 0.6e-6})
        wait_for_own_thread(meter)
    total_j = meter.read().total_j
    meter.close()
    assert total_j == pytest.approx(3 * range_uj * 0.6e-6)


def wait_for_own_thread(meter: RaplMeter, readings: int = 2) -> None:
    """Wait until the meter's own thread has read so many times more."""
    for _ in range(readings):
        before_s = meter._time_s
        while meter._time_s == before_s:
            time.sleep(0.001)
