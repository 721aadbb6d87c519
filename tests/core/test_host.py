from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from joulewise.core import host
from joulewise.core.host import Host, package_versions, read_host

AMD = """\
processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC 9R14
flags\t\t: fpu avx2 avx512f avx512bw avx512_vnni avx512_bf16 hypervisor

processor\t: 1
vendor_id\t: Other
model name\t: the second processor
flags\t\t: fpu
"""
INTEL = """\
processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R) Platinum 8488C
flags\t\t: fpu avx2 avx512f avx512bw avx512_vnni amx_bf16 amx_int8
"""
ARM = """\
processor\t: 0
BogoMIPS\t: 2100.00
Features\t: fp asimd asimddp i8mm bf16
CPU implementer\t: 0x41
CPU architecture: 8
CPU part\t: 0xd40

processor\t: 1
"""
MEMORY = "MemTotal:       16384 kB\nMemFree:         1024 kB\n"


def read(folder: Path, cpuinfo: str, meminfo: str = MEMORY) -> Host:
    (folder / "cpuinfo").write_text(cpuinfo)
    (folder / "meminfo").write_text(meminfo)
    return read_host(folder)


def test_amd_is_read_from_its_first_processor(tmp_path: Path) -> None:
    found = read(tmp_path, AMD)
    assert (found.cpu, found.vendor, found.family, found.model) == (
        "AMD EPYC 9R14",
        "AuthenticAMD",
        25,
        17,
    )


def test_amd_instruction_sets_are_named(tmp_path: Path) -> None:
    assert read(tmp_path, AMD).instruction_sets == ("avx2", "avx512", "vnni", "bf16")


def test_intel_is_read(tmp_path: Path) -> None:
    found = read(tmp_path, INTEL)
    assert (found.vendor, found.family, found.model) == ("GenuineIntel", 6, 143)


def test_intel_instruction_sets_are_named(tmp_path: Path) -> None:
    assert read(tmp_path, INTEL).instruction_sets == ("avx2", "avx512", "vnni", "bf16", "amx")


def test_arm_has_neither_vendor_nor_family(tmp_path: Path) -> None:
    found = read(tmp_path, ARM)
    assert (found.vendor, found.family, found.model) == (None, None, None)


def test_arm_is_named_by_its_architecture(tmp_path: Path) -> None:
    assert read(tmp_path, ARM).cpu == (platform.processor() or platform.machine())


def test_arm_instruction_sets_are_named(tmp_path: Path) -> None:
    assert read(tmp_path, ARM).instruction_sets == ("bf16", "dotprod", "i8mm")


def test_a_virtual_machine_is_told_by_its_flag(tmp_path: Path) -> None:
    assert read(tmp_path, AMD).hypervisor


def test_a_machine_without_the_flag_is_none(tmp_path: Path) -> None:
    assert not read(tmp_path, INTEL).hypervisor


def test_memory_is_read_in_bytes(tmp_path: Path) -> None:
    assert read(tmp_path, AMD).memory_bytes == 16384 * 1024


def test_memory_is_missing_where_the_kernel_does_not_say(tmp_path: Path) -> None:
    assert read(tmp_path, AMD, "MemFree: 1024 kB\n").memory_bytes is None


def test_a_family_that_is_no_number_is_missing(tmp_path: Path) -> None:
    assert read(tmp_path, AMD.replace("25", "unknown")).family is None


def test_a_machine_without_proc_is_known_by_its_architecture(tmp_path: Path) -> None:
    found = read_host(tmp_path)
    assert (found.memory_bytes, found.instruction_sets, found.architecture) == (
        None,
        (),
        platform.machine(),
    )


def test_one_line_tells_cpu_and_instruction_sets(tmp_path: Path) -> None:
    found = read(tmp_path, INTEL)
    assert found.short == (
        f"Intel(R) Xeon(R) Platinum 8488C ({found.logical_cpus} logical CPUs, "
        "avx2 avx512 vnni bf16 amx)"
    )


def test_one_line_says_when_no_instruction_set_is_known(tmp_path: Path) -> None:
    assert "no vector extensions known" in read_host(tmp_path).short


def test_this_machine_has_the_cpus_that_this_process_may_use() -> None:
    assert read_host().logical_cpus == len(os.sched_getaffinity(0))


def test_this_machine_reads_the_same_twice() -> None:
    assert read_host() == read_host()


def test_versions_of_installed_packages_are_given() -> None:
    assert {"joulewise", "numpy", "scipy"} <= set(package_versions())


def test_packages_that_are_not_installed_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "PACKAGES", ("numpy", "no-such-package"))
    assert list(package_versions()) == ["numpy"]
