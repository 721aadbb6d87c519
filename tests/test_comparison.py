"""The procedure on a virtual machine, thousands of rounds in no time; then real processes."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from joulewise.comparison import (
    Comparison,
    Conduct,
    Contender,
    Referee,
    Terms,
    compare_commands,
    compare_models,
    verdict_of,
)
from joulewise.core.claim import Ratio
from joulewise.core.energy import Block, Measurement, Reading, Sensor, Timing
from joulewise.core.errors import ProgramError, UsageError
from joulewise.core.host import read_host
from joulewise.core.records import dump, load
from joulewise.core.sequential import LOOKS, look_confidence, looks_up_to
from joulewise.meter.cpu_time import cpu_time_sensor
from joulewise.meter.interleave import Subject, Taken, take_rounds
from joulewise.meter.power_table import power_of
from tests.models import make_job

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")

HOST = read_host()
EXACT = replace(
    cpu_time_sensor(power_of(HOST)), name="exact", low_ratio=1.0, high_ratio=1.0, pair_ratio=1.0
)
REPEATS = 600
SEEDS = range(REPEATS)
ERROR = 0.05
ALLOWED = ERROR + 2 * math.sqrt(ERROR * (1 - ERROR) / REPEATS)
"""Two standard errors of a rate of 5 % in so many repeats above it."""


@dataclass
class Machine:
    """A virtual clock and noise: lognormal per block, on top of a slow swing and a steady drift."""

    seed: int
    noise: float
    drift_per_s: float = 1e-3
    swing: float = 0.2
    sensor: Sensor = EXACT
    idle_w: float | None = None
    now_s: float = 0.0
    random: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def read(self) -> Reading:
        return Reading(time_s=self.now_s, rails_j={"cpu": 0.0})

    def close(self) -> None: ...

    def run(self, joules: float) -> Taken:
        slow = math.exp(self.drift_per_s * self.now_s + self.swing * math.sin(self.now_s / 30))
        joules *= slow * math.exp(self.noise * self.random.standard_normal())
        self.now_s += joules
        block = Block(items=1, seconds=joules, reading_j=joules, cpu_s=joules)
        return block, Timing(items=1, seconds=joules, cpu_s=joules, p50_s=joules, p95_s=joules)


def simulate(
    machine: Machine,
    joules: Sequence[float],
    *,
    terms: Terms | None = None,
    same: bool = True,
) -> tuple[Referee, dict[str, Measurement]]:
    """Compare virtual programs through the code that compares real ones."""
    contenders = [
        Contender(name=f"program {number}", same=same or not number)
        for number in range(len(joules))
    ]
    terms = replace(terms or Terms(), seed=machine.seed)
    referee = Referee(contenders, terms, clock=lambda: machine.now_s)
    subjects = {
        name: Subject(meter=machine, take=partial(machine.run, each))
        for name, each in zip(referee.names, joules, strict=True)
    }
    return referee, take_rounds(subjects, referee.plan, referee.is_over)


def compared(
    machine: Machine,
    joules: Sequence[float] = (1.0, 1.0),
    *,
    terms: Terms | None = None,
    same: bool = True,
) -> Comparison:
    referee, found = simulate(machine, joules, terms=terms, same=same)
    return referee.record("commands", found, HOST)


def ratios(
    machine: Machine,
    joules: Sequence[float] = (1.0, 1.0),
    *,
    terms: Terms | None = None,
    same: bool = True,
) -> list[Ratio]:
    referee, found = simulate(machine, joules, terms=terms, same=same)
    return list(referee.ratios(found).values())


def called_ratio(
    noise: float, drift: float = 1.0, programs: int = 2, terms: Terms | None = None
) -> float:
    """Return the fraction of seeded A/A comparisons in which a winner is called."""
    machines = [Machine(seed, noise, 1e-3 * drift, 0.2 * drift) for seed in SEEDS]
    found = [ratios(machine, (1.0,) * programs, terms=terms) for machine in machines]
    return sum(any(verdict_of(each) != "no difference" for each in one) for one in found) / REPEATS


@pytest.mark.parametrize("noise", [1e-4, 0.003, 0.01, 0.1], ids=str)
def test_a_winner_is_called_among_equals_in_5_percent_at_the_most(noise: float) -> None:
    assert called_ratio(noise) <= ALLOWED


@pytest.mark.parametrize("noise", [0.003, 0.012], ids=str)
def test_so_it_is_where_nothing_drifts(noise: float) -> None:
    assert called_ratio(noise, drift=0.0) <= ALLOWED


def test_three_equals_and_a_limit_of_time_keep_the_error() -> None:
    assert called_ratio(0.02, programs=3, terms=Terms(max_s=40.0)) <= ALLOWED


def test_looking_without_widening_errs_more_often() -> None:
    """The same stops with a plain 95 % interval at each look: this is what the widening is for."""
    plain = 1 - ERROR * len(LOOKS)
    terms = Terms(confidence=plain, precision_ratio=0.008)
    assert look_confidence(plain, len(LOOKS), 1) == pytest.approx(0.95)
    assert look_confidence(0.95, len(LOOKS), 1) == pytest.approx(0.99)
    assert called_ratio(0.01, drift=0.0, terms=terms) > ALLOWED  # 8 %


def test_stops_at_every_look_are_among_the_simulated() -> None:
    rounds = {
        ratios(Machine(seed, noise))[0].pairs
        for noise in (0.004, 0.01, 0.016, 0.02)
        for seed in range(30)
    }
    assert rounds == set(LOOKS)


@pytest.mark.parametrize("noise", [0.01, 0.05])
def test_a_fifth_less_is_almost_always_found(noise: float) -> None:
    found = [ratios(Machine(seed, noise), (1.0, 0.8), same=False)[0] for seed in range(200)]
    assert sum(verdict_of(each) == "fewer" for each in found) >= 198
    covered = sum(each.sampling_low <= 0.8 <= each.sampling_high for each in found)
    assert covered >= 200 * 0.95 - 2 * math.sqrt(200 * 0.05 * 0.95)


@pytest.mark.parametrize(
    ("true_ratio", "same", "verdict"),
    [
        (0.9, False, "no difference"),  # inside the band of 1.22
        (0.7, False, "fewer"),
        (1.4, False, "more"),
        (0.9, True, "fewer"),  # the band is not for the same program
    ],
)
def test_the_sensors_band_decides_too(true_ratio: float, same: bool, verdict: str) -> None:
    banded = replace(EXACT, pair_ratio=1.22)
    found = compared(Machine(1, 0.005, sensor=banded), (1.0, true_ratio), same=same)
    assert found.programs[1].verdict == verdict


def test_the_stop_sees_the_width_only() -> None:
    """Another ratio with the same noise ends after the same rounds."""
    calm = [ratios(Machine(s, 0.012, 0.0, 0.0), (1.0, 1.0))[0].pairs for s in range(20)]
    assert calm == [ratios(Machine(s, 0.012, 0.0, 0.0), (1.0, 3.0))[0].pairs for s in range(20)]


def test_ends_by_precision_by_rounds_or_by_time() -> None:
    quiet = compared(Machine(1, 1e-4))
    assert (quiet.ended_by, quiet.rounds, quiet.warnings) == ("precision", 5, ())
    noisy = compared(Machine(1, 0.3), terms=Terms(max_rounds=7))
    assert (noisy.ended_by, noisy.rounds, noisy.looks) == ("rounds", 7, 2)
    assert "raise --max-rounds" in noisy.warnings[-1]
    late = compared(Machine(1, 0.3), terms=Terms(max_s=1e-6))
    assert (late.ended_by, late.rounds, late.looks) == ("time", 5, 6)
    assert "raise --max-minutes" in late.warnings[-1]


@pytest.mark.parametrize(
    ("max_rounds", "looks"),
    [
        (5, (5,)),
        (10, (5, 8, 10)),
        (30, LOOKS),
        (31, (*LOOKS, 31)),
        (100, (*LOOKS, 45, 68, 100)),
    ],
)
def test_looks_end_with_the_last_round(max_rounds: int, looks: tuple[int, ...]) -> None:
    assert looks_up_to(max_rounds) == looks


@pytest.mark.parametrize(
    "wrong",
    [
        {"precision_ratio": 0.0},
        {"max_rounds": 4},
        {"max_s": 0.0},
        {"max_s": math.nan},
        {"confidence": 1.0},
        {"seed": -1},
    ],
    ids=str,
)
def test_terms_that_cannot_be_meant(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Terms(**wrong)  # type: ignore[arg-type]


def python(code: str) -> str:
    return shlex.join([sys.executable, "-S", "-c", code])


LITTLE, MUCH = python("sum(range(10**5))"), python("sum(range(10**7))")
SHORT = Terms(max_rounds=5)


@linux
def test_the_command_with_less_work_wins(tmp_path: Path) -> None:
    found = compare_commands([MUCH, LITTLE, MUCH], terms=SHORT, meter="cpu-time")
    assert [each.verdict for each in found.programs[:2]] == ["reference", "fewer"]
    assert [each.same for each in found.programs] == [True, False, True]
    assert [each.measurement.items for each in found.programs] == [5, 5, 5]
    dump(found, tmp_path / "record.json")
    assert load(Comparison, tmp_path / "record.json") == found


@linux
def test_children_of_a_command_are_billed() -> None:
    parent = python(
        f"import os; os.waitpid(os.spawnlp(os.P_NOWAIT, *['sh'] * 2, '-c', {MUCH!r}), 0)"
    )
    found = compare_commands([LITTLE, parent], terms=SHORT, meter="cpu-time")
    assert found.programs[1].verdict == "more"


@linux
def test_warm_up_runs_are_not_counted(tmp_path: Path) -> None:
    log = tmp_path / "log"
    commands = [f"sh -c 'echo {name} >> {log}'" for name in "ab"]
    compare_commands(commands, terms=SHORT, conduct=Conduct(warm_up_runs=2), meter="cpu-time")
    ran = log.read_text().split()
    assert ran[:4] == ["a", "a", "b", "b"]
    assert sorted(ran[4:]) == ["a"] * 5 + ["b"] * 5
    assert all(set(ran[n : n + 2]) == {"a", "b"} for n in range(4, 14, 2))


@linux
def test_a_failing_command_ends_it_or_is_told() -> None:
    commands = [LITTLE, "sh -c 'exit 3'"]
    with pytest.raises(ProgramError, match=r"'exit 3'.* ended with exit code 3"):
        compare_commands(commands, terms=SHORT, meter="cpu-time")
    found = compare_commands(
        commands, terms=SHORT, conduct=Conduct(ignore_failure=True), meter="cpu-time"
    )
    assert "failed in 6 of 6 runs (exit code 3)" in found.warnings[-1]


@pytest.mark.parametrize(
    ("commands", "told"),
    [
        (["true"], "two programs"),
        (["true", "'"], "No closing quotation"),
        (["true", " "], "empty command"),
        (["true", "no-such-command-here"], "command not found"),
    ],
)
def test_commands_that_cannot_be_compared(commands: list[str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        compare_commands(commands, terms=SHORT, meter="cpu-time")


@linux
def test_models_are_known_by_their_content(tmp_path: Path) -> None:
    job = make_job(tmp_path, items=100)
    twin = tmp_path / "twin.onnx"
    twin.write_bytes(job.model.read_bytes())
    found = compare_models([job.model, twin], str(job.data), terms=SHORT, meter="cpu-time")
    assert found.programs[1].same
    assert found.programs[1].name == str(twin)
    assert [len(each.measurement.blocks) for each in found.programs] == [5, 5]
