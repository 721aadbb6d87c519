from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from joulewise.core.energy import Interval
from joulewise.core.host import Host
from joulewise.measure.power_table import (
    POWER_TABLE,
    UNKNOWN_CPU,
    ServerResult,
    idle_w_per_cpu,
    net_w_per_cpu,
    power_of,
)

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_power_table.py"

HOST = Host(
    cpu="AMD EPYC 7763",
    vendor="AuthenticAMD",
    family=25,
    model=1,
    logical_cpus=2,
    instruction_sets=(),
    memory_bytes=None,
    hypervisor=True,
    system="Linux",
    architecture="x86_64",
)

SAMPLE = tuple(
    ServerResult(threads=threads, full_w=full_w, idle_w=idle_w)
    for threads, full_w, idle_w in [(10, 110, 10), (20, 250, 50), (10, 220, 20), (5, 60, 10)]
)


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_power_table", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_net_watts_follow_the_formula() -> None:
    # (110-10)/10, (250-50)/20, (220-20)/10, (60-10)/5 = 10, 10, 20, 10; linear percentiles
    band = net_w_per_cpu(SAMPLE)
    assert (band.low, band.central, band.high) == pytest.approx((10.0, 10.0, 18.5))


def test_idle_watts_follow_the_formula() -> None:
    # 1, 2.5, 2, 2 sorted 1, 2, 2, 2.5: positions 0.15, 1.5 and 2.85
    band = idle_w_per_cpu(SAMPLE)
    assert (band.low, band.central, band.high) == pytest.approx((1.15, 2.0, 2.425))


@pytest.mark.parametrize("row", [*POWER_TABLE, UNKNOWN_CPU], ids=lambda row: row.name)
def test_every_row_has_source_servers_and_ordered_bands(row: object) -> None:
    assert getattr(row, "source", "").strip()
    assert getattr(row, "servers", 0) >= 5


def test_row_without_source_is_refused() -> None:
    with pytest.raises(ValueError, match="no source"):
        replace(POWER_TABLE[0], source=" ")


def test_row_with_band_out_of_order_is_refused() -> None:
    with pytest.raises(ValueError, match="out of order"):
        replace(POWER_TABLE[0], net_w=Interval(low=2.0, central=1.0, high=3.0))


def test_no_cpuid_is_in_two_rows() -> None:
    cpuids = [(row.vendor, cpuid) for row in POWER_TABLE for cpuid in row.cpuids]
    assert len(cpuids) == len(set(cpuids))


@pytest.mark.parametrize(
    ("vendor", "family", "model", "name"),
    [
        ("AuthenticAMD", 23, 1, "Zen 1 EPYC"),
        ("AuthenticAMD", 23, 49, "Zen 2 EPYC"),
        ("AuthenticAMD", 25, 1, "Zen 3 EPYC"),
        ("GenuineIntel", 6, 85, "Skylake-SP, Cascade Lake and Cooper Lake"),
        ("GenuineIntel", 6, 106, "Ice Lake-SP"),
        ("GenuineIntel", 23, 1, "unknown CPU"),
        ("AuthenticAMD", 25, 17, "unknown CPU"),
        (None, None, None, "unknown CPU"),
    ],
)
def test_host_is_matched_by_cpuid(
    vendor: str | None, family: int | None, model: int | None, name: str
) -> None:
    assert power_of(replace(HOST, vendor=vendor, family=family, model=model)).name == name


def test_unknown_cpu_gets_the_hull_of_all_bands() -> None:
    nets = [row.net_w for row in POWER_TABLE]
    assert UNKNOWN_CPU.net_w.low == min(band.low for band in nets)
    assert UNKNOWN_CPU.net_w.high == max(band.high for band in nets)
    geometric = np.prod([band.central for band in nets]) ** (1 / len(nets))
    assert UNKNOWN_CPU.net_w.central == pytest.approx(geometric)


def test_script_groups_both_layouts_and_counts_a_result_once(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "MIN_SERVERS", 2)
    carbon, energy = tmp_path / "carbon.csv", tmp_path / "energy.csv"
    carbon.write_text(
        "Nodes,CPU Description,Total Threads,avg. watts @ 100%,avg. watts @ active idle\n"
        "1,EPYC 7763,256,500,100\n1,EPYC 7763,128,260,\n2,EPYC 7713,128,300,60\n"
        "1,Intel Xeon E3-1265L V2,8,60,20\n"
    )
    energy.write_text(
        "Test_Method|HW_CPUName|HW_HardwareThreads|100_AvgPower|ActiveIdle\n"
        "Single Node|AMD EPYC 7763 2.45 GHz|256 (2 / core)|500|100\n"
        "Single Node|AMD EPYC 7773X|256 (2 / core)|600|90\n"
    )
    assert script.grouped([carbon, energy]) == {
        "Zen 3 EPYC": [
            ServerResult(threads=256, full_w=500, idle_w=100),
            ServerResult(threads=256, full_w=600, idle_w=90),
        ]
    }


@pytest.mark.parametrize(
    ("cpu", "name"),
    [
        ("Intel Xeon E5-2660", "Sandy Bridge-EP"),
        ("Intel Xeon E5-2660V2", "Ivy Bridge-EP"),
        ("Intel Xeon E5-4669 v3 2.10 GHz", "Haswell-EP"),
        ("Intel Xeon E3-1265LV2", "Ivy Bridge client"),
        ("Intel Xeon E3-1240L v5", "Skylake client"),
        ("Intel Xeon E3-1260L", "Sandy Bridge client"),
        ("Intel Xeon Platinum 8380HL 2.9GHz", "Skylake-SP, Cascade Lake and Cooper Lake"),
        ("Intel Xeon Platinum 8380", "Ice Lake-SP"),
        ("AMD EPYC 7702P 2.00 GHz", "Zen 2 EPYC"),
        ("Intel Xeon E5540", None),
    ],
)
def test_script_reads_product_names(script: ModuleType, cpu: str, name: str | None) -> None:
    assert script.architecture(cpu) == name
