from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from joulewise.core.errors import SensorError, UsageError
from joulewise.core.host import Host, read_host
from joulewise.meter.cgroup import CgroupMeter, NamedCgroup, group_cpu_s, probe
from joulewise.meter.cpu_time import CpuTimeMeter
from joulewise.meter.power_table import POWER_TABLE, power_of
from joulewise.meter.table import open_meter, probe_meters
from tests.clock import Clock
from tests.properties.machines import HOST, host_of
from tests.sysfs import write

STAT = "usage_usec {}\nuser_usec 1\nsystem_usec 2\nnr_periods 0\n"


def set_cpu(folder: Path, cpu_s: float, version: int = 2) -> Path:
    """Let a group have used so much CPU time."""
    if version == 1:
        return write(folder, **{"cpuacct.usage": round(cpu_s * 1e9)})
    return write(folder, **{"cpu.stat": STAT.format(round(cpu_s * 1e6))})


@pytest.fixture
def host() -> Host:
    return host_of(POWER_TABLE[0])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return set_cpu(tmp_path / "nginx.service", 3.0)


@pytest.mark.parametrize("version", [1, 2])
def test_joules_are_those_of_the_same_cpu_time_of_processes(
    tmp_path: Path, host: Host, version: int
) -> None:
    clock = Clock()
    meter = CgroupMeter(set_cpu(tmp_path, 3.0, version), host=host, now=clock)
    before = meter.read()
    clock.now_s = 7.0
    set_cpu(tmp_path, 5.5, version)
    after = meter.read()
    processes = CpuTimeMeter([os.getpid()], host=host)
    assert after.total_j - before.total_j == pytest.approx(processes.joules_of(2.5))
    assert after.total_j - before.total_j == pytest.approx(2.5 * power_of(host).net_w.central)
    assert (before.time_s, after.time_s) == (0.0, 7.0)
    assert meter.idle_w == processes.idle_w


def test_figures_are_those_of_the_estimate_for_processes(folder: Path, host: Host) -> None:
    sensor, other = CgroupMeter(folder, host=host).sensor, CpuTimeMeter([1], host=host).sensor
    same = replace(
        other,
        name="cgroup",
        boundary=sensor.boundary,
        resolution_j=sensor.resolution_j,
        update_period_s=sensor.update_period_s,
    )
    assert sensor == same
    assert sensor.grade == "D"
    assert sensor.boundary == (
        "share of the whole server's wall power above idle, by CPU time of the control group "
        "nginx.service and those inside it"
    )


@pytest.mark.parametrize(("version", "step_s"), [(1, 1e-9), (2, 1e-6)])
def test_resolution_is_the_step_of_the_file(
    tmp_path: Path, host: Host, version: int, step_s: float
) -> None:
    sensor = CgroupMeter(set_cpu(tmp_path, 1.0, version), host=host).sensor
    assert sensor.resolution_j == pytest.approx(step_s * power_of(host).net_w.central)


def test_group_that_was_made_anew_stays_an_error(folder: Path) -> None:
    meter = CgroupMeter(folder, host=HOST)
    set_cpu(folder, 0.5)
    for cpu_s in (0.5, 9.0):
        set_cpu(folder, cpu_s)
        with pytest.raises(SensorError, match=r"fell from 3\.000 to 0\.500 s .*started again"):
            meter.read()


def test_group_that_is_gone_is_an_error(folder: Path) -> None:
    meter = CgroupMeter(folder, host=HOST)
    (folder / "cpu.stat").unlink()
    folder.rmdir()
    with pytest.raises(SensorError, match="not, or no longer, a control group"):
        meter.read()


def test_controller_cpu_of_version_1_tells_no_cpu_time(tmp_path: Path) -> None:
    write(tmp_path, **{"cpu.stat": "nr_periods 0\nnr_throttled 0"})
    with pytest.raises(SensorError, match=r"has no usage_usec.*/sys/fs/cgroup/cpuacct instead"):
        group_cpu_s(tmp_path)


@pytest.mark.parametrize("text", ["", "usage_usec", "usage_usec -1", "usage_usec many"])
def test_file_that_makes_no_sense_is_an_error(tmp_path: Path, text: str) -> None:
    write(tmp_path, **{"cpu.stat": text})
    with pytest.raises(SensorError, match="has no usage_usec"):
        group_cpu_s(tmp_path)
    write(tmp_path, **{"cpuacct.usage": text})
    with pytest.raises(SensorError, match="not a number"):
        group_cpu_s(tmp_path)


# ---------------------------------------------------------------- by its name


def test_it_is_opened_by_its_folder_and_never_unasked(folder: Path, host: Host) -> None:
    meter = open_meter([], name=f"cgroup:{folder}", host=host)
    assert meter.sensor.name == "cgroup"
    assert next(state.by_name_only for state in probe_meters() if state.name == "cgroup")


def test_without_a_folder_it_says_how() -> None:
    assert "--meter cgroup:/sys/fs/cgroup/" in str(probe())
    with pytest.raises(SensorError, match="no control group is named"):
        open_meter([], name="cgroup")
    with pytest.raises(UsageError, match="lacks the group's folder"):
        open_meter([], name="cgroup:")
    with pytest.raises(SensorError, match="no control group is named"):
        CgroupMeter.attach([], HOST)


def test_probe_says_why_a_folder_does_not_work(tmp_path: Path) -> None:
    assert "give a folder as in" in str(NamedCgroup(folder=tmp_path / "absent").probe())
    assert "need Linux" in str(NamedCgroup(folder=tmp_path, platform="darwin").probe())
    assert NamedCgroup(folder=set_cpu(tmp_path, 1.0)).probe() is None


# ---------------------------------------------------------------- the real files


def own_groups() -> Iterator[Path]:
    """Yield where the control group of this process may be."""
    groups = Path("/proc/self/cgroup")
    for line in groups.read_text().splitlines() if groups.exists() else ():
        _, controllers, path = line.split(":", 2)
        mounts = {"": ("", "unified"), "cpuacct": ("cpuacct",)}.get(controllers, (controllers,))
        if controllers == "" or "cpuacct" in controllers:
            yield from (Path("/sys/fs/cgroup", mount, path.lstrip("/")) for mount in mounts)


ORPHAN = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while time.process_time() < 0.2: pass
        os.write(1, b"done")
    os._exit(0)
"""


def test_orphans_are_counted_which_a_process_tree_misses() -> None:
    """The orphan runs for 0.2 s; all else that the tree sees is in the group as well."""
    folder = next((each for each in own_groups() if not NamedCgroup(folder=each).probe()), None)
    if folder is None:
        pytest.skip("no control group of this process can be read")
    tree = CpuTimeMeter([os.getpid()], host=read_host())
    before_s, tree_before_s = group_cpu_s(folder), tree.cpu_s()
    with subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.read() == b"done"
        parent.wait()
        time.sleep(0.02)  # two ticks
        tree_s, group_s = tree.cpu_s() - tree_before_s, group_cpu_s(folder) - before_s
    assert group_s - tree_s >= 0.9 * 0.2
