"""Fit the estimate from CPU time to a reference meter: a line, and the band around it.

The line is W = a x reading + b: reading is what the uncalibrated estimate says, in watts above
idle, W is the power that the reference saw. It is fitted by ordinary least squares over all steps
of a load staircase; as the steps of one instruction mix err alike, the intervals of a and b come
from leaving out one mix at a time.

The band says how far the joules of a program that was not in the staircase may be from a x reading.
It rests on one assumption, which no data of one machine can check: that the watts per busy CPU of
the user's programs vary like those of the mixes, which were chosen to lie far apart (branches,
vector units, memory), and roughly log-normally. What the mixes then say of one more program is the
prediction interval for a future observation of a sample, and of the ratio of two more programs that
for the difference of two. Both use Student's t, so few mixes give a wide band, wider than the
largest difference that was seen. The reference's own error multiplies it.

Source: prediction intervals, Meeker, Hahn, Escobar 2017, Statistical Intervals, 2nd ed., chapter 4;
jackknife over clusters with t of (clusters - 1), MacKinnon, Nielsen, Webb 2023, J. Econometrics
232, 272-299, CV3. With d the log-ratio of a mix and n mixes, the error of a mix that is predicted
by the others is n / (n - 1) times its distance from the mean, so the prediction interval is the
spread of these leave-one-out errors times t sqrt(n^2 - 1) / n.

Invariants: nothing here reads a clock, a file or a counter; the order of the steps does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from joulewise.core.energy import Interval, Sensor
from joulewise.core.errors import SensorError
from joulewise.core.host import Host
from joulewise.meter.calibration import Calibration, Line, Step

__all__ = [
    "FEWEST_MIXES",
    "STEPS_OF_COUNTER",
    "fit_calibration",
    "fit_line",
    "predict_left_out",
]

CONFIDENCE = 0.95
"""Of every interval and of the band, two-sided."""

FEWEST_MIXES = 3
"""Instruction mixes below which a spread is no spread: branches, vector units, memory."""

LEAST_R2 = 0.8
"""Share of the reference's variance that the line must explain: a judgement.

Source: 0.956 to 0.979 on 318 published runs against a wall meter (records/
calibration-codecarbon.json), whose reference had steps of a tenth of a run.
"""

STEPS_OF_COUNTER = 10
"""Steps of the reference's counter that the lightest load must add to idle: rounding then is 10 %
of one step of the staircase, and far less of their mean. A judgement, as for windows."""

Floats = NDArray[np.float64]


def fit_line(
    reading_w: Sequence[float], reference_w: Sequence[float], groups: Sequence[str]
) -> Line:
    """Fit reference = a x reading + b by ordinary least squares.

    The intervals are jackknifed over groups, so that points of one group may err alike.

    Args:
        reading_w: power as the estimate says, W.
        reference_w: power as the reference says, in the same order, W, > 0.
        groups: what each point belongs to, in the same order; at least two different ones.

    Raises:
        ValueError: the lengths differ, there are fewer than two groups, or all readings are alike.

    Source: see the module.
    """
    x, y, names = _points(reading_w, reference_w, groups)
    a, b_w = _least_squares(x, y)
    left_out = _left_out(x, y, names)
    unexplained = float(np.sum((y - a * x - b_w) ** 2))
    total = float(np.sum((y - y.mean()) ** 2))
    predicted = predict_left_out(reading_w, reference_w, groups)
    return Line(
        a=_jackknifed(a, [line[0] for line in left_out.values()]),
        b_w=_jackknifed(b_w, [line[1] for line in left_out.values()]),
        r2=1.0 - unexplained / total if np.ptp(y) > 0 else 0.0,  # a mean may round
        points=len(x),
        groups=len(left_out),
        left_out_error_ratio=float(np.mean(np.abs(predicted / y - 1.0))),
    )


def predict_left_out(
    reading_w: Sequence[float], reference_w: Sequence[float], groups: Sequence[str]
) -> Floats:
    """Return for each point what the line of all other groups says, W.

    Args:
        reading_w: power as the estimate says, W.
        reference_w: power as the reference says, in the same order, W.
        groups: what each point belongs to, in the same order.

    Raises:
        ValueError: as for fit_line.
    """
    x, y, names = _points(reading_w, reference_w, groups)
    lines = _left_out(x, y, names)
    return np.array(
        [lines[name][0] * value + lines[name][1] for name, value in zip(names, x, strict=True)]
    )


def fit_calibration(
    steps: Sequence[Step],
    *,
    reference: Sensor,
    host: Host,
    table_w: float,
    created: str,
    disturbances: Sequence[str] = (),
) -> Calibration:
    """Return the calibration that a staircase gives, or say why it gives none.

    Args:
        steps: every mix at the same loads, idle among them; repeats are averaged.
        reference: the sensor that gave the steps' joules.
        host: the machine.
        table_w: watts above idle per busy CPU of the uncalibrated estimate, W.
        created: UTC time, ISO 8601.
        disturbances: what spoilt the climb, each in one line.

    Raises:
        SensorError: too few loads or mixes, a disturbance, a reference that did not respond or is
            too coarse, or a line that does not fit.
    """
    stairs = _Stairs.of(steps)
    _check_shape(stairs, reference)
    if disturbances:
        raise SensorError(f"nothing was calibrated: {disturbances[0]}")
    line = fit_line(
        [table_w * step.cpu_s / step.seconds for step in steps],
        [step.reference_j / step.seconds for step in steps],
        [step.mix for step in steps],
    )
    _check_fit(stairs, line, reference)
    logs = np.log(stairs.net_w / (line.a.central * table_w * stairs.busy_cpus))
    low, high = _band_of_one_more(logs)
    mix_ratio = _ratio_of_two_more(logs)
    return Calibration(
        created=created,
        host=host,
        reference=reference,
        table_w=table_w,
        line=line,
        idle_w=float(stairs.idle_w.mean()),
        low_ratio=min(1.0, low * reference.low_ratio),
        high_ratio=max(1.0, high * reference.high_ratio),
        mix_ratio=mix_ratio,
        pair_ratio=mix_ratio * reference.pair_ratio,
        load_ratio=float(np.exp(np.ptp(logs.mean(axis=0)))),
        steps=tuple(steps),
    )


@dataclass(frozen=True, kw_only=True)
class _Stairs:
    """Means over repeats, a row per mix and a column per load; `net_w` is above the mix's idle."""

    mixes: tuple[str, ...]
    loads: tuple[int, ...]
    idle_w: Floats
    net_w: Floats
    busy_cpus: Floats
    shortest_s: float
    counted: bool

    @classmethod
    def of(cls, steps: Sequence[Step]) -> _Stairs:
        mixes = tuple(sorted({step.mix for step in steps}))
        loads = tuple(sorted({step.cpus for step in steps}))
        totals = np.zeros((len(mixes), len(loads), 3))
        for step in steps:
            cell = mixes.index(step.mix), loads.index(step.cpus)
            totals[cell] += step.seconds, step.reference_j, step.cpu_s
        if 0 not in loads or not totals[..., 0].all():
            raise ValueError("every mix needs a step at every load, idle among them")
        seconds, joules, cpu_s = np.moveaxis(totals, -1, 0)
        powers = joules / seconds
        return cls(
            mixes=mixes,
            loads=loads[1:],
            idle_w=powers[:, 0],
            net_w=powers[:, 1:] - powers[:, :1],
            busy_cpus=(cpu_s / seconds)[:, 1:],
            shortest_s=min(step.seconds for step in steps),
            counted=all(step.reference_j > 0 for step in steps),
        )


def _check_shape(stairs: _Stairs, reference: Sensor) -> None:
    """Refuse a staircase from which no line or no spread can be told."""
    if len(stairs.loads) < 2:
        raise SensorError(
            "a calibration needs idle and two loads, but this program may use one CPU only; allow "
            "it two or more"
        )
    if len(stairs.mixes) < FEWEST_MIXES:
        raise SensorError(
            f"{len(stairs.mixes)} instruction mixes tell no spread; climb with {FEWEST_MIXES} or "
            "more"
        )
    if stairs.busy_cpus.min() <= 0:
        raise SensorError(
            "a load got no CPU time at all; stop other work on this machine and calibrate again"
        )
    if not stairs.counted:
        raise SensorError(
            f"{reference.name} counted no joules in a step of {stairs.shortest_s:.3g} s; is it "
            "running, and fine enough?"
        )


def _check_fit(stairs: _Stairs, line: Line, reference: Sensor) -> None:
    """Refuse a reference that does not follow the load, or not finely enough."""
    idle_w, full_w = stairs.idle_w.mean(), (stairs.idle_w + stairs.net_w[:, -1]).mean()
    seen = f"{idle_w:.3g} W idle, {full_w:.3g} W with {stairs.loads[-1]} CPUs busy"
    if line.a.low <= 0:
        raise SensorError(
            f"{reference.name} did not clearly respond to load ({seen}, slope {line.a.low:.2g} to "
            f"{line.a.high:.2g}); does it measure this machine, and is its clock right?"
        )
    rise_j = float(stairs.net_w[:, 0].mean()) * stairs.shortest_s
    if reference.resolution_j is not None and rise_j < STEPS_OF_COUNTER * reference.resolution_j:
        raise SensorError(
            f"{reference.name} is too coarse: {stairs.loads[0]} busy CPU added {rise_j:.3g} J per "
            f"step to idle, fewer than {STEPS_OF_COUNTER} of its own steps of "
            f"{reference.resolution_j:.3g} J; use a finer meter"
        )
    if line.r2 < LEAST_R2:
        raise SensorError(
            f"power follows CPU time badly here (r2 {line.r2:.2f}, {seen}); stop other work, let "
            "the machine cool down and calibrate again"
        )
    if stairs.net_w.min() <= 0:
        raise SensorError(
            f"a load drew no more than idle ({seen}); stop other work on this machine and "
            "calibrate again"
        )


def _band_of_one_more(logs: Floats) -> tuple[float, float]:
    """Return the prediction interval of one more mix at any of the loads, as factors.

    Args:
        logs: log-ratio of the joules to the estimate, a row per mix and a column per load.
    """
    mixes = len(logs)
    half = _quantile(mixes - 1) * logs.std(axis=0, ddof=1) * math.sqrt(1 + 1 / mixes)
    means = logs.mean(axis=0)
    return math.exp((means - half).min()), math.exp((means + half).max())


def _ratio_of_two_more(logs: Floats) -> float:
    """Return the prediction interval of the ratio of two more mixes at one load, a factor >= 1."""
    spread = float(logs.std(axis=0, ddof=1).max())
    return math.exp(_quantile(len(logs) - 1) * spread * math.sqrt(2))


def _points(
    reading_w: Sequence[float], reference_w: Sequence[float], groups: Sequence[str]
) -> tuple[Floats, Floats, NDArray[np.str_]]:
    x, y = np.asarray(reading_w, dtype=float), np.asarray(reference_w, dtype=float)
    names = np.asarray(groups, dtype=str)
    if not len(x) == len(y) == len(names) or len(set(groups)) < 2:
        raise ValueError("a line needs as many readings as powers, of two groups or more")
    return x, y, names


def _left_out(x: Floats, y: Floats, names: NDArray[np.str_]) -> dict[str, tuple[float, float]]:
    """Return for each group the line of all others."""
    return {
        str(name): _least_squares(x[names != name], y[names != name]) for name in np.unique(names)
    }


def _least_squares(x: Floats, y: Floats) -> tuple[float, float]:
    """Return slope and intercept; raises ValueError where all x are alike."""
    from_mean = x - x.mean()
    square = float(from_mean @ from_mean)
    if square <= 0:
        raise ValueError("all readings are alike, so there is no slope")
    slope = float(from_mean @ y) / square
    return slope, float(y.mean() - slope * x.mean())


def _jackknifed(value: float, left_out: Sequence[float]) -> Interval:
    """Return `value` with its interval from the values without one group each."""
    groups = len(left_out)
    deviations = np.asarray(left_out) - value
    error = math.sqrt((groups - 1) / groups * float(deviations @ deviations))
    half = _quantile(groups - 1) * error
    return Interval(low=value - half, central=value, high=value + half)


def _quantile(freedom: int) -> float:
    """Return Student's t that leaves out half of 1 - CONFIDENCE above it."""
    from scipy.special import stdtrit  # late: the estimate itself does without SciPy

    return float(stdtrit(freedom, 0.5 + CONFIDENCE / 2))
