"""The whole chain on a tiny model: a job in, a bundle out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import joulewise
from joulewise.core.claim import Trial
from joulewise.core.recipe import Recipe
from joulewise.core.records import Bundle, digest_file, load
from joulewise.report.explain import explain_lines
from tests.models import Job, make_job, shorten_plans

SETTINGS = joulewise.Settings(
    margin=0.05, runtimes=("onnxruntime",), meter="cpu-time", lossless_only=True
)
SUPPLY = joulewise.supply("DE", pue=1.2, price=0.25, currency="EUR")


class Recorder:
    """Progress that is kept."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.begun: list[str] = []
        self.finished: list[Trial] = []

    def part(self, done: float, words: str) -> None:
        raise AssertionError(f"no step here reports {words} at {done}")

    def stage(self, text: str) -> None:
        self.stages.append(text)

    def trial(self, number: int, total: int, recipe: Recipe, trial: Trial | None) -> None:
        assert 1 <= number <= total
        if trial is None:
            self.begun.append(recipe.key)
        else:
            self.finished.append(trial)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return make_job(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def progress() -> Recorder:
    return Recorder()


@pytest.fixture(scope="module")
def bundle(job: Job, progress: Recorder) -> Iterator[Bundle]:
    with pytest.MonkeyPatch.context() as patch:
        shorten_plans(patch)
        yield joulewise.optimize(
            job.model,
            str(job.data),
            job.model.parent / "out",
            settings=SETTINGS,
            supply=SUPPLY,
            explain=True,
            progress=progress,
        )


def test_footprints_are_of_the_search_and_of_a_million_items(bundle: Bundle) -> None:
    spent = bundle.footprints["search"]
    assert spent == SUPPLY.footprint(bundle.ledger.total_j)
    million = bundle.footprints["million inferences"]
    assert million.carbon is not None
    assert million.money is not None
    assert million.money.price.currency == "EUR"
    found = [t.measurement for t in bundle.trials if t.recipe == bundle.recipe and t.measurement]
    per_item = found[0].net_j_per_item
    assert per_item is not None
    assert 0.3 < million.energy_j.central / (1e6 * per_item.central) < 3  # measured twice
    assert not any("CO2" in part for claim in bundle.claims for part in [repr(claim)])


@pytest.fixture(scope="module")
def out(job: Job, bundle: Bundle) -> Path:
    assert bundle.schema
    return job.model.parent / "out"


def test_bundle_has_its_files_and_nothing_else_is_left(out: Path, job: Job) -> None:
    names = {path.name for path in out.iterdir()}
    assert names == {
        "README.md", "evidence", "joulewise.json", "model", "report.html", "study.db",
    }  # fmt: skip
    assert {path.name for path in out.parent.iterdir()} == {"out", job.model.name, job.data.name}


def test_record_on_disk_is_the_one_returned(out: Path, bundle: Bundle) -> None:
    assert load(Bundle, out / "joulewise.json") == bundle


def test_verdict_agrees_with_claims(bundle: Bundle) -> None:
    assert bundle.verdict in {"keep", "rerun"}  # nothing but the way of running was changed
    if bundle.verdict == "keep":
        assert bundle.recipe == bundle.as_found
        assert not any(claim.holds for claim in bundle.claims)
    else:
        claim = bundle.claims[-1]
        assert claim.holds
        assert claim.candidate == bundle.recipe
        assert bundle.recipe.lossless
        assert claim.ratio.high < 1
        assert claim.difference.value == 0


def test_trials_are_told_once_and_as_found_comes_first(bundle: Bundle, progress: Recorder) -> None:
    assert [trial.recipe for trial in progress.finished] == [t.recipe for t in bundle.trials]
    assert progress.begun == [trial.recipe.key for trial in bundle.trials]
    assert bundle.trials[0].recipe == bundle.as_found
    losers = [trial for trial in bundle.trials if trial.recipe != bundle.recipe]
    assert all(trial.reason for trial in losers)


def test_every_joule_of_the_search_is_billed(bundle: Bundle) -> None:
    causes = {"preparation", "baseline", "explanation"} | ({"proof"} if bundle.claims else set())
    assert set(bundle.ledger.stages_j) == causes
    assert bundle.ledger.total_j.low > 0
    tried = sum(trial.cost_j.central for trial in bundle.trials if trial.cost_j)
    assert bundle.ledger.stages_j["baseline"].central == pytest.approx(tried)


def test_time_of_the_original_is_explained(out: Path, bundle: Bundle) -> None:
    (profile,) = [trial.profile for trial in bundle.trials if trial.recipe == bundle.baseline]
    assert profile is not None
    assert any(operator.kind in {"Conv", "FusedConv"} for operator in profile.operators)
    assert profile.work is not None
    assert profile.work.mac == 6 * 8 * 8 * 9 + 96 * 4  # of one item
    assert explain_lines(bundle)
    assert "Where the time goes" in (out / "report.html").read_text()


def test_digests_are_those_of_the_files(out: Path, bundle: Bundle) -> None:
    for name, digest in bundle.artifact.files.items():
        assert digest_file(out / name) == digest


def test_model_answers_with_its_plain_runtime(out: Path, bundle: Bundle, job: Job) -> None:
    with np.load(job.data) as items:
        x, labels = items["x"][:200], items["y"][:200]
    session = onnxruntime.InferenceSession(
        out / bundle.artifact.main, providers=["CPUExecutionProvider"]
    )
    scores = session.run(None, {"x": x})[0]
    assert np.array_equal(np.argmax(scores, axis=1), labels)


def test_second_run_to_the_same_place_is_refused(out: Path, job: Job) -> None:
    with pytest.raises(joulewise.JoulewiseError, match="already exists"):
        joulewise.optimize(job.model, str(job.data), out, settings=SETTINGS)
