from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from scipy import stats

from joulewise.core.claim import Check, Claim, Difference, Quality, SliceLoss
from joulewise.core.energy import Measurement, Sensor
from joulewise.core.host import read_host
from joulewise.core.recipe import Recipe, RunSettings
from joulewise.core.settings import Settings, Usage
from joulewise.meter.interleave import Plan
from joulewise.meter.table import meter_opener
from joulewise.proof.prove import Contest, checks_of, limits_of, prove
from joulewise.workload.task import Task
from joulewise.workload.workload import open_workload
from tests.models import Job, make_job
from tests.trials import ratio

AS_FOUND = Recipe(run=RunSettings(runtime="onnxruntime", threads=1))
CONTEST = Contest(
    original=Path("a.onnx"),
    artifact=Path("a.onnx"),
    candidate=AS_FOUND,
    baseline=AS_FOUND,
    as_found=AS_FOUND,
    task=Task(metric="top1"),
    classes=(),
    usage=Usage(),
    size_bytes=1000,
    margin=0.005,
    confidence=0.95,
)
QUALITY = Quality(metric="top1", value=0.97, items=100, split_digest="d")
SENSOR = Sensor(
    name="fake",
    grade="D",
    boundary="none",
    rails=(),
    includes_idle=False,
    resolution_j=None,
    update_period_s=None,
    low_ratio=1.0,
    high_ratio=1.0,
    pair_ratio=1.0,
    source="invented",
)


def difference(lower: float) -> Difference:
    return Difference(
        value=lower + 0.001,
        lower=lower,
        upper=0.01,
        confidence=0.95,
        items=1000,
        gained=0,
        lost=0,
        changed=0,
    )


def checks(
    *,
    high: float = 0.9,
    lower: float = -0.001,
    limit_s: float | None = None,
    p95_s: float | None = None,
) -> dict[str, Check]:
    """Return the checks of a claim that holds unless something is changed."""
    found = checks_of(
        replace(CONTEST, usage=Usage(latency_p95_s=limit_s)),
        replace(ratio(0.8), high=high),
        difference(lower),
        Measurement(sensor=SENSOR, blocks=(), idle_w=None, latency_p95_s=p95_s),
    )
    return {check.name: check for check in found}


def holds(found: dict[str, Check]) -> dict[str, bool]:
    return {name: check.holds for name, check in found.items()}


def test_claim_holds() -> None:
    assert holds(checks()) == {"energy": True, "quality": True}


@pytest.mark.parametrize("high", [1.0, 1.2, float("nan")])
def test_interval_that_reaches_one_fails_energy_only(high: float) -> None:
    assert holds(checks(high=high)) == {"energy": False, "quality": True}


@pytest.mark.parametrize("lower", [-0.005, -0.2, float("nan")])
def test_bound_at_the_margin_or_below_fails_quality_only(lower: float) -> None:
    assert holds(checks(lower=lower)) == {"energy": True, "quality": False}


@pytest.mark.parametrize(("lower", "kept"), [(-0.004, True), (-0.005, False), (0.1, True)])
def test_the_bound_alone_decides_where_no_item_is_right_or_wrong(lower: float, kept: bool) -> None:
    found = replace(difference(lower), gained=None, lost=None, error=0.001)
    checks = checks_of(
        replace(CONTEST, task=Task(metric="perplexity"), slice_margin=0.05), ratio(0.8), found,
        Measurement(sensor=SENSOR, blocks=(), idle_w=None),
    )  # fmt: skip
    assert {check.name: check.holds for check in checks} == {"energy": True, "quality": kept}


@pytest.mark.parametrize(
    ("p95_s", "kept"), [(0.009, True), (0.01, True), (0.0101, False), (None, False)]
)
def test_latency_is_checked_where_there_is_a_ceiling(p95_s: float | None, kept: bool) -> None:
    assert holds(checks(limit_s=0.01, p95_s=p95_s))["latency"] is kept


@pytest.mark.parametrize(("largest", "kept"), [(1000, True), (999, False)])
def test_size_is_checked_where_there_is_a_ceiling(largest: int, kept: bool) -> None:
    (check,) = limits_of(replace(CONTEST, usage=Usage(size_bytes=largest)), QUALITY)
    assert (check.name, check.holds) == ("size", kept)


@pytest.mark.parametrize(("least", "kept"), [(0.9, True), (0.97, False), (0.98, False)])
def test_least_quality_is_certain(least: float, kept: bool) -> None:
    """Of 100 items 97 are right: with 95 % confidence that is above 92.4 % (exact binomial)."""
    (check,) = limits_of(replace(CONTEST, usage=Usage(quality=least)), QUALITY)
    assert (check.name, check.holds) == ("least quality", kept)
    exact = stats.binomtest(97, 100, alternative="greater").proportion_ci(0.95).low
    assert f"97.00 %, bound {100 * exact:.2f}, must not lie below {100 * least:g}" == check.detail


def test_without_limits_there_are_none() -> None:
    assert limits_of(CONTEST, QUALITY) == ()


@pytest.mark.parametrize(("lost", "kept"), [(0, True), (30, False)])
def test_slices_are_checked_where_they_count(lost: int, kept: bool) -> None:
    harmed = (SliceLoss(name="coat", items=40, gained=2, lost=lost),) if lost else ()
    (check,) = [
        check
        for check in checks_of(
            replace(CONTEST, slice_margin=0.05),
            ratio(0.8),
            replace(difference(-0.001), harmed=harmed),
            Measurement(sensor=SENSOR, blocks=(), idle_w=None),
        )
        if check.name == "slices"
    ]
    assert check.holds is kept
    assert check.detail == (
        "none certainly loses more than 5 points"
        if kept
        else "coat -70.0 points of 40 items; none may certainly lose more than 5"
    )


@pytest.mark.parametrize("by_column", [False, True])
def test_a_model_that_forgot_one_rare_class_is_refused(tmp_path: Path, by_column: bool) -> None:
    """The average is within the margin, so that only the slices tell."""
    job = make_job(tmp_path / "job", items=3000)
    with np.load(job.data) as archive:
        x, y = archive["x"], archive["y"]
    rare = np.flatnonzero(y == 3)[60:]
    x, y = np.delete(x, rare, axis=0), np.delete(y, rare)
    arrays = {"x": x, "y": y}
    if by_column:
        arrays["light"] = np.where(y == 3, "dark", "bright")
    np.savez(job.data, **arrays)
    settings = Settings(margin=0.05, slice_name="light" if by_column else None)
    workload = open_workload(job.model, str(job.data), Usage(), settings, tmp_path / "data")
    test = replace(
        CONTEST,
        original=job.model,
        artifact=forgets(job.model, 3, tmp_path / "forgets.onnx"),
        margin=settings.margin,
        slice_names=workload.slice_names,
        slice_margin=settings.slice_margin,
    )
    opener, plan = meter_opener("cpu-time", read_host()), Plan(rounds=2, block_s=0.02)
    claim = prove(test, workload.hold_out, opener, plan, tmp_path / "proof")
    found = {check.name: check for check in claim.checks}
    assert found["quality"].holds
    assert not found["slices"].holds
    assert found["slices"].detail.startswith("dark -100.0" if by_column else "3 -100.0")
    assert not claim.holds


def forgets(model: Path, number: int, target: Path) -> Path:
    """Write a classifier that never says one of its classes."""
    graph = onnx.load(model)
    (offset,) = (x for x in graph.graph.initializer if x.name == "offset")
    values = onnx.numpy_helper.to_array(offset).copy()
    values[number] = -1e6
    offset.CopyFrom(onnx.numpy_helper.from_array(values, "offset"))
    onnx.save(graph, target)
    return target


def test_details_give_the_figures() -> None:
    found = checks(high=0.91, lower=-0.0012, limit_s=0.01, p95_s=0.012)
    assert "interval 0.784 to 0.910" in found["energy"].detail
    assert "bound -0.12, must lie above -0.5" in found["quality"].detail
    assert found["latency"].detail == "p95 12.000 ms, must not exceed 10 ms"


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return make_job(tmp_path_factory.mktemp("job"), items=300)


@pytest.fixture(scope="module")
def proof(job: Job) -> Claim:
    """Prove the model against itself."""
    folder = job.model.parent
    workload = open_workload(
        job.model, str(job.data), Usage(), Settings(margin=0.05), folder / "data"
    )
    test = replace(CONTEST, original=job.model, artifact=job.model, margin=0.05)
    opener = meter_opener("cpu-time", read_host())
    plan = Plan(rounds=8, block_s=0.04, warm_up_s=0.1)
    return prove(test, workload.hold_out, opener, plan, folder / "proof")


def test_model_against_itself_answers_the_same(proof: Claim) -> None:
    claim = proof
    assert claim.quality_baseline == claim.quality_candidate
    assert claim.quality_baseline.value == 1.0
    assert claim.difference.value == 0
    assert (claim.difference.gained, claim.difference.lost, claim.difference.changed) == (0, 0, 0)


def test_model_against_itself_wins_nothing(proof: Claim) -> None:
    claim = proof
    assert claim.ratio.low < 1 < claim.ratio.high
    assert claim.ratio_as_found.low < 1 < claim.ratio_as_found.high
    assert [check.name for check in claim.checks if not check.holds] == ["energy"]
    assert not claim.holds


def test_every_role_is_measured_alike(proof: Claim) -> None:
    assert set(proof.measurements) == {"candidate", "baseline", "as found"}
    assert {len(taken.blocks) for taken in proof.measurements.values()} == {8}
    assert proof.ratio.pairs == 8
    assert proof.ratio.grade == "D"
