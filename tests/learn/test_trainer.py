from __future__ import annotations

import hashlib
import math
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from joulewise.core.errors import PassError
from joulewise.core.host import read_host
from joulewise.learn.losses import layer_distance
from joulewise.learn.trainer import Lessons, Pair, Plan, Trained, rate_at, train
from joulewise.workload.store import Store, write_store
from tests.learn.lessons import ITEMS, PLAN, Net, lessons


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks gain nothing from more, and wait for them where the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def same(left: nn.Module, right: nn.Module) -> bool:
    """Return whether two modules have the same weights and statistics, bit for bit."""
    ours, theirs = left.state_dict(), right.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def rows(folder: Path, x: np.ndarray[Any, Any], labels: np.ndarray[Any, Any] | None) -> Store:
    return write_store(
        folder, {"x": x.astype(np.float32)}, {"x": "float32"}, labels, np.arange(len(x))
    )


class Line(nn.Module):  # type: ignore[misc]
    """Scores that are linear in the input, without a bias; optionally something done to them."""

    def __init__(
        self, inputs: int, outputs: int, then: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, outputs, bias=False)
        self.then = then or nn.Identity()
        self.seen: list[Tensor] = []
        torch.nn.init.normal_(self.layer.weight, generator=torch.Generator().manual_seed(outputs))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        if self.training:
            self.seen.append(x)
        return (self.then(self.layer(x)),)


def points(folder: Path, items: int, *, labelled: bool = True, seed: int = 0) -> Store:
    """Write points in the plane whose label is their quadrant."""
    x = np.random.default_rng(seed).normal(size=(items, 2))
    labels = (x[:, 0] > 0) * 2 + (x[:, 1] > 0)
    return rows(folder, x, labels.astype(np.int64) if labelled else None)


def test_rate_rises_and_falls() -> None:
    plan = Plan(rate=0.8, warm_up_ratio=0.2)
    rates = [rate_at(step, 10, plan) for step in range(10)]
    cosine = [0.4 * (1 + math.cos(math.pi * n / 8)) for n in range(8)]
    assert rates == pytest.approx([0.4, 0.8, *cosine])
    assert rates[6] == pytest.approx(0.4)
    assert rate_at(0, 1, Plan(rate=0.8, warm_up_ratio=0)) == 0.8
    assert rate_at(0, 1, Plan(rate=0.8, warm_up_ratio=1)) == 0.8


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("scale", [0.05, 50.0])
def test_one_step_by_hand(tmp_path: Path, optimizer: Any, scale: float) -> None:
    """Oracle: gradient of the cross entropy in closed form, cut to length 1, and one update."""
    data = points(tmp_path / "d", 20)
    x, y = scale * np.asarray(data.inputs["x"], np.float32), np.eye(4)[data.labels]
    scaled = rows(tmp_path / "s", x, data.labels)
    student = Line(2, 4)
    w = student.layer.weight.detach().double().numpy().copy()
    plan = Plan(
        epochs=1, rate=0.1, batch_items=20, optimizer=optimizer, warm_up_ratio=0, weight_decay=0.5,
        precision="f32",
    )  # fmt: skip
    train(student, Lessons(train=scaled, inputs=("x",)), plan)
    odds = np.exp(x.astype(np.float64) @ w.T)
    gradient = (odds / odds.sum(axis=1, keepdims=True) - y).T @ x / 20
    gradient /= max(1.0, float(np.linalg.norm(gradient)))
    if optimizer == "adamw":  # first step: both moments are unbiased to the gradient itself
        expected = w * (1 - 0.1 * 0.5) - 0.1 * gradient / (np.abs(gradient) + 1e-8)
    else:  # Nesterov: the gradient and 0.9 of the buffer, which it fills
        expected = w - 0.1 * 1.9 * (gradient + 0.5 * w)
    np.testing.assert_allclose(
        student.layer.weight.detach().numpy(), expected, rtol=2e-4, atol=1e-5
    )


def test_every_epoch_sees_every_item_once_in_an_order_of_its_own(tmp_path: Path) -> None:
    x = np.arange(32.0).reshape(32, 1)
    data = rows(tmp_path / "d", x, np.arange(32) % 2)
    student = Line(1, 2)
    train(student, Lessons(train=data, inputs=("x",)), Plan(epochs=2, batch_items=8))
    first, second = torch.cat(student.seen).flatten().reshape(2, 32)
    assert sorted(first.tolist()) == sorted(second.tolist()) == x.flatten().tolist()
    assert first.tolist() != second.tolist()
    assert first.tolist() != x.flatten().tolist()


def test_items_of_like_length_meet_in_a_step(tmp_path: Path) -> None:
    """Every epoch still sees every item once, in steps of its own that come in a random order."""
    items, batch_items = 40 * 8, 8
    lengths = np.random.default_rng(1).integers(1, 101, items)
    data = rows(tmp_path / "d", np.arange(items)[:, None], np.arange(items) % 2)
    student = Line(1, 2)
    train(
        student,
        Lessons(train=data, inputs=("x",), lengths=lengths),
        Plan(epochs=2, batch_items=batch_items),
    )
    seen = [x.flatten().long().numpy() for x in student.seen]
    half = len(seen) // 2
    for steps in (seen[:half], seen[half:]):
        assert sorted(np.concatenate(steps)) == list(range(items))
        longest = np.array([lengths[rows].max() for rows in steps])
        assert longest.mean() < 1.1 * lengths.mean()
        assert not np.array_equal(longest, np.sort(longest))
    assert {frozenset(rows) for rows in seen[:half]}.isdisjoint(map(frozenset, seen[half:]))


def test_what_does_not_fill_a_batch_waits_for_another_epoch(tmp_path: Path) -> None:
    student = Line(2, 4)
    train(student, Lessons(train=points(tmp_path / "d", 20), inputs=("x",)), Plan(batch_items=16))
    assert [len(x) for x in student.seen] == [16, 16, 16]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Net, Trained]:
    """What a run that nothing disturbs comes to."""
    student = Net(seed=0)
    return student, train(student, lessons(tmp_path_factory.mktemp("whole")), PLAN)


def test_same_seed_same_weights_and_nothing_else_is_touched(
    tmp_path: Path, uninterrupted: tuple[Net, Trained]
) -> None:
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    student = Net(seed=0)
    plan = lessons(tmp_path)
    found = train(student, plan, PLAN)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.are_deterministic_algorithms_enabled()
    assert same(student, uninterrupted[0])
    assert replace(found, seconds=0) == replace(uninterrupted[1], seconds=0)
    assert not student.training
    other = Net(seed=0)
    train(other, plan, replace(PLAN, seed=1))
    assert not same(other, student)


def test_after_kill_9_it_ends_where_an_uninterrupted_run_ends(
    tmp_path: Path, uninterrupted: tuple[Net, Trained]
) -> None:
    step = 9  # the third of the second epoch
    command = [sys.executable, "-m", "tests.learn.lessons", str(tmp_path), str(step)]
    killed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    student = Net(seed=0)
    found = train(student, lessons(tmp_path), PLAN, checkpoint=tmp_path / "checkpoint")
    assert student.calls == ITEMS // PLAN.batch_items * PLAN.epochs - (step - 1)
    assert same(student, uninterrupted[0])
    assert replace(found, seconds=0) == replace(uninterrupted[1], seconds=0)


class Trap:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        import os

        return os.system, (self.command,)


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "trap"])
def test_a_damaged_checkpoint_is_left_with_a_warning(
    tmp_path: Path, uninterrupted: tuple[Net, Trained], damage: str
) -> None:
    teaching = lessons(tmp_path)
    train(Net(seed=0), teaching, PLAN, checkpoint=tmp_path / "c", save_every_s=0)
    (file,) = (tmp_path / "c").rglob("training.pt")
    content = bytearray(file.read_bytes())
    if damage == "changed":
        content[len(content) // 2] ^= 1
    trap = pickle.dumps(Trap(f"touch {tmp_path / 'sprung'}"))
    made = {
        "cut": bytes(content[: len(content) // 2]),
        "changed": bytes(content),
        "empty": b"",
        "trap": hashlib.sha256(trap).digest() + trap,
    }
    file.write_bytes(made[damage])
    told: list[str] = []
    student = Net(seed=0)
    train(student, teaching, PLAN, checkpoint=tmp_path / "c", tell=lambda _, x: told.append(x))
    assert "the checkpoint is damaged: training starts anew" in told
    assert same(student, uninterrupted[0])
    assert not (tmp_path / "sprung").exists()


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    teaching = lessons(tmp_path)
    first, second = Net(seed=0), Net(seed=0)
    found = [
        train(net, teaching, PLAN, checkpoint=tmp_path / "c", save_every_s=1e9)
        for net in (first, second)
    ]
    assert found[0] == found[1]
    assert second.calls == 0
    assert same(first, second)
    other = Net(seed=0)
    train(other, teaching, replace(PLAN, temperature=2.0), checkpoint=tmp_path / "c")
    assert other.calls > 0


class Sick(Line):
    """Gives NaN at some of its calls in training."""

    def __init__(self, at: set[int]) -> None:
        super().__init__(2, 4)
        self.at = at

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        (scores,) = super().forward(x)
        return (scores * math.nan if self.training and len(self.seen) in self.at else scores,)


def test_a_loss_that_is_no_number_halves_the_rate(tmp_path: Path) -> None:
    """The epoch of the accident is run again, from its start, and all is as at half the rate."""
    teaching = Lessons(train=points(tmp_path / "d", 64), inputs=("x",))
    plan = Plan(epochs=2, batch_items=16, rate=0.2, warm_up_ratio=0, precision="f32")
    student, told = Sick({3}), list[str]()
    found = train(student, teaching, plan, tell=lambda _, words: told.append(words))
    assert found.halvings == 1
    assert len(student.seen) == 3 + 8
    assert "half the rate" in told[0]
    well = Sick(set())
    train(well, teaching, replace(plan, rate=0.1))
    assert same(student, well)


def test_divergence_without_end_is_one_line(tmp_path: Path) -> None:
    teaching = Lessons(train=points(tmp_path / "d", 64), inputs=("x",))
    with pytest.raises(PassError, match=r"not a number, even at a rate of 0.025; give a lower"):
        train(Sick(set(range(99))), teaching, Plan(rate=0.2, batch_items=16))


def test_the_best_epoch_is_kept_and_patience_ends(tmp_path: Path) -> None:
    """It learns the opposite of what it is judged by, so every epoch is worse than the last."""
    data = points(tmp_path / "t", 256)
    assert data.labels is not None
    opposite = rows(tmp_path / "s", data.inputs["x"], 3 - data.labels)
    teaching = Lessons(train=data, search=opposite, inputs=("x",))
    student = Line(2, 4)
    plan = Plan(epochs=9, batch_items=16, rate=0.02, warm_up_ratio=0, patience=2)
    found = train(student, teaching, plan)
    assert found.measure == "top1"
    assert found.epochs == 3
    assert list(found.scores) == sorted(found.scores, reverse=True)
    assert found.scores[0] > found.scores[2]
    x, y = torch.tensor(opposite.inputs["x"]), torch.tensor(opposite.labels)
    assert (student(x)[0].argmax(1) == y).double().mean().item() == found.scores[0]


def test_a_later_epoch_is_kept_where_the_score_cannot_tell_it_from_the_best(tmp_path: Path) -> None:
    """It gets worse, but by less than the standard error of the best score."""
    data = points(tmp_path / "t", 256)
    assert data.labels is not None
    opposite = rows(tmp_path / "s", data.inputs["x"], 3 - data.labels)
    teaching = Lessons(train=data, search=opposite, inputs=("x",))
    student = Line(2, 4)
    plan = Plan(epochs=3, batch_items=16, rate=0.01, warm_up_ratio=0, precision="f32")
    scores = train(student, teaching, plan).scores
    best = max(scores)
    assert best - math.sqrt(best * (1 - best) / 256) < scores[-1] < best
    x, y = torch.tensor(opposite.inputs["x"]), torch.tensor(opposite.labels)
    assert (student(x)[0].argmax(1) == y).double().mean().item() == scores[-1]


def test_it_stops_when_told_that_it_does_not_pay(tmp_path: Path) -> None:
    asked: list[float] = []

    def stop(seconds: float) -> bool:
        asked.append(seconds)
        return len(asked) == 2

    teaching = Lessons(train=points(tmp_path / "d", 64), inputs=("x",))
    found = train(Line(2, 4), teaching, Plan(epochs=5, batch_items=16), stop=stop)
    assert found.epochs == 2
    assert asked[0] > 0
    assert 0 < asked[1] <= found.seconds * 3 / 2  # with the epoch that it would take


FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "scores": lambda x: 4 * x,
    "probabilities": lambda x: (4 * x).softmax(dim=1),
    "values": lambda x: nn.functional.normalize(x, dim=1),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("augment", ["none", "mixup"])
def test_a_teacher_is_enough(tmp_path: Path, form: str, augment: str) -> None:
    """Without labels the student comes to what the teacher is, whatever kind its output is of."""
    teacher, student = Line(2, 4, FORMS[form]), Line(2, 4, FORMS[form])
    with torch.no_grad():
        student.layer.weight.mul_(-0.1)
    teaching = Lessons(
        train=points(tmp_path / "t", 512, labelled=False),
        search=points(tmp_path / "s", 200, labelled=False, seed=1),
        inputs=("x",),
        teacher=teacher,
    )
    plan = Plan(epochs=8, batch_items=16, rate=0.2, temperature=2.0, augment=augment)
    found = train(student, teaching, plan)
    if form == "values":
        assert found.measure == "negative error"
        assert found.scores[-1] > -0.01
    else:
        assert found.measure == "agreement"
        assert found.scores[-1] > 0.95


def test_labels_of_values_do_not_count(tmp_path: Path) -> None:
    """Embeddings are learned from the teacher alone, also where the items have labels."""
    teacher = Line(2, 4, FORMS["values"])
    plan = Plan(epochs=1, batch_items=16, label_weight=1.0)
    made = []
    for labelled in (True, False):
        made.append(Line(2, 4, FORMS["values"]))
        torch.nn.init.ones_(made[-1].layer.weight)
        data = points(tmp_path / str(labelled), 64, labelled=labelled)
        train(made[-1], Lessons(train=data, inputs=("x",), teacher=teacher), plan)
    assert same(*made)
    assert not torch.equal(made[0].layer.weight, torch.ones(4, 2))


class Counted(nn.Module):  # type: ignore[misc]
    """Counts the items that a module is asked about."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.items = module, 0

    def forward(self, *inputs: Tensor) -> Any:
        self.items += len(inputs[0])
        return self.module(*inputs)


@pytest.mark.parametrize(("augment", "times"), [("none", 1), ("flip", 3)])
def test_answers_are_asked_for_once_where_items_stay(
    tmp_path: Path, augment: str, times: int
) -> None:
    teacher = Counted(Net(seed=5))
    teaching = replace(lessons(tmp_path), search=None, teacher=teacher)
    plan = replace(PLAN, epochs=3, augment=augment)
    checks = 32 + 16 * (augment == "none")  # on a few items it is found out what the outputs are
    train(Net(seed=0), teaching, plan, checkpoint=tmp_path / "c")
    assert teacher.items == times * ITEMS + checks
    (folder,) = (tmp_path / "c").iterdir()
    (folder / "training.pt").unlink()
    train(Net(seed=0), teaching, plan, checkpoint=tmp_path / "c")
    again = 0 if augment == "none" else times * ITEMS
    assert teacher.items == times * ITEMS + again + 2 * checks


def test_kept_answers_are_the_teachers(tmp_path: Path) -> None:
    """With and without a file, and with answers computed batch by batch, it learns the same."""
    pair = Pair(student="norm", teacher="norm", spatial=True)
    teaching = replace(lessons(tmp_path), search=None, pairs=(pair,))
    plan = replace(PLAN, augment="none", label_weight=0.0, optimizer="sgd")
    on_disk, in_memory, asked = Net(seed=0), Net(seed=0), Net(seed=0)
    train(on_disk, teaching, plan, checkpoint=tmp_path / "c")
    train(in_memory, teaching, plan)
    assert same(on_disk, in_memory)
    train(asked, teaching, replace(plan, features=1e-12))
    for name, value in asked.state_dict().items():
        torch.testing.assert_close(value, in_memory.state_dict()[name], rtol=0.01, atol=1e-4)


def test_paired_layers_come_nearer(tmp_path: Path) -> None:
    pair, teacher = Pair(student="norm", teacher="norm", spatial=True), Net(seed=5, width=9)
    teaching = replace(lessons(tmp_path), pairs=(pair,), teacher=teacher)
    x = torch.tensor(np.array(teaching.train.inputs["x"]))

    def distance(features: float) -> float:
        student = Net(seed=0)
        train(student, teaching, replace(PLAN, augment="none", features=features))
        maps = [net.norm(net.conv(x)) for net in (student, teacher)]
        assert not student.norm._forward_hooks
        return float(layer_distance(*maps, spatial=True).item())

    assert distance(10.0) < 0.8 * distance(0.0)


def test_precision_is_the_cpus(tmp_path: Path) -> None:
    teaching = Lessons(train=points(tmp_path / "d", 64), inputs=("x",))
    fast = "bf16" if "bf16" in read_host().instruction_sets else "f32"
    assert train(Line(2, 4), teaching, Plan(epochs=1)).precision == fast
    assert train(Line(2, 4), teaching, Plan(epochs=1, precision="f32")).precision == "f32"


class Greedy(Line):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        if self.training:
            torch.empty(1 << 50)
        return super().forward(x)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("few", "15 items are too few to train on; give 16 or more"),
        ("nothing", "no teacher, and no labels"),
        ("labels", "labels go from 0 to 3, but the model has scores for 2 classes"),
        ("shapes", r"student's outputs are \[\(32, 4\)\], the teacher's \[\(32, 3\)\]"),
        ("memory", "out of memory with 8 items per step; give a smaller batch_items"),
        ("frozen", "no weights that could be trained"),
        ("pair", "no layer of that name"),
    ],
)
def test_what_cannot_work_is_one_line(tmp_path: Path, case: str, message: str) -> None:
    data = points(tmp_path / "d", 15 if case == "few" else 64, labelled=case != "nothing")
    student: nn.Module = Line(2, 2 if case == "labels" else 4)
    teaching, plan = Lessons(train=data, inputs=("x",)), Plan(batch_items=8)
    if case == "shapes":
        teaching = replace(teaching, teacher=Line(2, 3))
    elif case == "memory":
        student = Greedy(2, 4)
    elif case == "frozen":
        student.requires_grad_(requires_grad=False)
    elif case == "pair":
        pair = Pair(student="layer", teacher="other", spatial=False)
        teaching = replace(teaching, teacher=Line(2, 4), pairs=(pair,))
        plan = replace(plan, features=1.0)
    with pytest.raises(PassError, match=message) as caught:
        train(student, teaching, plan)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [{"epochs": 0}, {"rate": 0.0}, {"rate": math.nan}, {"temperature": -1.0}, {"label_weight": 2.0},
     {"optimizer": "lion"}, {"augment": "blur"}, {"precision": "f8"}, {"seed": -1}],
)  # fmt: skip
def test_plans_that_make_no_sense_are_refused(values: dict[str, Any]) -> None:
    (name,) = values
    with pytest.raises(ValueError, match=f"cannot have {name}="):
        Plan(**values)
