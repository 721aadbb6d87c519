"""Jobs other than classes, from the command line to the record: regression and embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from joulewise.bundle import contest_of
from joulewise.compress.cascade import Cascade
from joulewise.compress.early_exit import EarlyExit
from joulewise.compress.material import Material
from joulewise.compression import Compressed
from joulewise.core.errors import PassError, UsageError
from joulewise.core.records import Bundle, load
from joulewise.core.settings import Settings, Usage
from joulewise.pipeline import check_quality, quality_words
from joulewise.report.card import render_card
from joulewise.report.verdict import verdict_lines
from joulewise.testing.models import vector_store
from joulewise.workload.judge import Judge
from joulewise.workload.task import Task
from tests.cli.program import Done, fast, only_line
from tests.models import Job, make_embeddings, make_job, make_language, make_regression
from tests.report.bundles import make_bundle, make_workload

Change = Callable[[dict[str, np.ndarray]], None]
QUICK = ("--margin", 5, "--meter", "cpu-time", "-o")


@pytest.fixture(scope="module")
def regression(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return make_regression(tmp_path_factory.mktemp("regression"), lessons=256)


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return make_embeddings(tmp_path_factory.mktemp("embeddings"))


def compress(job: Job, recipe: str, output: Path, *more: object) -> Done:
    return fast(
        "compress", job.model, "--recipe", recipe, "--data", job.data, *QUICK, output, *more
    )


def record(output: Path) -> Compressed:
    return load(Compressed, output / "joulewise-compressed.json")


def errors(job: Job, model: Path) -> npt.NDArray[np.float64]:
    with np.load(job.data) as items:
        x, y = items["x"], items["y"]
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.asarray(np.abs(session.run(None, {"x": x})[0][:, 0] - y))


def test_regression_is_optimized_and_tells_its_tolerance(regression: Job, tmp_path: Path) -> None:
    done = fast(
        "optimize", regression.model, "--data", regression.data, "--task", "values", "--lossless",
        "--runtime", "onnxruntime", *QUICK, tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    workload = load(Bundle, tmp_path / "out" / "joulewise.json").workload
    assert workload.metric == "within"
    assert workload.tolerance is not None
    words = f"within {workload.tolerance:.3g} of the label"
    assert f"quality: {words}, the original's median error" in done.stderr
    for page in ("report.html", "README.md"):
        assert words in (tmp_path / "out" / page).read_text()
    right = errors(regression, regression.model) <= workload.tolerance
    assert right.mean() == pytest.approx(0.5, abs=0.05)  # the median of the search items


def test_regressor_learns_from_labels_and_is_tested_with_the_tolerance(
    regression: Job, tmp_path: Path
) -> None:
    done = compress(
        regression, "distill(epochs=4, label_weight=1.0, batch_items=16)", tmp_path / "out",
        "--train", regression.data.parent / "lessons.npz", "--tolerance", 2,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "within 2 of the label" in done.stdout
    found = record(tmp_path / "out")
    assert (found.workload.metric, found.workload.tolerance) == ("within", 2.0)
    taught = errors(regression, tmp_path / "out" / found.artifact.main)
    before = errors(regression, regression.model)
    assert found.claim.quality_candidate.value == pytest.approx((taught <= 2).mean(), abs=0.06)
    assert found.claim.quality_baseline.value == pytest.approx((before <= 2).mean(), abs=0.06)
    assert not np.array_equal(taught, before)
    assert np.mean(taught**2) < 1.3 * np.mean(before**2)


def test_embeddings_are_judged_by_their_neighbours(embeddings: Job, tmp_path: Path) -> None:
    """Their length of 1 says what they are; int8 in 4 dimensions mistakes some neighbours."""
    done = compress(embeddings, "quantize(static)", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "same nearest neighbour as the original 100.00 % -> " in done.stdout
    claim = record(tmp_path / "out").claim
    assert record(tmp_path / "out").workload.metric == "neighbour"
    assert claim.difference.gained == 0
    assert claim.difference.lost == claim.difference.changed > 0
    assert not claim.holds


def nan_label(arrays: dict[str, np.ndarray]) -> None:
    arrays["y"][3] = np.nan


def classes(arrays: dict[str, np.ndarray]) -> None:
    arrays["y"] = np.zeros(800, np.int64)


@pytest.mark.parametrize(
    ("change", "options", "says"),
    [
        (nan_label, (), "have 1 NaN or infinite values, the first in item 3"),
        (classes, ("--tolerance", 1), "there are no labels that are values"),
    ],
    ids=["nan", "classes"],
)
def test_what_does_not_fit_is_one_line(
    regression: Job, tmp_path: Path, change: Change, options: tuple[object, ...], says: str
) -> None:
    with np.load(regression.data) as items:
        arrays = dict(items)
    change(arrays)
    np.savez(tmp_path / "changed.npz", **arrays)
    job = Job(model=regression.model, data=tmp_path / "changed.npz")
    done = compress(job, "quantize(static)", tmp_path / "out", "--quiet", *options)
    assert says in only_line(done)
    assert {path.name for path in tmp_path.iterdir()} == {"changed.npz"}


def test_a_bundle_is_verified_with_the_metric_and_tolerance_that_it_names() -> None:
    bundle = make_bundle()
    within = replace(make_workload(), metric="within", tolerance=0.42)
    claims = tuple(
        replace(
            claim,
            quality_candidate=replace(claim.quality_candidate, metric="within", tolerance=0.42),
        )
        for claim in bundle.claims
    )
    told = replace(bundle, workload=within, claims=claims)
    assert contest_of(Path("bundle"), told).task == Task(metric="within", tolerance=0.42)
    assert "within 0.42 of the label" in verdict_lines(told)[2]
    assert "- quality: within 0.42 of the label" in render_card(told)


@pytest.mark.parametrize("change", [Cascade(), EarlyExit()])
def test_values_do_not_know_how_sure_they_are(
    change: Cascade | EarlyExit, regression: Job, tmp_path: Path
) -> None:
    material = Material(calibrate=vector_store(tmp_path / "items", 8), values=True)
    with pytest.raises(PassError, match="only models that give a score per class"):
        change.apply(regression.model, material, tmp_path)


def f1_by_hand(job: Job, model: Path) -> float:
    """Return the F1 score over all items, the class named `k` at a time."""
    with np.load(job.data) as items:
        x, y = items["x"], items["y"]
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    chosen = np.argmax(session.run(None, {"x": x})[0], axis=1)
    found = []
    for k in np.unique(y):
        hits = np.sum((chosen == k) & (y == k))
        found.append(2 * hits / (np.sum(chosen == k) + np.sum(y == k)))
    return float(np.mean(found))


@pytest.fixture(scope="module")
def by_f1(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Path, Done]:
    """A classifier some of whose labels are not its answers, and the bundle made of it."""
    folder = tmp_path_factory.mktemp("by_f1")
    job = make_job(folder / "job", flipped_ratio=0.1)
    done = fast(
        "optimize", job.model, "--data", job.data, "--metric", "macro_f1", "--lossless",
        "--runtime", "onnxruntime", *QUICK, folder / "out",
    )  # fmt: skip
    return job, folder / "out", done


def test_f1_is_optimized_told_and_kept(by_f1: tuple[Job, Path, Done]) -> None:
    job, output, done = by_f1
    assert done.returncode == 0, done.stderr
    assert "quality: F1 score (mean over classes)" in done.stderr
    bundle = load(Bundle, output / "joulewise.json")
    assert bundle.workload.metric == "macro_f1"
    quality = bundle.trials[0].quality
    assert quality is not None
    assert quality.value == pytest.approx(f1_by_hand(job, job.model), abs=0.03)
    assert "F1 score (mean over classes)" in (output / "report.html").read_text()
    if bundle.verdict != "keep":
        assert contest_of(output, bundle).task == Task(metric="macro_f1")


@pytest.mark.slow
def test_f1_is_verified_as_itself(by_f1: tuple[Job, Path, Done]) -> None:
    _, output, _ = by_f1
    bundle = load(Bundle, output / "joulewise.json")
    done = fast("verify", output, "--meter", "cpu-time", "--quiet")
    assert done.returncode in (0, 3), done.stderr  # joules of so small a model are not always sure
    assert bundle.verdict == "keep" or "ok    quality: difference +0.00 points" in done.stdout


def test_a_language_model_is_tested_by_its_perplexity(tmp_path: Path) -> None:
    job = make_language(tmp_path / "job")
    done = compress(job, "quantize(dynamic)", tmp_path / "out", "--metric", "perplexity")
    assert done.returncode == 0, done.stderr
    claim = record(tmp_path / "out").claim
    with np.load(job.data) as items:
        session = onnxruntime.InferenceSession(job.model, providers=["CPUExecutionProvider"])
        scores = np.asarray(session.run(None, {"ids": items["ids"]})[0], np.float64)
        counted = items["y"] >= 0
        right = np.take_along_axis(scores, np.maximum(items["y"], 0)[..., None], -1)[..., 0]
    losses = np.log(np.exp(scores).sum(axis=-1)) - right
    perplexity = 1 / claim.quality_baseline.value
    assert perplexity == pytest.approx(np.exp(losses[counted].mean()), rel=0.03)
    assert f"perplexity {perplexity:.4g} -> " in done.stdout
    relative = np.log(claim.quality_candidate.value / claim.quality_baseline.value)
    assert claim.difference.value == pytest.approx(relative)
    assert claim.difference.divergence_nats is not None
    assert claim.difference.agreement_ratio is not None
    assert 0.5 < claim.difference.agreement_ratio <= 1


def test_what_is_taken_for_granted_is_told_unless_it_was_asked_for() -> None:
    task = Task(metric="agreement")
    told = quality_words(task, Settings())
    assert told.endswith("taken for scores of classes (--task vectors or values says otherwise)")
    assert quality_words(task, Settings(task="classes")) == "quality: agreement with the original"
    assert quality_words(Task(metric="top1"), Settings()) == "quality: accuracy"


def test_a_least_quality_is_of_items_that_are_right() -> None:
    judge = Judge(
        task=Task(metric="correlation"), original=[np.arange(4.0)], labels=None,
        targets=np.arange(4.0), split_digest="d", confidence=0.95,
    )  # fmt: skip
    check_quality(judge, Usage())
    with pytest.raises(UsageError, match="--min-quality counts items that are right"):
        check_quality(judge, Usage(quality=0.9))


def test_items_that_belong_together_are_judged_together(tmp_path: Path) -> None:
    job = make_job(tmp_path, flipped_ratio=0.1)
    with np.load(job.data) as items:
        arrays = dict(items)
    named = tmp_path / "named.npz"
    np.savez(named, **arrays, patient=[f"patient {n // 5}" for n in range(len(arrays["x"]))])
    done = compress(
        Job(model=job.model, data=named), "static_int8", tmp_path / "out", "--cluster", "patient"
    )
    assert done.returncode == 0, done.stderr
    claim = record(tmp_path / "out").claim
    assert claim.difference.clusters == 189  # of 300: 30 calibrate, a third of the rest searches
    assert claim.difference.items == 945
    assert claim.difference.counts is None
    assert "of 945 answers changed, of 189 clusters" in done.stdout
