"""Realistic bundles of the three verdicts; every figure is invented."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from joulewise.core.claim import Check, Claim, Difference, Ledger, Quality, Ratio, Trial
from joulewise.core.energy import Block, Grade, Interval, Measurement, Sensor
from joulewise.core.host import Host
from joulewise.core.recipe import Recipe, RunSettings, Step
from joulewise.core.records import Artifact, Bundle, SplitRecord, WorkloadRecord

AS_FOUND = Recipe(run=RunSettings(runtime="onnxruntime"))
BASELINE = Recipe(run=RunSettings(runtime="onnxruntime", threads=2, spinning=False, graph="all"))
INT8 = Recipe(
    steps=(Step(name="quantize-static", parameters={"bits": 8, "per_channel": True}),),
    run=RunSettings(runtime="openvino", threads=1),
)
DYNAMIC = Recipe(steps=(Step(name="quantize-dynamic"),), run=BASELINE.run)
PRUNED = Recipe(steps=(Step(name="prune", parameters={"ratio": 0.5}),), run=BASELINE.run)
BROKEN = Recipe(run=RunSettings(runtime="openvino", precision="bf16"))
COLLAPSED = Recipe(steps=(Step(name="quantize-static", parameters={"bits": 4}),), run=BASELINE.run)


def make_sensor(grade: Grade = "D") -> Sensor:
    return Sensor(
        name="rapl" if grade == "B" else "cpu-time",
        grade=grade,
        boundary="CPU package" if grade == "B" else "share of the process in the CPU package",
        rails=("package-0",),
        includes_idle=False,
        resolution_j=None,
        update_period_s=0.01,
        low_ratio=0.5,
        high_ratio=2.0,
        pair_ratio=1.08,
        source="Teads 2021, https://engineering.teads.com/, table 2",
    )


def make_measurement(j_per_item: float, grade: Grade = "D") -> Measurement:
    blocks = tuple(
        Block(items=1000, seconds=2.0, reading_j=1000 * j_per_item * wobble)
        for wobble in (0.98, 1.0, 1.02)
    )
    return Measurement(sensor=make_sensor(grade), blocks=blocks, idle_w=None)


def make_ratio(value: float, grade: Grade = "D", width: float = 0.09) -> Ratio:
    return Ratio(
        value=value,
        low=value * (1 - width),
        high=value * (1 + width),
        sampling_low=value * 0.99,
        sampling_high=value * 1.01,
        confidence=0.95,
        pairs=12,
        grade=grade,
        objective="net of idle",
    )


def make_quality(value: float, items: int = 2000) -> Quality:
    return Quality(metric="top1", value=value, items=items, split_digest="5" * 64)


def make_difference(value: float, **changes: object) -> Difference:
    lost = round(20 - min(value, 0) * 2000)
    difference = Difference(
        value=value,
        lower=value - 0.0026,
        upper=value + 0.0026,
        confidence=0.95,
        items=2000,
        gained=20,
        lost=lost,
        changed=25 + lost,
        worst_slice="Shirt",
        worst_slice_value=value - 0.01,
    )
    return replace(difference, **changes)  # type: ignore[arg-type]


def make_trials(grade: Grade = "D", chosen: Recipe = INT8) -> tuple[Trial, ...]:
    def trial(recipe: Recipe, ratio: float, quality: float, reason: str) -> Trial:
        return Trial(
            recipe=recipe,
            state="measured",
            reason=None if recipe == chosen else reason,
            ratio=make_ratio(ratio, grade),
            quality=make_quality(quality),
            difference=make_difference(quality - 0.939),
            measurement=make_measurement(0.00102 * ratio, grade),
            size_bytes=round(3_740_000 * (0.26 if recipe.steps else 1)),
            cost_j=Interval(low=50, central=100, high=200),
            seconds=31.0,
        )

    return (
        trial(AS_FOUND, 1.9, 0.939, "threads spin while they wait"),
        trial(BASELINE, 1.0, 0.939, "a changed model needs fewer joules"),
        trial(INT8, 0.402, 0.9375, "0.402 times the joules, but not proved"),
        trial(DYNAMIC, 1.21, 0.9385, "no fast kernel for dynamic int8 on this CPU"),
        replace(
            trial(PRUNED, 0.61, 0.921, "loses 1.80 pp, more than the margin of 0.50 pp"),
            state="rejected",
        ),
        replace(trial(COLLAPSED, 0.35, 0.10, "loses 83.90 pp"), state="rejected"),
        Trial(recipe=BROKEN, state="failed", reason="the CPU has no bf16 instructions"),
    )


def make_claim(
    candidate: Recipe, baseline: Recipe, *, ratio: float, holds: bool = True, grade: Grade = "D"
) -> Claim:
    lossless = candidate.lossless
    loss = 0.0 if lossless else -0.0015
    same = {"gained": 0, "lost": 0, "changed": 0, "worst_slice": None, "worst_slice_value": None}
    return Claim(
        candidate=candidate,
        baseline=baseline,
        ratio=make_ratio(ratio, grade),
        ratio_as_found=make_ratio(ratio if baseline == AS_FOUND else ratio / 1.9, grade),
        quality_baseline=make_quality(0.939),
        quality_candidate=make_quality(0.939 + loss),
        difference=make_difference(loss, **(same if lossless else {})),
        margin=0.005,
        checks=(
            Check(name="energy", holds=True, detail="the whole interval is below 1"),
            Check(
                name="quality",
                holds=holds,
                detail="lower bound -0.41 pp against a margin of 0.50 pp",
            ),
        ),
        measurements={
            "baseline": make_measurement(0.00102, grade),
            "candidate": make_measurement(0.00102 * ratio, grade),
        },
    )


def make_ledger(verdict: str, grade: Grade = "D") -> Ledger:
    return Ledger(
        stages_j={
            "baseline": Interval(low=300, central=600, high=1200),
            "calibration": Interval(low=60, central=120, high=240),
            "trials": Interval(low=1500, central=3000, high=6000),
            "proof": Interval(low=200, central=400, high=800),
        },
        seconds={"baseline": 120.0, "calibration": 21.0, "trials": 640.0, "proof": 95.0},
        grade=grade,
        break_even_items=None
        if verdict == "keep"
        else Interval(low=3_100_000, central=6_754_321, high=15_000_000),
    )


def make_host() -> Host:
    return Host(
        cpu="AMD EPYC 7B13",
        vendor="AuthenticAMD",
        family=25,
        model=1,
        logical_cpus=2,
        instruction_sets=("avx2",),
        memory_bytes=8_000_000_000,
        hypervisor=True,
        system="Linux 6.1.0",
        architecture="x86_64",
    )


def make_workload(
    model: str = "models/fashion_mnist.onnx", classes: Sequence[str] = ("Shirt", "Bag")
) -> WorkloadRecord:
    return WorkloadRecord(
        model=model,
        data="data/fashion_mnist.npz",
        model_artifact=Artifact(
            files={"fashion_mnist.onnx": "a" * 64}, format="onnx", size_bytes=3_740_000
        ),
        metric="top1",
        splits={
            "calibrate": SplitRecord(items=500, digest="1" * 64),
            "search": SplitRecord(items=2000, digest="5" * 64),
            "hold-out": SplitRecord(items=2000, digest="3" * 64),
        },
        batch_items=32,
        expected_items=100_000_000,
        classes=tuple(classes),
    )


_WINNERS = {"cheaper": INT8, "rerun": BASELINE, "keep": AS_FOUND}
_SUMMARIES = {
    "cheaper": "Static int8 does the same job for fewer joules.",
    "rerun": "The original needs fewer joules when its threads do not spin.",
    "keep": "no candidate was cheaper with proof",
}


def make_bundle(verdict: str = "cheaper", *, grade: Grade = "D", **changes: object) -> Bundle:
    """Return a bundle of one verdict; `changes` replace whole fields of it."""
    rerun = make_claim(BASELINE, AS_FOUND, ratio=0.53, grade=grade)
    strongest = AS_FOUND if verdict == "keep" else BASELINE
    int8 = make_claim(INT8, strongest, ratio=0.402, grade=grade, holds=verdict == "cheaper")
    winner = _WINNERS[verdict]
    openvino = verdict == "cheaper"
    files = {"model/model.xml": "b" * 64, "model/model.bin": "c" * 64}
    bundle = Bundle(
        created="2025-11-03T10:20:30Z",
        verdict=verdict,
        summary=_SUMMARIES[verdict],
        workload=make_workload(),
        host=make_host(),
        packages={"joulewise": "0.1.0", "onnxruntime": "1.20.1", "openvino": "2025.0.0"},
        seed=0,
        margin=0.005,
        confidence=0.95,
        smallest_margin=0.0015,
        recipe=winner,
        artifact=Artifact(
            files=files if openvino else {"model/model.onnx": "a" * 64},
            format="openvino" if openvino else "onnx",
            size_bytes=990_000 if openvino else 3_740_000,
        ),
        as_found=AS_FOUND,
        baseline=strongest,
        anchor=BASELINE,
        claims=(int8,) if verdict == "keep" else (rerun, int8),
        trials=make_trials(grade, winner),
        ledger=make_ledger(verdict, grade),
        warnings=("the clock changed by 12 %; close other programs and measure again",),
    )
    return replace(bundle, **changes)  # type: ignore[arg-type]
