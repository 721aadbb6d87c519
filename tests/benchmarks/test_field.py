"""The side-by-side: real optimisers on a tiny model, what fails, and the page of the records."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.field.__main__ import lines_of, main, short
from benchmarks.field.environments import EnvironmentFailedError, python_of
from benchmarks.field.lanes import cpus, run_at_once
from benchmarks.field.page import (
    PAGE,
    best_peer,
    in_short,
    page,
    place_of,
    plot,
    plot_scaling,
    records,
)
from benchmarks.field.run import OURS, Entry, Record, _plain, make, measure, spent_until
from benchmarks.field.table import ENVIRONMENTS, NOT_AHEAD, PEERS, SHORT, WORKLOADS, Peer, Workload
from joulewise.core.errors import InputError
from joulewise.core.records import dump, load
from joulewise.core.settings import Settings
from joulewise.meter.interleave import Plan
from tests.models import make_job, shorten_plans
from tests.report.bundles import make_bundle

ROOT = Path(__file__).parents[2]
BRIEF = Plan(rounds=4, block_s=0.05, warm_up_s=0.1)
RUN = ("onnxruntime", "onnxruntime-static", "openvino", "nncf")


def here(name: str, _requirements: Sequence[str]) -> Path:
    """Take this environment, in which they are installed too."""
    if name == "nowhere":
        raise EnvironmentFailedError("cannot install it: ERROR: no matching distribution")
    return Path(sys.executable)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("field")


@pytest.fixture(scope="module")
def workload(folder: Path) -> Workload:
    job = make_job(folder / "job")
    settings = Settings(margin=0.05, meter="cpu-time", proposals=0, runtimes=("onnxruntime",))
    return Workload(title="tiny", model=lambda: job.model, data=str(job.data), settings=settings)


@pytest.fixture(scope="module")
def record(folder: Path, workload: Workload) -> Record:
    peers = {name: PEERS[name] for name in RUN} | {
        "gone": replace(PEERS["nncf"], environment="nowhere"),
        "broken": replace(PEERS["nncf"], module="no_such_module"),
    }
    with pytest.MonkeyPatch.context() as patch:
        shorten_plans(patch)
        patch.setattr("benchmarks.field.run.ENVIRONMENTS", {**ENVIRONMENTS, "nowhere": ()})
        return measure("tiny", workload, peers, folder / "made", lambda _: None, BRIEF, here)


@pytest.mark.slow
def test_all_are_judged_and_measured_alike(record: Record, tmp_path: Path) -> None:
    found = {entry.peer: entry for entry in record.entries}
    assert list(found) == [OURS, *RUN, "gone", "broken"]
    for name in (OURS, *RUN):
        entry = found[name]
        assert entry.state == "measured", entry.reason
        assert entry.ratio is not None
        assert entry.difference is not None
        assert entry.difference.items == record.held_out
        assert entry.seconds is not None
        assert (entry.ours_ratio is None) == (name == OURS)
    plain = found["onnxruntime"]
    assert plain.difference is not None
    assert plain.difference.changed == 0
    assert plain.ratio is not None
    assert plain.ratio.low < 1.3
    assert found["nncf"].versions.keys() == {"nncf", "openvino"}
    assert found["gone"].reason == "cannot install it: ERROR: no matching distribution"
    assert "no_such_module" in str(found["broken"].reason)
    assert record.recipe in [trial.recipe for trial in record.trials]
    assert all(trial.reason for trial in record.trials if trial.recipe != record.recipe)
    assert not any(trial.measurement or trial.profile for trial in record.trials)
    dump(record, tmp_path / "field-tiny.json")
    assert load(Record, tmp_path / "field-tiny.json") == record
    words = page([record])
    assert all(entry.title in words for entry in record.entries)
    assert "<svg" in plot([record])
    assert len(lines_of(record)) == 1 + len(record.entries)


@pytest.mark.slow
@pytest.mark.usefixtures("record")
def test_a_bundle_of_other_items_is_refused(folder: Path, workload: Workload) -> None:
    other = replace(workload, settings=replace(workload.settings, seed=5))
    with pytest.raises(InputError, match="is of other items; delete it"):
        measure("tiny", other, {}, folder / "made", lambda _: None, BRIEF, here)


@pytest.mark.slow
def test_what_was_made_is_not_made_again(record: Record, folder: Path, workload: Workload) -> None:
    """Even by a module that is gone; with other terms it is asked again."""
    gone = {name: replace(PEERS[name], module="no_such_module") for name in RUN[:2]}
    again = make(workload, gone, folder / "made", lambda _: None, here).entries
    for name in gone:
        (before,) = (entry for entry in record.entries if entry.peer == name)
        assert (again[name].state, again[name].seconds) == ("measured", before.seconds)
    other = replace(workload, settings=replace(workload.settings, epochs=7))
    changed = make(other, gone, folder / "made", lambda _: None, here).entries
    assert all(changed[name].state == "failed" for name in gone)


def test_the_cost_until_as_good_counts_what_was_tried_before() -> None:
    bundle = make_bundle()
    ratios = [trial.ratio.value for trial in bundle.trials if trial.ratio is not None]
    (baseline,) = (t.ratio for t in bundle.trials if t.recipe == bundle.baseline)
    assert baseline is not None
    first = spent_until(bundle, 1e6)
    assert first is not None
    assert first.seconds == bundle.trials[0].seconds
    best = min(t.ratio.value for t in bundle.trials if t.state == "measured" and t.ratio)
    later = spent_until(bundle, best / baseline.value * 1.0001)
    assert later is not None
    assert later.seconds > first.seconds
    assert later.cost_j.central > first.cost_j.central
    assert spent_until(bundle, 0.9 * min(ratios) / baseline.value) is None


def test_an_environment_that_cannot_be_made_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(EnvironmentFailedError, match=r"cannot install .*no-such-package"):
        python_of("nothing", ["./no-such-package-of-ours"])
    assert not list(tmp_path.rglob("whole"))


def test_a_reason_names_no_folder_of_this_machine() -> None:
    text = "cannot open /home/me/made/model.onnx: 3/4 of /x are and/or lost"
    assert _plain(ValueError(text)) == "cannot open model.onnx: 3/4 of /x are and/or lost"


def test_a_workload_that_is_unknown_says_which_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["no-such-workload"])
    assert "there is no workload 'no-such-workload'; choose from: demo" in capsys.readouterr().err


def test_vectors_are_judged_by_their_neighbours() -> None:
    """Unasked, the largest of their numbers would be taken for a class."""
    assert WORKLOADS["sentences"].settings.kind == "vectors"


def test_what_is_only_made_needs_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["demo", "--make"])
    assert "--make needs a --folder" in capsys.readouterr().err


@pytest.mark.skipif(not cpus(), reason="this system gives no CPUs out")
def test_what_runs_at_once_shares_the_cpus(tmp_path: Path) -> None:
    names = [tmp_path / str(number) for number in range(3)]
    count = min(2, len(cpus()))
    halves = [set(cpus()[number::count]) for number in range(count)]
    words = "import os, sys; print(os.sched_getaffinity(0), file=open(sys.argv[1], 'w'))"
    assert run_at_once([[sys.executable, "-c", words, str(name)] for name in names], count)
    told = {name.read_text() for name in names}
    shares = [set(map(int, each.strip("{}\n").split(", "))) for each in told]
    assert all(share in halves for share in shares)


@pytest.mark.skipif(not cpus(), reason="this system gives no CPUs out")
def test_one_of_many_that_fails_is_told_and_the_rest_run(tmp_path: Path) -> None:
    last = tmp_path / "last"
    commands = [["false"], ["touch", str(last)]]
    assert not run_at_once(commands, 1)
    assert last.exists()


@pytest.mark.parametrize("count", ["0", "1000000"])
def test_every_workload_needs_a_cpu(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--at-once", count])
    assert "--at-once may be 1 to" in capsys.readouterr().err


def test_the_short_comparison_teaches_nothing() -> None:
    assert set(SHORT) <= set(WORKLOADS)
    for name in SHORT:
        brief = short(WORKLOADS[name])
        assert brief.train is None
        assert brief.settings == replace(WORKLOADS[name].settings, proposals=0)


@pytest.mark.parametrize("peer", PEERS.values(), ids=list(PEERS))
def test_the_table_names_what_there_is(peer: Peer) -> None:
    assert (ROOT / "benchmarks" / "field" / "peers" / f"{peer.module}.py").exists()
    assert peer.environment in ENVIRONMENTS


RECORDS, SCALED = records(ROOT / "records"), records(ROOT / "records", "scaling")


@pytest.mark.skipif(not RECORDS, reason="no records yet")
def test_the_page_is_that_of_the_records() -> None:
    assert PAGE.read_text() == page(RECORDS, SCALED)


@pytest.mark.skipif(not RECORDS, reason="no records yet")
def test_what_grows_is_told_from_small_to_large() -> None:
    grown = [replace(RECORDS[0], workload=f"batch-{items}") for items in (32, 8)]
    told = page((), grown)
    assert told.index("| 8 |") < told.index("| 32 |")
    assert "| channels, % |" not in told
    assert plot_scaling(grown).startswith("<svg")


@pytest.mark.parametrize("found", RECORDS, ids=[each.workload for each in RECORDS])
def test_joulewise_is_never_worse_than_what_went_in(found: Record) -> None:
    ours = found.entries[0]
    assert ours.peer == OURS
    assert not ours.harms(found.margin)


@pytest.mark.parametrize("found", RECORDS, ids=[each.workload for each in RECORDS])
def test_where_no_version_of_ours_is_cheaper_the_page_says_why(found: Record) -> None:
    best = best_peer(found)
    ahead = best is None or best.ours_ratio is None or best.ours_ratio.sampling_high < 1
    assert ahead == ("ahead" in place_of(found))
    assert ahead == (found.workload not in NOT_AHEAD)


@pytest.mark.skipif(not RECORDS, reason="no records yet")
def test_the_readme_tells_what_the_records_tell() -> None:
    words = " ".join((ROOT / "README.md").read_text().split())
    assert in_short(RECORDS) in words


def entry(**changes: object) -> Entry:
    plain = Entry(peer="a", title="A", state="failed", reason="no", versions={})
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_what_failed_harms_nobody() -> None:
    assert not entry().harms(0.01)
    assert not entry().keeps(0.01)
