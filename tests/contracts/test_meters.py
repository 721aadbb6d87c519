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
from joulewise.meter.cpu_time import CpuTimeMeter
from joulewise.meter.rapl import RaplMeter
from joulewise.meter.table import METERS
from joulewise.testing.meter_contract import MeterContract, Spend
from joulewise.testing.powercap import FakePowercap


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


SUITES: dict[str, type[MeterContract]] = {"rapl": TestRapl, "cpu-time": TestCpuTime}


@pytest.mark.parametrize("name", list(METERS))
def test_every_meter_has_a_suite(name: str) -> None:
    assert name in SUITES
