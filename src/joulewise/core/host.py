"""The machine's fingerprint: joules of different hosts are never compared in one ratio."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["Host", "package_versions", "read_host"]

INSTRUCTION_SETS = {
    "avx2": ("avx2",),
    "avx512": ("avx512f", "avx512bw"),
    "vnni": ("avx512_vnni", "avx_vnni"),
    "bf16": ("avx512_bf16", "amx_bf16", "bf16"),
    "amx": ("amx_int8",),
    "dotprod": ("asimddp",),
    "i8mm": ("i8mm",),
}
"""Instruction sets that decide which kernels are fast -> flags in /proc/cpuinfo that show them."""

PACKAGES = (
    "joulewise", "numpy", "scipy", "onnx", "onnxruntime", "openvino", "nncf", "optuna",
    "ai-edge-litert", "litert-torch", "litert-quantizer",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Host:
    """What decides the speed and the joules of a program on this machine.

    Args:
        cpu: model name as the kernel gives it.
        vendor: "AuthenticAMD", "GenuineIntel", ...; None if unknown.
        family: CPU family number, None if unknown.
        model: CPU model number, None if unknown.
        logical_cpus: CPUs that this process may use.
        instruction_sets: names from INSTRUCTION_SETS that are present.
        memory_bytes: main memory, None if unknown.
        hypervisor: True in a virtual machine.
        system: kernel and its release.
        architecture: "x86_64", "aarch64", ...
    """

    cpu: str
    vendor: str | None
    family: int | None
    model: int | None
    logical_cpus: int
    instruction_sets: tuple[str, ...]
    memory_bytes: int | None
    hypervisor: bool
    system: str
    architecture: str

    @property
    def short(self) -> str:
        """One line: CPU, number of logical CPUs, instruction sets."""
        kinds = " ".join(self.instruction_sets) or "no vector extensions known"
        return f"{self.cpu} ({self.logical_cpus} logical CPUs, {kinds})"


def read_host(proc: Path = Path("/proc")) -> Host:
    """Read this machine's fingerprint.

    Args:
        proc: where the proc file system is; another folder in tests.
    """
    fields = _cpuinfo(proc / "cpuinfo")
    flags = set(fields.get("flags", fields.get("features", "")).split())
    return Host(
        cpu=fields.get("model name") or platform.processor() or platform.machine(),
        vendor=fields.get("vendor_id"),
        family=_number(fields.get("cpu family")),
        model=_number(fields.get("model")),
        logical_cpus=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        instruction_sets=tuple(
            name for name, marks in INSTRUCTION_SETS.items() if flags.intersection(marks)
        ),
        memory_bytes=_memory_bytes(proc / "meminfo"),
        hypervisor="hypervisor" in flags,
        system=f"{platform.system()} {platform.release()}",
        architecture=platform.machine(),
    )


def package_versions() -> Mapping[str, str]:
    """Return the versions of the packages that decide a result, those that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _cpuinfo(path: Path) -> dict[str, str]:
    """Return the fields of the first processor in a cpuinfo file, keys in lower case."""
    fields: dict[str, str] = {}
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return fields
    for line in lines:
        if not line.strip() and fields:
            break
        key, _, value = line.partition(":")
        fields[key.strip().lower()] = value.strip()
    return fields


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


def _memory_bytes(path: Path) -> int | None:
    try:
        for line in path.read_text().splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None
