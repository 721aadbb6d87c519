"""Staircases and calibrations that the tests share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from joulewise.core.energy import Sensor
from joulewise.core.host import Host
from joulewise.meter.calibration import Calibration, Step
from joulewise.meter.fit import fit_calibration
from joulewise.meter.mixes import MIXES
from joulewise.testing.machine import FakeMachine

TABLE_W = 4.0
STEP_S = 2.0
CREW_PID = 10

HOST = Host(
    cpu="AMD EPYC 7763",
    vendor="AuthenticAMD",
    family=25,
    model=1,
    logical_cpus=4,
    instruction_sets=("avx2",),
    memory_bytes=2**34,
    hypervisor=False,
    system="Linux 6.1",
    architecture="x86_64",
)

EXACT = Sensor(
    name="exact", grade="A", boundary="the whole machine, idle included", rails=("all",),
    includes_idle=True, resolution_j=None, update_period_s=None, low_ratio=1.0, high_ratio=1.0,
    pair_ratio=1.0, source="a test",
)  # fmt: skip

WATTS = {"python": 5.0, "matmul": 6.0, "stream": 5.5}
"""Watts per busy CPU of a few mixes."""


def staircase(
    watts: Mapping[str, float] = WATTS,
    *,
    idle_w: float = 20.0,
    loads: Sequence[int] = (0, 1, 2, 4),
    exponent: float = 1.0,
) -> list[Step]:
    """Return exact steps of a machine whose power above idle is watts x load^exponent."""
    return [
        Step(
            mix=mix,
            cpus=cpus,
            seconds=STEP_S,
            cpu_s=STEP_S * cpus,
            reference_j=STEP_S * (idle_w + (each * cpus**exponent if cpus else 0.0)),
        )
        for mix, each in watts.items()
        for cpus in loads
    ]


def fitted(steps: Sequence[Step], reference: Sensor = EXACT, host: Host = HOST) -> Calibration:
    return fit_calibration(
        steps, reference=reference, host=host, table_w=TABLE_W, created="2026-11-20T12:00:00+00:00"
    )


@dataclass
class FakeLoads:
    """Keeps CPUs of a fake machine busy; its `sleep` is how time passes there.

    Args:
        machine: the machine; process CREW_PID is started on it.
        watts: per busy CPU of each mix, W.
        exponent: power above idle grows as the load to this power.
        neighbour_cpus: CPUs that somebody else keeps busy, whose power nobody sees.
    """

    machine: FakeMachine
    watts: Mapping[str, float]
    exponent: float = 1.0
    neighbour_cpus: float = 0.0
    held: tuple[str, int] = field(default=("", 0))

    def __post_init__(self) -> None:
        self.machine.proc.start(CREW_PID)
        self.machine.proc.start(CREW_PID + 1)

    def hold(self, mix: str, cpus: int) -> None:
        self.held = mix, cpus

    def cpu_s(self) -> float:
        return self.machine.proc.clock(CREW_PID)

    def sleep(self, seconds: float) -> None:
        mix, cpus = self.held
        watts = self.watts[mix] * cpus ** (self.exponent - 1.0) if cpus else 0.0
        if self.neighbour_cpus:
            busy = {CREW_PID: float(cpus), CREW_PID + 1: self.neighbour_cpus}
            share = cpus / (cpus + self.neighbour_cpus)
            self.machine.advance(seconds, busy, watts * share)
        else:
            self.machine.advance(seconds, {CREW_PID: float(cpus)}, watts)


def drawn_watts(random: np.random.Generator, mean_w: float, spread: float) -> dict[str, float]:
    """Return watts per busy CPU of all mixes, normally spread about a mean."""
    return {mix: mean_w * (1 + spread * random.standard_normal()) for mix in MIXES}
