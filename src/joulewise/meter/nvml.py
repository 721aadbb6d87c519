"""Read the joules of NVIDIA graphics cards through NVML (grade B).

Cards since Volta have a counter in millijoules; older ones only tell their power, which is sampled
and added up, with a much wider band. A card split by MIG has one counter for tenants that cannot be
told apart, so it is refused. Every card that NVML lists is a rail, whoever uses it: work on one
card of a server is billed with the idle power of the others.

The counter moves about every 0.1 s, so a window needs 100 of those, 10 s, and a program must have
waited for the card before a window closes (design, rules of measurement, 4).

Tested against a stub library compiled from C (tests/meter/nvml_stub.c), through the real ctypes
binding; never run on a card here.

Source: NVIDIA NVML API reference, nvmlDeviceGetTotalEnergyConsumption, nvmlDeviceGetPowerUsage,
nvmlDeviceGetMigMode.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from joulewise.core.energy import Component, Grade, Reading, Sensor
from joulewise.core.errors import SensorError, one_line
from joulewise.core.host import Host
from joulewise.meter.rails import Rail, RailReader

__all__ = ["NvmlMeter", "probe"]

UPDATE_PERIOD_S = 0.1
"""Time between steps of the counter, s. Source: ML.ENERGY blog, steps of about 100 ms."""

SAMPLE_PERIOD_S = 0.1
"""Time between samples of the power, s: a judgement.

Source: NVML reference: since Ampere, except GA100, the value is itself a mean over 1 s, before that
instantaneous.
"""

COUNTER_STEP_J = 1e-3
"""Unit of the counter. Source: NVML reference, millijoules since the driver was loaded."""

COUNTER_RATIOS = (0.9, 1.1)
"""Error of the counter: a judgement.

Source: Yang et al. 2024 (SC24), arXiv:2312.02741, find the power sensor within about 5 % on most
cards once gain and offset are known. differs: nobody has published a bound for the counter, and
one card's counter was 43 % below its own sampled power at idle (ml-energy/zeus issue 181).
"""

SAMPLED_RATIOS = (0.6, 1.65)
"""Error of sampled power: a judgement.

Source: Yang et al. 2024 (SC24), arXiv:2312.02741: on A100 and H100 only 25 % of the run time is
seen by the sensor, and good practice cut the error by up to 65 %.
"""

COUNTER_PAIR_RATIO, SAMPLED_PAIR_RATIO = 1.05, 1.25
"""Part of the error that two programs on one card do not share: judgements.

Gain and offset cancel; what the sensor happens not to see of a program's phases does not.
"""


def probe() -> str | None:
    """Return why no card can be read here, with the fix, or None where it can."""
    try:
        with _session() as nvml:
            _rails(nvml)
    except SensorError as error:
        return str(error)
    return None


class NvmlMeter:
    """Count the joules of all cards.

    `idle_w` is None until the caller sets it.

    Args:
        period_s: time between samples of cards without counter, s.
        clock: monotonic time, s; another function in tests.

    Raises:
        SensorError: no driver, no card, a card without any joules, or one split by MIG.
    """

    grade: ClassVar[Grade] = "B"
    component: ClassVar[Component] = "gpu"
    probe: ClassVar[Callable[[], str | None]] = staticmethod(probe)

    def __init__(
        self,
        *,
        period_s: float = SAMPLE_PERIOD_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._nvml: Any = _started()
        try:
            rails = _rails(self._nvml)
            sampled = any(rail.unit == "W" for rail in rails)
            self._reader = RailReader(rails, period_s=period_s if sampled else None, clock=clock)
        except SensorError:
            self._shut_down()
            raise
        self.idle_w: float | None = None
        self.sensor = nvml_sensor(rails, period_s)

    @classmethod
    def attach(cls, pids: Sequence[int], host: Host) -> NvmlMeter:  # noqa: ARG003
        """Open the meter; its joules are the cards', whatever the processes."""
        return cls()

    def read(self) -> Reading:
        """Return the joules of each card since the meter was opened.

        Raises:
            SensorError: a card vanished, its counter fell, or it was not sampled in time.
        """
        if self._nvml is None:
            raise SensorError("the meter nvml is closed; open it again")
        return self._reader.read()

    def close(self) -> None:
        """End the sampling and release NVML."""
        self._reader.close()
        self._shut_down()

    def _shut_down(self) -> None:
        nvml, self._nvml = self._nvml, None
        if nvml is not None:
            nvml.nvmlShutdown()


def nvml_sensor(rails: Sequence[Rail], period_s: float) -> Sensor:
    """Describe the cards that were found."""
    sampled = [rail.name for rail in rails if rail.unit == "W"]
    low_ratio, high_ratio = SAMPLED_RATIOS if sampled else COUNTER_RATIOS
    how = f", power of {', '.join(sampled)} sampled" if sampled else ""
    return Sensor(
        name="nvml",
        grade="B",
        boundary=f"all NVIDIA cards of the machine with their memory, idle included{how}",
        rails=tuple(rail.name for rail in rails),
        includes_idle=True,
        resolution_j=None if sampled else COUNTER_STEP_J,
        update_period_s=max(UPDATE_PERIOD_S, period_s) if sampled else UPDATE_PERIOD_S,
        low_ratio=low_ratio,
        high_ratio=high_ratio,
        pair_ratio=SAMPLED_PAIR_RATIO if sampled else COUNTER_PAIR_RATIO,
        source=(
            "NVML energy counter; band is a judgement after Yang et al. 2024, arXiv 2312.02741"
            if not sampled
            else "NVML power, sampled; band is a judgement after Yang et al. 2024, arXiv 2312.02741"
        ),
    )


def _rails(nvml: Any) -> tuple[Rail, ...]:  # noqa: ANN401  a module without annotations
    """Return a rail for each card."""
    with _one_line(nvml, "the NVIDIA cards"):
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    if not handles:
        raise SensorError("NVML lists no card; check that nvidia-smi shows one")
    return tuple(_rail(nvml, f"gpu-{index}", handle) for index, handle in enumerate(handles))


def _rail(nvml: Any, name: str, handle: Any) -> Rail:  # noqa: ANN401
    """Return the card's counter, or else its power."""
    mig = _supported(nvml, name, nvml.nvmlDeviceGetMigMode, handle)
    if mig is not None and mig[0]:
        raise SensorError(
            f"{name} is split by MIG, and its joules cannot be told apart by instance; "
            "ask for the whole card, or end MIG with: sudo nvidia-smi -mig 0"
        )

    def joules() -> float:
        with _one_line(nvml, name):
            return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) * 1e-3

    def watts() -> float:
        with _one_line(nvml, name):
            return float(nvml.nvmlDeviceGetPowerUsage(handle)) * 1e-3

    if _supported(nvml, name, nvml.nvmlDeviceGetTotalEnergyConsumption, handle) is not None:
        return Rail(name=name, unit="J", read=joules)
    if _supported(nvml, name, nvml.nvmlDeviceGetPowerUsage, handle) is not None:
        return Rail(name=name, unit="W", read=watts)
    raise SensorError(
        f"{name} has neither an energy counter nor a power sensor; measure it with an external "
        "meter and --meter recording:FILE"
    )


def _supported(nvml: Any, name: str, function: Callable[[Any], Any], handle: Any) -> Any:  # noqa: ANN401
    """Return what a function of NVML says about a card, None where the card has no such thing."""
    absent = (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_FUNCTION_NOT_FOUND)
    with _one_line(nvml, name):
        try:
            return function(handle)
        except nvml.NVMLError as error:
            if error.value in absent:
                return None
            raise


def _started() -> Any:  # noqa: ANN401  a module without annotations
    """Return the NVML module with its library open."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise SensorError(
            f"NVML does not start ({one_line(error)}); it needs an NVIDIA card and its driver: "
            "check that nvidia-smi works here"
        ) from error
    return pynvml


@contextmanager
def _session() -> Iterator[Any]:
    nvml = _started()
    try:
        yield nvml
    finally:
        nvml.nvmlShutdown()


@contextmanager
def _one_line(nvml: Any, name: str) -> Iterator[None]:  # noqa: ANN401
    """Turn a failure of NVML into one line with its fix."""
    try:
        yield
    except nvml.NVMLError as error:
        raise SensorError(
            f"cannot read {name} ({one_line(error)}); check it with nvidia-smi and measure again"
        ) from error
