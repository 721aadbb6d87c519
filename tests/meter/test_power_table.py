from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from joulewise.core.energy import Interval
from joulewise.core.host import Host
from joulewise.meter import power_table
from joulewise.meter.power_table import (
    LOADS_PERCENT,
    POWER_TABLE,
    UNKNOWN_CPU,
    PowerRow,
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

# Net watts per busy CPU from 100 % to 10 % load: 10 everywhere but at 50 % (8) and 10 % (20);
# 4 everywhere but at 10 % (2); 10 everywhere but at 100 % (30).
SAMPLE = (
    ServerResult(threads=10, idle_w=10, load_w=(110, 100, 90, 80, 70, 50, 50, 40, 30, 30)),
    ServerResult(
        threads=100, idle_w=250, load_w=(650, 610, 570, 530, 490, 450, 410, 370, 330, 270)
    ),
    ServerResult(threads=10, idle_w=20, load_w=(320, 110, 100, 90, 80, 70, 60, 50, 40, 30)),
)


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_power_table", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_servers_net_watts_are_those_above_idle_over_its_busy_cpus() -> None:
    assert SAMPLE[0].net_w_per_busy_cpu == pytest.approx((10, 10, 10, 10, 10, 8, 10, 10, 10, 20))


def test_net_watts_follow_the_formula() -> None:
    # lowest 8, 2, 10 sorted 2, 8, 10 at position 0.1; highest 20, 4, 30 sorted 4, 20, 30 at 1.9;
    # means of full and lightest load (10+20)/2, (4+2)/2, (30+10)/2 = 15, 3, 20
    band = net_w_per_cpu(SAMPLE)
    assert (band.low, band.central, band.high) == pytest.approx((2.6, 15.0, 29.0))


def test_idle_watts_follow_the_formula() -> None:
    # 1, 2.5, 2 sorted 1, 2, 2.5: positions 0.1, 1 and 1.9
    band = idle_w_per_cpu(SAMPLE)
    assert (band.low, band.central, band.high) == pytest.approx((1.1, 2.0, 2.45))


def test_result_that_lacks_a_load_is_refused() -> None:
    with pytest.raises(ValueError, match="9 loads"):
        ServerResult(threads=10, idle_w=10, load_w=(110,) * 9)


@pytest.mark.parametrize("row", [*POWER_TABLE, UNKNOWN_CPU], ids=lambda row: row.name)
def test_every_row_has_source_servers_and_ordered_bands(row: PowerRow) -> None:
    assert "spec.org/power_ssj2008" in row.source
    assert "differs:" in row.source
    assert row.servers >= 5
    for band in (row.idle_w, row.net_w):
        assert 0 < band.low <= band.central <= band.high


@pytest.mark.parametrize("row", POWER_TABLE, ids=lambda row: row.name)
def test_unknown_cpu_covers_every_row(row: PowerRow) -> None:
    assert UNKNOWN_CPU.net_w.low <= row.net_w.low <= row.net_w.high <= UNKNOWN_CPU.net_w.high
    assert UNKNOWN_CPU.idle_w.low <= row.idle_w.low <= row.idle_w.high <= UNKNOWN_CPU.idle_w.high


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


def spec_line(cpu: str, threads: str, idle: str, loads: Sequence[str], **other: str) -> str:
    columns = {"method": "Single Node", "publication": "May 2, 2022", **other}
    return "|".join([columns["method"], columns["publication"], cpu, threads, idle, *loads])


def test_script_counts_each_published_single_node_result_once(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "MIN_SERVERS", 2)
    table = tmp_path / "spec_data.csv"
    loads = [f"{percent}_AvgPower" for percent in LOADS_PERCENT]
    watts = ["1,100", *(str(100 + percent) for percent in LOADS_PERCENT[1:])]
    lines = [
        "|".join(
            ["Test_Method", "Publication", "HW_CPUName", "HW_HardwareThreads", "ActiveIdle", *loads]
        ),
        spec_line("AMD EPYC 7763 2.45 GHz", "256 (2 / core)", "100", watts),
        spec_line("AMD EPYC 7763", "256 (2 / core)", "100", watts),
        spec_line("AMD EPYC 7773X", "256 (2 / core)", "90", watts),
        spec_line("AMD EPYC 7713", "128 (2 / core)", "60", watts, method="Multi Node"),
        spec_line("AMD EPYC 7713", "128 (2 / core)", "60", watts, publication="Unpublished"),
        spec_line("AMD EPYC 7713", "128 (2 / core)", "60", [*watts[:-1], ""]),
        spec_line("Intel Xeon E3-1265L V2", "8 (2 / core)", "20", watts),
    ]
    table.write_text("\n".join(lines))
    load_w = (1100, 190, 180, 170, 160, 150, 140, 130, 120, 110)
    assert script.grouped(table) == {
        "Zen 3 EPYC": [
            ServerResult(threads=256, idle_w=90, load_w=load_w),
            ServerResult(threads=256, idle_w=100, load_w=load_w),
        ]
    }


def test_script_computes_the_rows_of_the_table(script: ModuleType) -> None:
    results = dict.fromkeys([row.name for row in reversed(POWER_TABLE)], SAMPLE)
    net_w, idle_w = net_w_per_cpu(SAMPLE), idle_w_per_cpu(SAMPLE)
    assert list(script.power_rows(results)) == [
        replace(row, net_w=net_w, idle_w=idle_w, servers=len(SAMPLE)) for row in POWER_TABLE
    ]


def test_rows_stand_in_the_table_as_the_script_writes_them(script: ModuleType) -> None:
    text = Path(power_table.__file__).read_text(encoding="utf-8")
    assert f"POWER_TABLE = (\n{''.join(map(script.written, POWER_TABLE))})\n" in text


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
