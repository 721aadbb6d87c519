"""Many machines: what is leased to whom, what a dead worker costs, and nothing counts twice."""

from __future__ import annotations

import os
import random
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import gettempdir
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulewise.core.claim import Trial
from joulewise.core.energy import Interval
from joulewise.core.errors import MissingExtraError, UsageError
from joulewise.core.host import read_host
from joulewise.core.recipe import Recipe, RunSettings, parse_steps
from joulewise.core.records import Bundle
from joulewise.core.settings import Settings, Usage
from joulewise.meter.bill import Bill
from joulewise.meter.table import meter_opener
from joulewise.pipeline import judge_of_original
from joulewise.search import run
from joulewise.search.allowance import BudgetEndedError
from joulewise.search.nodes import (
    ATTEMPTS,
    THREADS,
    Answered,
    Asked,
    Introduction,
    Nodes,
    Worker,
    next_recipe,
    require_ray,
    taught_key,
)
from joulewise.search.run import search
from joulewise.search.session import Session, fingerprint
from joulewise.search.space import lossless_recipes
from joulewise.search.study import Study
from joulewise.search.unfinished import Unfinished
from joulewise.workload.workload import open_workload
from tests.cli.program import fast, joulewise, only_line
from tests.meter.test_bill import Purse
from tests.models import make_job, shorten_plans
from tests.search.test_study import FakeBench, open_study
from tests.trials import AS_FOUND, ONE_THREAD, int8, measured

RUN = RunSettings(runtime="onnxruntime", threads=1)
TAUGHT, QUANTIZED, OTHER, PLAIN = (
    Recipe(steps=parse_steps(text), run=RUN)
    for text in (
        "prune(ratio=0.5) + distill",
        "prune(ratio=0.5) + distill + static_int8",
        "prune(ratio=0.8) + distill + static_int8",
        "static_int8",
    )
)
WAITING = [TAUGHT, QUANTIZED, OTHER, PLAIN]

KILLS = 30


# --- what is leased -------------------------------------------------------------------------------


def test_what_is_trained_is_named_by_the_steps_up_to_the_last_that_trains() -> None:
    assert taught_key(PLAIN) is None
    assert taught_key(TAUGHT) == taught_key(QUANTIZED) == TAUGHT.steps_key
    assert taught_key(OTHER) not in (taught_key(TAUGHT), OTHER.steps_key)


def test_nothing_is_trained_twice_at_the_same_time() -> None:
    assert next_recipe([QUANTIZED, OTHER], {TAUGHT.steps_key}, ()) == OTHER
    assert next_recipe([QUANTIZED, PLAIN], {TAUGHT.steps_key}, ()) == PLAIN
    assert next_recipe([QUANTIZED], {TAUGHT.steps_key}, ()) is None


@given(
    st.permutations(WAITING),
    st.sets(st.sampled_from([taught_key(x) or "" for x in WAITING])),
    st.sets(st.sampled_from([x.key for x in WAITING])),
)
def test_the_first_that_fits_is_next(
    waiting: list[Recipe], making: set[str], shunned: set[str]
) -> None:
    found = next_recipe(waiting, making, shunned)
    before = waiting if found is None else waiting[: waiting.index(found)]
    assert all(x.key in shunned or taught_key(x) in making for x in before)
    assert found is None or (found.key not in shunned and taught_key(found) not in making)


# --- what was asked for ---------------------------------------------------------------------------


@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
@pytest.mark.parametrize("address", ["nonsense", "ray://host:1", ":6379", "host:", "host:x"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="is no Ray cluster; use auto, HOST:PORT or local"):
        require_ray(address)


@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
def test_an_address_where_nobody_answers_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match="ray start --head") as caught:
            require_ray(f"127.0.0.1:{port}")
    assert "\n" not in str(caught.value)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'joulewise\[ray\]'"):
        require_ray("auto")


# --- what the search makes of it ------------------------------------------------------------------


class FakeNodes:
    """Two machines that end their trials in the opposite order, and are gone after `most`."""

    def __init__(self, most: int = 9, error: type[BaseException] | None = None) -> None:
        self.asked: list[Recipe] = []
        self.most, self.error = most, error

    def __len__(self) -> int:
        return 2

    def trials(
        self, recipes: Sequence[Recipe], ask: Callable[[Recipe], Asked], _: object
    ) -> Generator[Trial, None, None]:
        for recipe in reversed(recipes[: self.most]):
            self.asked.append(ask(recipe).recipe)
            cost_j = Interval(low=1.0, central=2.0, high=3.0)
            yield replace(measured(recipe, 1.0), cost_j=cost_j, seconds=5.0, node="other")
        if self.error is not None:
            raise self.error


RECIPES = [AS_FOUND, ONE_THREAD, int8(), int8("dynamic_int8")]


def tried(folder: Path, nodes: FakeNodes, told: list[Any]) -> run._Attempt:
    bill = Bill(Purse())
    return run._Attempt(
        bench=cast("Any", FakeBench()),
        study=open_study(folder),
        bill=bill,
        announce=lambda *words: told.append(words),
        allowance=None,
        unfinished=Unfinished(folder, bill, lambda _: False),
        nodes=cast("Any", nodes),
    )


def test_trials_are_kept_in_the_order_of_their_recipes_and_billed_once(tmp_path: Path) -> None:
    told: list[Any] = []
    made = tried(tmp_path, FakeNodes(), told)
    made.all(RECIPES, None)
    assert [trial.recipe for trial in made.trials] == RECIPES
    assert [trial.node for trial in made.trials] == [None, "other", "other", "other"]
    assert [number for number, _, _, trial in told if trial] == [1, 4, 3, 2]  # as they ended
    assert sorted(number for number, _, _, trial in told if trial is None) == [1, 2, 3, 4]
    assert made.bill.seconds == {"baseline": 10.0, "trials": 10.0}
    assert all(open_study(tmp_path).finished(trial.recipe) == trial for trial in made.trials)


def test_what_no_node_is_left_for_is_tried_here(tmp_path: Path) -> None:
    made = tried(tmp_path, FakeNodes(most=1), [])
    made.all(RECIPES, None)
    assert [trial.node for trial in made.trials] == [None, "other", None, None]


def test_what_was_finished_is_not_asked_for_again(tmp_path: Path) -> None:
    with pytest.raises(BudgetEndedError):
        tried(tmp_path, FakeNodes(most=2, error=BudgetEndedError), []).all(RECIPES, None)
    nodes = FakeNodes()
    again = tried(tmp_path, nodes, [])
    again.all(RECIPES, None)
    assert nodes.asked == RECIPES[3:]
    assert [trial.recipe for trial in again.trials] == RECIPES
    assert again.bill.seconds == {"baseline": 10.0, "trials": 10.0}


def test_one_recipe_alone_is_tried_here(tmp_path: Path) -> None:
    nodes = FakeNodes()
    made = tried(tmp_path, nodes, [])
    made.all(RECIPES[2:3], None)
    assert not nodes.asked
    assert made.trials[0].node is None


@pytest.mark.parametrize("threads", [None, "3"])
def test_programs_get_the_threads_that_they_have_without_ray(
    monkeypatch: pytest.MonkeyPatch, threads: str | None
) -> None:
    monkeypatch.setenv(THREADS, "1")  # as Ray does
    Worker("nowhere", "cpu-time", threads)
    assert os.environ.get(THREADS) == threads


def test_the_same_machine_has_the_same_fingerprint() -> None:
    told, host = Worker("nowhere", "cpu-time", None).introduce(), read_host()
    sensor = Bill(meter_opener("cpu-time", host)([os.getpid()])).meter.sensor
    assert told.fingerprint == fingerprint(host, f"{sensor.name}, {sensor.source}")
    assert told.machine == Worker("elsewhere", "cpu-time", None).introduce().machine


# --- a cluster of two nodes on this machine -------------------------------------------------------


class Short(Worker):
    """A worker whose measurements are short."""

    def __init__(self, folder: str, meter: str | None, threads: str | None) -> None:
        shorten_plans(pytest.MonkeyPatch())
        super().__init__(folder, meter, threads)


class Alien(Short):
    """A worker on another kind of machine."""

    def introduce(self) -> Introduction:
        found = super().introduce()
        return replace(found, fingerprint={**found.fingerprint, "machine": "Z80 (1 logical CPU)"})


class Mortal(Short):
    """A worker that static int8 kills."""

    def _answer(self, asked: Asked) -> Answered:
        if any(step.name == "static_int8" for step in asked.recipe.steps):
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._answer(asked)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Start two nodes of one CPU each, which are processes of their own."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        made.add_node(num_cpus=1)
        ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
        yield
        ray.shutdown()
        made.shutdown()


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tmp_path_factory.mktemp("session")
    job, host = make_job(folder / "job", items=600), read_host()
    settings = Settings(margin=0.05, meter="cpu-time", runtimes=("onnxruntime",), proposals=0)
    workload = open_workload(job.model, str(job.data), Usage(), settings, folder / "data")
    judge = judge_of_original(workload, ("onnxruntime",), settings, folder / "original")
    return Session(
        workload=workload, judge=judge, settings=settings, runtimes=("onnxruntime",), host=host,
        open_meter=meter_opener("cpu-time", host), folder=folder,
    )  # fmt: skip


@contextmanager
def hired(session: Session, bill: Bill, worker: type[Worker] = Short) -> Iterator[Nodes]:
    """Give both nodes as if they were machines of their own, so that they work side by side."""
    nodes = Nodes(session, bill, worker)
    try:
        nodes.hire()
        for hand in nodes._hands:
            hand.machine = hand.node
        yield nodes
    finally:
        nodes.close()


def a_bill(session: Session) -> Bill:
    return Bill(session.open_meter([os.getpid()]))


def own(session: Session, folder: Path, **changed: Any) -> Session:
    """Return the session in a folder of its own."""
    return replace(session, folder=folder, settings=replace(session.settings, **changed))


def workers() -> list[int]:
    """Return the process ids of workers of this test.

    A child that a worker has just started has its title until it runs its own program.
    """
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_bytes()
            mine = str(Path(gettempdir())).encode() in title or title.startswith(b"ray::")
            if mine and any(kind in title for kind in (b"ray::Short", b"ray::Mortal")):
                status = (folder / "stat").read_text()
                parents[int(folder.name)] = int(status.rpartition(")")[2].split()[1])
        except OSError:
            continue
    return [process for process, parent in parents.items() if parent not in parents]


def left_folders(nodes: Nodes) -> list[Path]:
    return list(Path(gettempdir()).glob(f"{nodes._folder}*"))


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_two_nodes_try_what_one_machine_would(session: Session, tmp_path: Path) -> None:
    job, bill = own(session, tmp_path, lossless_only=True), a_bill(session)
    with pytest.MonkeyPatch.context() as patch:
        shorten_plans(patch)
        with hired(job, bill) as nodes:
            names = set(nodes.names)
            assert len(nodes) == 2
            splits = {path.name for folder in left_folders(nodes) for path in folder.glob("data/*")}
            assert splits == {"calibrate", "search"}  # the hold-out has not travelled
            found = search(job, bill, lambda *_: None, nodes=nodes)
    assert [t.recipe for t in found.trials] == list(
        lossless_recipes(("onnxruntime",), job.host.logical_cpus)
    )
    assert found.trials[0].node is None
    assert {trial.node for trial in found.trials[1:]} == names
    assert {trial.ratio.grade for trial in found.trials if trial.ratio} == {"D"}
    costs = [trial.cost_j.central for trial in found.trials if trial.cost_j]
    assert len(costs) == len(found.trials)
    assert bill.stages_j["baseline"].central == pytest.approx(sum(costs))
    assert bill.stages_j["preparation"].central > 0
    assert not left_folders(nodes)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_another_kind_of_machine_is_left_out(session: Session) -> None:
    with hired(session, a_bill(session), Alien) as nodes:
        assert len(nodes) == 0
        assert len(nodes.warnings) == 2
        assert all("it has another machine (Z80" in words for words in nodes.warnings)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_two_nodes_on_one_machine_take_turns(session: Session) -> None:
    nodes = Nodes(session, a_bill(session), Short)
    with closing(nodes):
        nodes.hire()
        assert len(nodes.names) == 2
        assert len(nodes) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_what_kills_its_workers_fails_and_the_rest_goes_on(
    session: Session, tmp_path: Path
) -> None:
    job, bill = own(session, tmp_path), a_bill(session)
    recipes = [int8(), ONE_THREAD]
    with hired(job, bill, Mortal) as nodes:
        found = list(
            nodes.trials(
                recipes, lambda x: asked(x, None), Unfinished(tmp_path, bill, lambda _: False)
            )
        )
    states = {trial.recipe.key: trial for trial in found}
    assert len(found) == 2
    assert states[ONE_THREAD.key].state == "measured"
    assert states[int8().key].state == "failed"
    assert f"its worker was lost {ATTEMPTS} times" in str(states[int8().key].reason)


def asked(recipe: Recipe, best_ratio: float | None) -> Asked:
    return Asked(recipe=recipe, best_ratio=best_ratio, training_s=None, limit_s=float("inf"))


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_thirty_kills_at_random_moments_lose_nothing_and_nothing_counts_twice(
    session: Session, tmp_path: Path
) -> None:
    moments, killed, searches = random.Random(7), 0, 0
    while killed < KILLS:
        (folder := tmp_path / str(searches)).mkdir()
        killed += killed_while_searching(own(session, folder), folder, moments)
        searches += 1
        assert searches <= KILLS, "the searches are over before anything is killed"


def killed_while_searching(job: Session, folder: Path, moments: random.Random) -> int:
    """Search while workers are killed, and return how many were, if all is as it should be."""
    bill, finished, killed = a_bill(job), Counter[str](), list[int]()

    def announce(_: int, __: int, recipe: Recipe, trial: Trial | None) -> None:
        finished[recipe.key] += trial is not None

    with pytest.MonkeyPatch.context() as patch, hired(job, bill) as nodes:
        shorten_plans(patch)
        patch.setattr("joulewise.search.nodes.ATTEMPTS", KILLS + 1)
        over = threading.Event()
        killer = threading.Thread(target=kill_some, args=(killed, over, moments))
        killer.start()
        try:
            found = search(job, bill, announce, nodes=nodes)
        finally:
            over.set()
            killer.join()
    assert set(finished.values()) == {1}
    assert len(found.trials) == len(finished)
    assert [trial.reason for trial in found.trials if trial.state == "failed"] == []
    causes = ("baseline", "calibration", "trials")
    spent = [bill.stages_j[cause].central for cause in causes]
    costs = [trial.cost_j.central for trial in found.trials if trial.cost_j]
    assert sum(spent) == pytest.approx(sum(costs))
    sensor = bill.meter.sensor
    again = Study(folder, job.identity(f"{sensor.name}, {sensor.source}"))
    assert [again.finished(trial.recipe) for trial in found.trials] == list(found.trials)
    for trial in found.trials:
        if trial.state == "measured":
            assert job.artifact(trial.recipe) is not None
    assert not left_folders(nodes)
    return len(killed)


def kill_some(killed: list[int], over: threading.Event, moments: random.Random) -> None:
    """Kill a worker at random moments, KILLS times at most, so that slow trials end too."""
    while len(killed) < KILLS and not over.wait(moments.uniform(0.3, 2.0)):
        alive = workers()
        if alive:
            victim = moments.choice(sorted(alive))
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)
            time.sleep(1.0)  # for another to start


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
def test_the_program_starts_a_cluster_of_its_own_and_leaves_nothing(tmp_path: Path) -> None:
    job = make_job(tmp_path, items=600)
    done = fast(
        "optimize", job.model, "--data", job.data, "-o", tmp_path / "out", "--margin", "5",
        "--runtime", "onnxruntime", "--meter", "cpu-time", "--lossless", "--ray", "local", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = msgspec.json.decode(done.stdout, type=Bundle)  # and nothing of Ray's beside it
    first, *others = told.trials
    assert first.node is None
    assert all(trial.node for trial in others)
    assert "recipes are also tried on" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--ray", "nonsense"], "'nonsense' is no Ray cluster"),
        (["--ray", "local", "--dry-run"], "leave --ray out"),
    ],
)
def test_what_cannot_be_meant_is_one_line(tmp_path: Path, arguments: list[str], words: str) -> None:
    pytest.importorskip("ray")
    done = joulewise("optimize", "m.onnx", "-d", "x.npz", "-o", tmp_path / "out", *arguments)
    assert done.returncode == 2
    assert words in only_line(done)
