"""Try recipes on the machines of a Ray cluster, one at a time on each.

A worker on every node gets the job as files, opens an anchor program of its own and tries what it
is asked to, so a ratio is always of two programs on one machine. Nodes that differ from the machine
of the search in what joules depend on are left out, because ratios are ranked together. The process
of the search alone leases recipes, keeps their trials and bills their joules: a worker that dies
loses nothing but its own open trial, which is leased again. The hold-out stays where it is.

A worker takes all CPUs of its node, as Ray counts them, and two nodes on one machine take turns.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

from joulewise.core.claim import Trial
from joulewise.core.errors import JoulewiseError, MissingExtraError, UsageError, one_line
from joulewise.core.host import read_host
from joulewise.core.recipe import Recipe
from joulewise.core.records import write_atomic
from joulewise.core.settings import Settings, Usage
from joulewise.export.process import ProgramProcess
from joulewise.meter.bill import Bill
from joulewise.meter.table import meter_opener
from joulewise.search.allowance import BudgetEndedError
from joulewise.search.bench import Bench
from joulewise.search.session import Session, artifact_note, fingerprint
from joulewise.search.structure import TEACHING
from joulewise.search.unfinished import BEAT_S, Spent, Unfinished, spent_since
from joulewise.workload.judge import Judge
from joulewise.workload.model import Model
from joulewise.workload.store import Store, open_store
from joulewise.workload.workload import Workload

__all__ = [
    "Answered",
    "Asked",
    "Introduction",
    "Job",
    "Nodes",
    "Worker",
    "next_recipe",
    "open_nodes",
    "require_ray",
    "taught_key",
]

ATTEMPTS = 3
"""How often a recipe is leased whose workers die, and workers are started in a row: a judgement."""

START_S = 120.0
"""Longest time that a worker may take to start and to open its anchor, s: a judgement."""

CONNECT_S = 5.0
"""Longest wait for an address to answer, s: Ray itself waits for minutes."""

POLL_S = 1.0
"""Longest wait for news before workers that start too slowly are looked for, s."""

SWEEP_S = 15.0
"""Longest wait for nodes to remove the files of the run, s."""

THREADS = "OMP_NUM_THREADS"
"""Ray sets it in its workers to the CPUs that they take; programs run as they do without Ray."""

QUIET = {"log_to_driver": False, "logging_level": "ERROR"}

LOCAL = {"include_dashboard": False, "_system_config": {"worker_niceness": 0}}
"""Ray runs workers at niceness 15 unless it is told otherwise."""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""The same in all containers of one machine, and in no other (proc(5))."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A trial that a worker is asked for.

    Args:
        recipe: what to try.
        best_ratio: see `joulewise.search.bench.Bench.try_recipe`, and so for the two below.
        training_s: longest time that training can pay for, s.
        limit_s: longest time that each step may take, s.
        artifacts: key of steps -> files below the working folder, of which those of the recipe
            begin with; empty where none were made yet.
    """

    recipe: Recipe
    best_ratio: float | None
    training_s: float | None
    limit_s: float
    artifacts: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What came of it.

    Args:
        trial: None where a step took longer than it may.
        artifacts: made for it, in the form of `Asked.artifacts`.
    """

    trial: Trial | None
    artifacts: Mapping[str, Mapping[str, bytes]]


@dataclass(frozen=True, kw_only=True)
class Introduction:
    """What a worker says of its node.

    Args:
        machine: the same for all nodes on one machine.
        fingerprint: see `joulewise.search.session.fingerprint`.
    """

    machine: str
    fingerprint: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """A session without its machine and folders, as it travels to the nodes.

    Args:
        model: the original; its path holds on the machine of the search only.
        judge: scores answers on the search split.
        settings: what the user declared.
        runtimes: names of the runtimes to use.
        usage: how the model is used.
        hold_out_items: how many items the final test will have; they do not travel.
        files: path below the working folder -> reference to its content.
    """

    model: Model
    judge: Judge
    settings: Settings
    runtimes: tuple[str, ...]
    usage: Usage
    hold_out_items: int
    files: Mapping[str, Any]


class Worker:
    """Tries recipes on its node. Ray runs it there as an actor.

    Args:
        folder: name of its working folder, below the node's folder for temporary files.
        meter: name of the meter, None for the best that works there.
        threads: value of THREADS where the search runs, None where it is not set.
    """

    def __init__(self, folder: str, meter: str | None, threads: str | None) -> None:
        os.environ.pop(THREADS, None)
        if threads is not None:
            os.environ[THREADS] = threads
        self._folder = Path(tempfile.gettempdir()) / folder
        self._host = read_host()
        self._open_meter = meter_opener(meter, self._host)
        self._bill, self._beats = (Bill(self._open_meter([os.getpid()])) for _ in range(2))
        self._bench: Bench | None = None

    def introduce(self) -> Introduction:
        """Say what the node is like."""
        sensor = self._bill.meter.sensor
        return Introduction(
            machine=BOOT_ID.read_text() if BOOT_ID.exists() else socket.gethostname(),
            fingerprint=fingerprint(self._host, f"{sensor.name}, {sensor.source}"),
        )

    def prepare(self, job: Job) -> Spent:
        """Write the job's files, open the anchor, and return what that cost."""
        import ray

        before = self._bill.meter.read()
        for name, content in job.files.items():
            _write(self._folder / name, ray.get(content))
        session = self._session(job)
        workload = session.workload
        anchor = ProgramProcess(
            workload.model.path, session.anchor.run, workload.search, workload.usage.batch_items
        )
        self._bench = Bench(session, anchor)
        return spent_since(before, self._bill)

    def attempt(self, asked: Asked) -> Iterator[Spent | Answered]:
        """Try a recipe; yield what it has cost so far now and then, and last the answer."""
        before = self._beats.meter.read()
        with ThreadPoolExecutor(max_workers=1) as pool:
            answer = pool.submit(self._answer, asked)
            while wait([answer], timeout=BEAT_S).not_done:
                yield spent_since(before, self._beats)
        yield spent_since(before, self._beats)
        yield answer.result()

    def _answer(self, asked: Asked) -> Answered:
        if self._bench is None:
            raise RuntimeError("a worker is prepared before it is asked")
        session = self._bench.session
        _unpack(session, asked.recipe, asked.artifacts)
        try:
            trial = self._bench.try_recipe(
                asked.recipe, asked.best_ratio, self._bill, asked.training_s, asked.limit_s
            )
        except TimeoutError:
            trial = None
        made = [part for part in _prefixes(asked.recipe) if part.steps_key not in asked.artifacts]
        return Answered(trial=trial, artifacts=_packed(session, made))

    def _session(self, job: Job) -> Session:
        data = self._folder / "data"
        unseen = Store(
            folder=data, items=job.hold_out_items, inputs={}, dtypes={}, labels=None
        )  # only how many there are
        workload = Workload(
            model=replace(job.model, path=self._folder / "original" / job.model.path.name),
            source="",
            calibrate=open_store(data / "calibrate"),
            search=open_store(data / "search"),
            hold_out=unseen,
            classes=(),
            usage=job.usage,
            train=open_store(data / "train") if (data / "train").exists() else None,
        )
        return Session(
            workload=workload, judge=job.judge, settings=job.settings, runtimes=job.runtimes,
            host=self._host, open_meter=self._open_meter, folder=self._folder,
        )  # fmt: skip


@dataclass(kw_only=True, eq=False)
class _Hand:
    """A worker as the search sees it.

    Args:
        node: its id in Ray.
        name: address and id, for people.
        cpus: of the node, as Ray counts them.
        worker: the actor.
        doing: what it was last asked for: a reference, or the generator of a trial's news; None
            where it is free.
        begun_s: when that was, s.
        machine: see `Introduction`.
        asked: the open trial.
        makes: key of the steps that it trains, None where it trains nothing.
        spent: what the open trial has cost so far, as last told.
        stillborn: workers in a row that died before they were ready.
    """

    node: str
    name: str
    cpus: float
    worker: Any = None
    doing: Any = None
    begun_s: float = 0.0
    machine: str = ""
    asked: Asked | None = None
    makes: str | None = None
    spent: Spent | None = None
    stillborn: int = 0

    def does(self, doing: Any) -> None:  # noqa: ANN401 - of Ray
        """Note what it does from now on."""
        self.doing, self.begun_s = doing, time.monotonic()

    def is_free(self) -> None:
        """Note that it has nothing to do."""
        self.doing = self.asked = self.makes = self.spent = None


Ask = Callable[[Recipe], Asked]
"""From a recipe that is about to be leased, what a worker is told; may raise BudgetEndedError."""


class Nodes:
    """The machines of a cluster that are like this one.

    Args:
        session: the job, the terms and this machine.
        bill: gets what it cost to prepare workers.
        worker: what runs on the nodes; another one in tests.
    """

    def __init__(self, session: Session, bill: Bill, worker: type[Worker] = Worker) -> None:
        import ray

        self._ray = ray
        self._session, self._bill, self._worker = session, bill, worker
        self._folder = f"joulewise-{uuid4().hex}"
        self._job = ray.put(_job(session, ray.put))
        self._started: list[_Hand] = []
        self._hands: list[_Hand] = []
        self._lost_on: dict[str, list[str]] = {}
        self.warnings: list[str] = []

    def __len__(self) -> int:
        """Number of machines that can be asked at the same time."""
        return len({hand.machine for hand in self._hands})

    @property
    def names(self) -> tuple[str, ...]:
        """Address and id of every node that is used."""
        return tuple(hand.name for hand in self._hands)

    def hire(self) -> None:
        """Start a worker on every node, and let those go whose machine differs from this one."""
        hands = [
            _Hand(
                node=node["NodeID"],
                name=f"{node['NodeManagerAddress']}/{node['NodeID'][:8]}",
                cpus=node["Resources"]["CPU"],
            )
            for node in self._ray.nodes()
            if node["Alive"] and node["Resources"].get("CPU")
        ]
        for hand in hands:
            self._start(hand)
            self._started.append(hand)
            hand.does(hand.worker.introduce.remote())
        sensor = self._bill.meter.sensor
        ours = fingerprint(self._session.host, f"{sensor.name}, {sensor.source}")
        for hand, told in self._told(hands):
            other = [f"{key} ({x})" for key, x in told.fingerprint.items() if x != ours[key]]
            if other:
                self._dismiss(hand, f"it has another {', another '.join(other)}")
                continue
            hand.machine = told.machine
            self._hands.append(hand)
            hand.does(hand.worker.prepare.remote(self._job))
        for hand, spent in self._told([hand for hand in hands if hand in self._hands]):
            self._bill.add("preparation", spent.joules, spent.seconds)
            hand.is_free()

    def trials(
        self, recipes: Sequence[Recipe], ask: Ask, unfinished: Unfinished
    ) -> Generator[Trial, None, None]:
        """Lease recipes to the nodes and yield their trials as they end.

        It ends early where no node is left. What is open when it is closed is billed as far as its
        cost is known.

        Args:
            recipes: to try.
            ask: called for each when it is leased; again if its worker dies.
            unfinished: billed for what does not come to its end.

        Raises:
            BudgetEndedError: there is not enough left for another one; those that had been leased
                have ended.
        """
        waiting, ended = list(recipes), False
        try:
            while True:
                try:
                    self._lease([] if ended else waiting, ask)
                except BudgetEndedError:
                    ended = True
                for hand in self._with_news():
                    trial, in_time = self._hear(hand, waiting, unfinished)
                    ended = ended or not in_time
                    if trial is not None:
                        yield trial
                unfinished.note_elsewhere(
                    {
                        hand.asked.recipe.key: hand.spent
                        for hand in self._hands
                        if hand.asked is not None and hand.spent is not None
                    }
                )
                if not self._busy and (ended or not waiting or not self._hands):
                    break
        finally:
            for hand in self._hands:
                if hand.asked is not None and hand.spent is not None:
                    unfinished.lost(hand.asked.recipe.key, hand.spent)
        if ended:
            raise BudgetEndedError

    def close(self) -> None:
        """End all workers and remove their files."""
        for hand in self._started:
            self._ray.kill(hand.worker, no_restart=True)
        remove = self._ray.remote(_remove)
        swept = [
            remove.options(num_cpus=0, scheduling_strategy=self._on(hand)).remote(
                self._folder_of(hand)
            )
            for hand in self._started
        ]
        if swept:
            self._ray.wait(swept, num_returns=len(swept), timeout=SWEEP_S)
        self._hands.clear()

    @property
    def _busy(self) -> list[_Hand]:
        return [hand for hand in self._hands if hand.doing is not None]

    def _lease(self, waiting: list[Recipe], ask: Ask) -> None:
        """Give every machine that is free something to do."""
        for hand in self._hands:
            if hand.machine in {other.machine for other in self._busy}:
                continue
            making = {other.makes for other in self._hands if other.makes}
            recipe = next_recipe(waiting, making, self._shunned(hand))
            if recipe is None:
                continue
            known = next((x for x in _prefixes(recipe) if self._session.artifact(x)), None)
            sent = _packed(self._session, [] if known is None else [known])
            hand.asked = replace(ask(recipe), artifacts=sent)
            waiting.remove(recipe)
            key = taught_key(recipe)
            trained = known is not None and taught_key(known) == key
            hand.makes = None if trained else key
            attempt = hand.worker.attempt.options(num_returns="streaming")
            hand.does(attempt.remote(hand.asked))

    def _shunned(self, hand: _Hand) -> set[str]:
        """Return the keys of recipes whose worker died on this node, but that others may try."""
        nodes = {other.node for other in self._hands}
        return {k for k, lost in self._lost_on.items() if hand.node in lost and nodes - {*lost}}

    def _with_news(self) -> list[_Hand]:
        """Return the workers that have something to say, or should have by now."""
        busy = self._busy
        if not busy:
            return []
        ready, _ = self._ray.wait([hand.doing for hand in busy], timeout=POLL_S)
        latest_s = time.monotonic() - START_S
        return [
            hand
            for hand in busy
            if hand.doing in ready or (hand.asked is None and hand.begun_s < latest_s)
        ]

    def _hear(
        self, hand: _Hand, waiting: list[Recipe], unfinished: Unfinished
    ) -> tuple[Trial | None, bool]:
        """Return the trial that has ended, if one has, and whether its steps were in time."""
        try:
            said = self._said(hand)
        except _LostError as error:
            return self._lose(hand, str(error), waiting, unfinished), True
        if hand.asked is None:
            self._bill.add("preparation", said.joules, said.seconds)
            hand.is_free()
            hand.stillborn = 0
            return None, True
        if isinstance(said, Spent):
            hand.spent = said
            return None, True
        _unpack(self._session, hand.asked.recipe, said.artifacts)
        if said.trial is None and hand.spent is not None:
            unfinished.lost(hand.asked.recipe.key, hand.spent)
        hand.is_free()
        if said.trial is None:
            return None, False
        return replace(said.trial, node=hand.name), True

    def _said(self, hand: _Hand) -> Any:  # noqa: ANN401 - what a method of Worker gives
        """Return the next thing that a worker has to say; raises _LostError."""
        errors = self._ray.exceptions
        try:
            said = hand.doing if hand.asked is None else next(hand.doing)
            return self._ray.get(said, timeout=0 if hand.asked is None else None)
        except errors.RayTaskError as error:
            if isinstance(error.cause, JoulewiseError):
                raise _LostError(one_line(error.cause)) from error
            raise
        except errors.GetTimeoutError as error:
            words = f"its worker did not start within {START_S:g} s; see that its CPUs are free"
            raise _LostError(words) from error
        except (errors.RayError, StopIteration) as error:
            raise _LostError(one_line(error)) from error

    def _lose(
        self, hand: _Hand, why: str, waiting: list[Recipe], unfinished: Unfinished
    ) -> Trial | None:
        """Start another worker on the node; the recipe waits again, or has failed too often."""
        asked, spent = hand.asked, hand.spent
        if asked is None:
            late = time.monotonic() - hand.begun_s > START_S
            hand.stillborn = ATTEMPTS if late else hand.stillborn + 1
        if hand.stillborn == ATTEMPTS or not self._is_alive(hand):
            self._dismiss(hand, why)
        else:
            self._ray.kill(hand.worker, no_restart=True)
            hand.is_free()
            self._start(hand)
            hand.does(hand.worker.prepare.remote(self._job))
        if asked is None:
            return None
        if spent is not None:
            unfinished.lost(asked.recipe.key, spent)
        lost = self._lost_on.setdefault(asked.recipe.key, [])
        lost.append(hand.node)
        if len(lost) < ATTEMPTS:
            waiting.insert(0, asked.recipe)
            return None
        reason = f"its worker was lost {ATTEMPTS} times, last on {hand.name}: {why}"
        return Trial(recipe=asked.recipe, state="failed", reason=reason, node=hand.name)

    def _told(self, hands: Sequence[_Hand]) -> Iterator[tuple[_Hand, Any]]:
        """Yield what workers say that start, and let those go that do not."""
        if hands:
            doing = [hand.doing for hand in hands]
            self._ray.wait(doing, num_returns=len(doing), timeout=START_S)
        for hand in hands:
            try:
                yield hand, self._said(hand)
            except _LostError as error:
                self._dismiss(hand, str(error))

    def _start(self, hand: _Hand) -> None:
        actor = self._ray.remote(self._worker).options(
            num_cpus=hand.cpus, max_restarts=0, scheduling_strategy=self._on(hand)
        )
        meter, threads = self._session.settings.meter, os.environ.get(THREADS)
        hand.worker = actor.remote(self._folder_of(hand), meter, threads)

    def _dismiss(self, hand: _Hand, why: str) -> None:
        self.warnings.append(f"node {hand.name} was left out: {why}")
        self._ray.kill(hand.worker, no_restart=True)
        hand.is_free()
        if hand in self._hands:
            self._hands.remove(hand)

    def _is_alive(self, hand: _Hand) -> bool:
        return any(node["NodeID"] == hand.node and node["Alive"] for node in self._ray.nodes())

    def _on(self, hand: _Hand) -> Any:  # noqa: ANN401 - of Ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(hand.node, soft=False)

    def _folder_of(self, hand: _Hand) -> str:
        return f"{self._folder}-{hand.node[:8]}"


class _LostError(Exception):
    """A worker, or what it had to say, is gone."""


def require_ray(address: str) -> None:
    """Raise where Ray is not installed or the address cannot be meant or does not answer.

    Raises:
        MissingExtraError: Ray is not installed.
        UsageError: the address is none.
    """
    if find_spec("ray") is None:
        raise MissingExtraError("ray", "ray")
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise UsageError(f"{address!r} is no Ray cluster; use auto, HOST:PORT or local")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"no Ray cluster answers at {address} ({one_line(error)}); start one there with: "
            "ray start --head"
        ) from error


@contextmanager
def open_nodes(
    address: str | None, session: Session, bill: Bill, say: Callable[[str], None]
) -> Iterator[Nodes | None]:
    """Give the nodes of a cluster for the time of a search; None where none is asked for.

    A connection that the calling program already has is used and left open. What Ray prints goes
    to stderr, as stdout is for results.

    Args:
        address: see `require_ray`.
        session: the job, the terms and this machine.
        bill: gets what it cost to prepare workers.
        say: told which nodes are used.

    Raises:
        UsageError: there is no such cluster, or this machine cannot join it.
    """
    if address is None:
        yield None
        return
    with redirect_stdout(sys.stderr), _connected(address):
        nodes = Nodes(session, bill)
        try:
            nodes.hire()
            for warning in nodes.warnings:
                say(warning)
            say(f"recipes are also tried on {', '.join(nodes.names) or 'no other machine'}")
            yield nodes
        finally:
            nodes.close()


@contextmanager
def _connected(address: str) -> Iterator[None]:
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    try:
        ray.init(address=address, **QUIET, **(LOCAL if address == "local" else {}))
    except (OSError, RuntimeError, ValueError) as error:  # ConnectionError is an OSError
        raise UsageError(
            f"cannot join the Ray cluster {address!r} ({one_line(error)}); start Ray on this "
            "machine with: ray start --head, or: ray start --address=HOST:PORT"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def next_recipe(
    waiting: Sequence[Recipe], making: Collection[str], shunned: Collection[str]
) -> Recipe | None:
    """Return what a free worker should try next, None where it had better wait.

    Args:
        waiting: recipes that nobody tries.
        making: keys of steps that other workers train now; who needs the same waits for them.
        shunned: keys of recipes that are left to others.
    """
    fit = (x for x in waiting if x.key not in shunned and taught_key(x) not in making)
    return next(fit, None)


def taught_key(recipe: Recipe) -> str | None:
    """Return the key of the steps up to the last one that trains, None where none does."""
    trained = [number for number, step in enumerate(recipe.steps, 1) if step.name in TEACHING]
    return replace(recipe, steps=recipe.steps[: trained[-1]]).steps_key if trained else None


def _prefixes(recipe: Recipe) -> list[Recipe]:
    """Return the recipe and what it begins with, the longest first, the original left out."""
    return [replace(recipe, steps=recipe.steps[:n]) for n in range(len(recipe.steps), 0, -1)]


def _packed(session: Session, recipes: Sequence[Recipe]) -> dict[str, dict[str, bytes]]:
    """Return the files of those artifacts that are whole, each with its note last."""
    found = {}
    for recipe in recipes:
        artifact = session.artifact(recipe)
        if artifact is not None:
            folder = session.artifact_folder(recipe)
            paths = [*(folder / name for name in artifact.files), artifact_note(folder)]
            found[recipe.steps_key] = {
                str(path.relative_to(session.folder)): path.read_bytes() for path in paths
            }
    return found


def _unpack(session: Session, recipe: Recipe, artifacts: Mapping[str, Mapping[str, bytes]]) -> None:
    """Write those artifacts of a recipe that are not there yet."""
    for part in _prefixes(recipe):
        if part.steps_key in artifacts and session.artifact(part) is None:
            shutil.rmtree(session.artifact_folder(part), ignore_errors=True)
            for name, content in artifacts[part.steps_key].items():
                _write(session.folder / name, content)


def _job(session: Session, put: Callable[[bytes], Any]) -> Job:
    workload = session.workload
    source = workload.model.path.parent
    files = {f"original/{name}": source / name for name in workload.model.artifact.files}
    splits = {"calibrate": workload.calibrate, "search": workload.search, "train": workload.train}
    for split, store in splits.items():
        if store is not None:
            files |= {f"data/{split}/{path.name}": path for path in store.folder.iterdir()}
    return Job(
        model=workload.model, judge=session.judge, settings=session.settings,
        runtimes=session.runtimes, usage=workload.usage, hold_out_items=workload.hold_out.items,
        files={name: put(path.read_bytes()) for name, path in files.items()},
    )  # fmt: skip


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content)


def _remove(folder: str) -> None:
    """Remove the working folder of a worker that is gone. Runs on its node."""
    with suppress(OSError):
        shutil.rmtree(Path(tempfile.gettempdir()) / folder)
