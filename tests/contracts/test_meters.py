"""Every registered meter against the contract of meters."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from joulewise.core.energy import Meter
from joulewise.core.host import read_host
from joulewise.meter import plug, prometheus, redfish
from joulewise.meter.apple import AppleMeter
from joulewise.meter.battery import BatteryMeter
from joulewise.meter.cgroup import CgroupMeter
from joulewise.meter.cpu_time import CpuTimeMeter
from joulewise.meter.hwmon import HwmonMeter
from joulewise.meter.ipmi import IpmiKind
from joulewise.meter.jetson import JetsonMeter
from joulewise.meter.nvml import NvmlMeter
from joulewise.meter.perf import RaplPerfMeter
from joulewise.meter.rapl import RaplMeter
from joulewise.meter.recording import RecordingMeter
from joulewise.meter.table import METERS
from joulewise.testing.meter_contract import MeterContract, Spend
from joulewise.testing.perf import FakePerf
from joulewise.testing.powercap import FakePowercap
from tests.clock import FAR_S, Clock
from tests.ipmi import printed, put_on_path
from tests.nvml import Card, NvmlStub
from tests.powermetrics import FakePowermetrics
from tests.server import Instrument
from tests.sysfs import write


class TestRapl(MeterContract):
    """The real meter on a counter that the test moves."""

    @pytest.fixture
    def tree(self, tmp_path: Path) -> FakePowercap:
        tree = FakePowercap(tmp_path)
        tree.add_zone("intel-rapl:0", "package-0")
        tree.add_zone("intel-rapl:0:0", "dram")
        return tree

    @pytest.fixture
    def meter(self, tree: FakePowercap) -> Iterator[Meter]:
        meter = RaplMeter(tree.root)
        yield meter
        meter.close()

    @pytest.fixture
    def spend(self, tree: FakePowercap) -> Spend:
        return lambda: tree.advance({"intel-rapl:0": 2.0, "intel-rapl:0:0": 0.5})


class TestRaplPerf(MeterContract):
    """The real meter on counters that the test moves."""

    @pytest.fixture
    def tree(self, tmp_path: Path) -> FakePerf:
        return FakePerf(tmp_path)

    @pytest.fixture
    def meter(self, tree: FakePerf) -> Iterator[Meter]:
        meter = RaplPerfMeter(tree.root, opener=tree.open)
        yield meter
        meter.close()

    @pytest.fixture
    def spend(self, tree: FakePerf) -> Spend:
        return lambda: tree.advance({("energy-pkg", 0): 2.0, ("energy-ram", 0): 0.5})


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="CPU times need Linux")
class TestCpuTime(MeterContract):
    @pytest.fixture
    def meter(self) -> Iterator[Meter]:
        meter = CpuTimeMeter.attach([os.getpid()], read_host())
        yield meter
        meter.close()

    @pytest.fixture
    def spend(self) -> Spend:
        def burn() -> None:
            end_s = time.process_time() + 0.01
            while time.process_time() < end_s:
                pass

        return burn


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the stub is built for Linux")
class TestNvml(MeterContract):
    """The real binding on a library of our own."""

    @pytest.fixture
    def stub(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NvmlStub:
        stub = NvmlStub(tmp_path)
        stub.install(monkeypatch)
        stub.set(Card(energy_mj=0), Card(energy_mj=0))
        return stub

    @pytest.fixture
    def meter(self, stub: NvmlStub) -> Iterator[Meter]:
        assert stub.library.exists()
        meter = NvmlMeter()
        yield meter
        meter.close()

    @pytest.fixture
    def spend(self, stub: NvmlStub) -> Spend:
        spent = iter(range(1000, 100_000, 1000))

        def spend() -> None:
            mj = next(spent)
            stub.set(Card(energy_mj=mj), Card(energy_mj=mj // 2))

        return spend


class TestHwmon(MeterContract):
    @pytest.fixture
    def meter(self, tmp_path: Path) -> Iterator[Meter]:
        write(tmp_path / "hwmon0", name="i915", energy1_input=0)
        meter = HwmonMeter(tmp_path, period_s=FAR_S)
        yield meter
        meter.close()

    @pytest.fixture
    def spend(self, tmp_path: Path) -> Spend:
        spent = iter(range(10**6, 10**9, 10**6))

        def spend() -> None:
            write(tmp_path / "hwmon0", energy1_input=next(spent))

        return spend


class TestJetson(MeterContract):
    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def meter(self, tmp_path: Path, clock: Clock) -> Iterator[Meter]:
        rail: dict[str, str | int] = {"in1_label": "VDD_IN", "in1_input": 5000, "curr1_input": 1000}
        write(tmp_path / "hwmon0", name="ina3221", **rail)
        meter = JetsonMeter(tmp_path, period_s=FAR_S, clock=clock)
        yield meter
        meter.close()

    @pytest.fixture
    def spend(self, clock: Clock) -> Spend:
        def spend() -> None:
            clock.now_s += 1.0

        return spend


@pytest.mark.skipif(os.name != "posix", reason="the fake is a shell script")
class TestApple(MeterContract):
    """The real meter on an executable of our own."""

    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def fake(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePowermetrics:
        fake = FakePowermetrics(tmp_path, monkeypatch)
        fake.sample(0.1, {"cpu": 0.0, "gpu": 0.0, "ane": 0.0})
        return fake

    @pytest.fixture
    def meter(self, fake: FakePowermetrics, clock: Clock) -> Iterator[Meter]:
        assert fake.folder.exists()
        meter = AppleMeter(clock=clock)
        yield meter
        meter.close()

    @pytest.fixture
    def spend(self, fake: FakePowermetrics, clock: Clock) -> Spend:
        def spend() -> None:
            clock.now_s += 1.0
            fake.sample(1.0, {"cpu": 3.0, "gpu": 1.0, "ane": 0.0})

        return spend


class TestBattery(MeterContract):
    @pytest.fixture
    def meter(self, tmp_path: Path) -> Iterator[Meter]:
        write(tmp_path / "BAT0", status="Discharging", energy_now=50_000_000)
        meter = BatteryMeter(tmp_path, period_s=FAR_S)
        yield meter
        meter.close()

    @pytest.fixture
    def spend(self, tmp_path: Path) -> Spend:
        left = iter(range(49_990_000, 0, -10_000))

        def spend() -> None:
            write(tmp_path / "BAT0", energy_now=next(left))

        return spend


class TestRecording(MeterContract):
    """A finished log, replayed."""

    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def meter(self, tmp_path: Path, clock: Clock) -> Iterator[Meter]:
        log = tmp_path / "plug.csv"
        log.write_text("time_s,power_w\n" + "".join(f"{t},40\n" for t in range(100)))
        meter = RecordingMeter(log, now=clock)
        yield meter
        meter.close()

    @pytest.fixture
    def spend(self, clock: Clock) -> Spend:
        def spend() -> None:
            clock.now_s += 1.5

        return spend


class TestPlug(MeterContract):
    """A plug that counts, on a local server."""

    @pytest.fixture
    def server(self) -> Iterator[Instrument]:
        with Instrument() as server:
            server.pages["/e"] = {"wh": "100.000"}
            yield server

    @pytest.fixture
    def meter(self, server: Instrument) -> Iterator[Meter]:
        kind = plug.named(f"{server.url}/e?path=wh&unit=Wh&update_s=1")
        meter = kind.attach([], read_host())
        yield meter
        meter.close()

    @pytest.fixture
    def spend(self, server: Instrument) -> Spend:
        counted = iter(range(101, 200))

        def spend() -> None:
            server.pages["/e"] = {"wh": f"{next(counted)}.000"}

        return spend


class TestRedfish(MeterContract):
    """A BMC with a power only; time passes between readings."""

    PAGE = "/redfish/v1/Chassis/1/Power"

    @pytest.fixture
    def meter(self) -> Iterator[Meter]:
        with Instrument() as server:
            server.pages[self.PAGE] = {"PowerControl": [{"PowerConsumedWatts": 250}]}
            meter = redfish.named(f"{server.url}{self.PAGE}?update_s=1").attach([], read_host())
            yield meter
            meter.close()

    @pytest.fixture
    def spend(self) -> Spend:
        return lambda: None  # a reply takes time, in which 250 W flow


class TestIpmi(MeterContract):
    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def meter(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
    ) -> Iterator[Meter]:
        put_on_path(tmp_path, monkeypatch, printed(240, "00000001 Seconds."))
        meter = IpmiKind(clock=clock, sleep=clock.sleep).attach([], read_host())
        yield meter
        meter.close()

    @pytest.fixture
    def spend(self, clock: Clock) -> Spend:
        return lambda: clock.sleep(1.5)


class TestPrometheus(MeterContract):
    """An exporter's page with two rails."""

    @pytest.fixture
    def server(self) -> Iterator[Instrument]:
        with Instrument() as server:
            server.pages["/metrics"] = 'a_joules_total{n="1"} 5\na_joules_total{n="2"} 7\n'
            yield server

    @pytest.fixture
    def meter(self, server: Instrument) -> Iterator[Meter]:
        kind = prometheus.named(f"{server.url}/metrics?metric=a_joules_total&update_s=1")
        meter = kind.attach([], read_host())
        yield meter
        meter.close()

    @pytest.fixture
    def spend(self, server: Instrument) -> Spend:
        counted = iter(range(6, 100))

        def spend() -> None:
            page = f'a_joules_total{{n="1"}} {next(counted)}\na_joules_total{{n="2"}} 7\n'
            server.pages["/metrics"] = page

        return spend


class TestCgroup(MeterContract):
    @pytest.fixture
    def meter(self, tmp_path: Path) -> Iterator[Meter]:
        write(tmp_path, **{"cpuacct.usage": 0})
        meter = CgroupMeter(tmp_path, host=read_host())
        yield meter
        meter.close()

    @pytest.fixture
    def spend(self, tmp_path: Path) -> Spend:
        spent = iter(range(10**9, 10**12, 10**9))

        def spend() -> None:
            write(tmp_path, **{"cpuacct.usage": next(spent)})

        return spend


SUITES: dict[str, type[MeterContract]] = {
    "rapl": TestRapl,
    "rapl-perf": TestRaplPerf,
    "nvml": TestNvml,
    "hwmon": TestHwmon,
    "jetson": TestJetson,
    "apple": TestApple,
    "battery": TestBattery,
    "recording": TestRecording,
    "plug": TestPlug,
    "redfish": TestRedfish,
    "ipmi": TestIpmi,
    "prometheus": TestPrometheus,
    "cpu-time": TestCpuTime,
    "cgroup": TestCgroup,
}


@pytest.mark.parametrize("name", list(METERS))
def test_every_meter_has_a_suite(name: str) -> None:
    assert name in SUITES
