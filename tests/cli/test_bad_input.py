"""Every foreseeable mistake is one line and leaves nothing behind."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from joulewise.cli import main
from joulewise.testing.models import conv_classifier, save_model
from tests.cli.program import Done, joulewise, only_line
from tests.models import Job, make_job

ITEMS = 300


@dataclass(frozen=True, kw_only=True)
class Case:
    """A mistake: how to make it in a folder, and what the program should answer.

    Args:
        says: part of the message.
        make: changes the job in the folder; returns the one to run, None for the job as it is.
        arguments: options besides model, data and output.
        output: where the bundle should go, relative to the folder.
        code: exit code.
    """

    says: str
    make: Callable[[Job, Path], Job | None] = lambda *_: None
    arguments: tuple[str, ...] = ()
    output: str = "out"
    code: int = 1


def truncated(job: Job, folder: Path) -> Job:
    model = folder / "cut.onnx"
    model.write_bytes(job.model.read_bytes()[:-100])
    return Job(model=model, data=job.data)


def with_arrays(change: Callable[[dict[str, np.ndarray]], None]) -> Callable[[Job, Path], Job]:
    """Return what changes the arrays of a job."""

    def make(job: Job, folder: Path) -> Job:
        with np.load(job.data) as archive:
            arrays = {name: archive[name].copy() for name in archive}
        change(arrays)
        np.savez(folder / "changed.npz", **arrays)
        return Job(model=job.model, data=folder / "changed.npz")

    return make


def wrong_labels(arrays: dict[str, np.ndarray]) -> None:
    arrays["y"][::10] = (arrays["y"][::10] + 1) % 4


def wrong_shape(arrays: dict[str, np.ndarray]) -> None:
    arrays["x"] = arrays["x"][:, :, :7]


def short_labels(arrays: dict[str, np.ndarray]) -> None:
    arrays["y"] = arrays["y"][:-1]


def nan(arrays: dict[str, np.ndarray]) -> None:
    arrays["x"][17, 0, 3, 3] = np.nan


def few(arrays: dict[str, np.ndarray]) -> None:
    arrays.update({name: values[:57] for name, values in arrays.items()})


def objects(arrays: dict[str, np.ndarray]) -> None:
    arrays["x"] = np.array([object()] * ITEMS, dtype=object)


def external_outside(job: Job, folder: Path) -> Job:
    (folder / "inner").mkdir()
    model = conv_classifier(folder / "inner" / "m.onnx", external=True)
    (folder / "inner" / "m.data").rename(folder / "m.data")
    proto = onnx.load(model, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../m.data"
    model.write_bytes(proto.SerializeToString())
    return Job(model=model, data=job.data)


def fixed_batch(job: Job, folder: Path) -> Job:
    return Job(model=conv_classifier(folder / "fixed.onnx", batch=4), data=job.data)


def one_answer_for_all(job: Job, folder: Path) -> Job:
    node = helper.make_node("ReduceMean", ["x"], ["y"], keepdims=0)
    model = save_model(folder / "mean.onnx", [node], {}, {"x": ["n", 1, 8, 8]}, {"y": []})
    return Job(model=model, data=job.data)


def existing(job: Job, folder: Path) -> None:
    assert job
    (folder / "out").mkdir()


def interrupted(job: Job, folder: Path) -> None:
    assert job
    (folder / "out.work").mkdir()


def a_file(job: Job, folder: Path) -> None:
    assert job
    (folder / "file").touch()


CASES: Mapping[str, Case] = {
    "truncated model": Case(make=truncated, says="truncated or not an ONNX model"),
    "no model": Case(
        make=lambda job, folder: Job(model=folder / "no.onnx", data=job.data),
        says="there is no model at",
    ),
    "no data": Case(
        make=lambda job, folder: Job(model=job.model, data=folder / "no.npz"),
        says="there is no archive at",
    ),
    "no such form of data": Case(
        make=lambda job, folder: Job(model=job.model, data=folder / "data.csv"),
        says="cannot read data from",
        code=2,
    ),
    "weights outside": Case(make=external_outside, says="keeps weights outside its folder"),
    "wrong shape": Case(make=with_arrays(wrong_shape), says="takes [batch, 1, 8, 8]"),
    "too few labels": Case(make=with_arrays(short_labels), says="labels: 299 for 300 items"),
    "NaN": Case(
        make=with_arrays(nan), says="NaN or infinite values in float32, the first in item 17"
    ),
    "too few items": Case(make=with_arrays(few), says="hold-out items"),
    "pickled objects": Case(make=with_arrays(objects), says="would need pickle"),
    "fixed batch": Case(make=fixed_batch, says="use --batch 4", code=2),
    "one answer for a batch": Case(make=one_answer_for_all, says="one row per item"),
    "output cannot be written": Case(output="/proc/x/out", says="cannot write /proc/x/out.work"),
    "output below a file": Case(make=a_file, output="file/out", says="cannot write"),
    "output exists": Case(make=existing, says="already exists", code=2),
    "output is here": Case(output=".", says="already exists", code=2),
    "run was interrupted": Case(make=interrupted, says="go on with --resume", code=2),
    "unknown runtime": Case(
        arguments=("--runtime", "onnxruntim"),
        says="unknown runtime 'onnxruntim'; did you mean 'onnxruntime'?",
        code=2,
    ),
    "a runtime for converted models alone": Case(
        arguments=("--runtime", "litert"), says="name onnxruntime or openvino too", code=2
    ),
    "unknown meter": Case(
        arguments=("--meter", "cputime"), says="did you mean 'cpu-time'?", code=2
    ),
    "no margin": Case(arguments=("--margin", "0"), says="a margin of 0 points", code=2),
    "negative margin": Case(arguments=("--margin", "-1"), says="a margin of -1 points", code=2),
    "margin is no number": Case(arguments=("--margin", "nan"), says="a margin of nan", code=2),
    "confidence 100": Case(arguments=("--confidence", "100"), says="a confidence of 100", code=2),
    "confidence 10": Case(arguments=("--confidence", "10"), says="a confidence of 10", code=2),
    "batch 0": Case(arguments=("--batch", "0"), says="batch must be positive", code=2),
    "latency 0": Case(arguments=("--latency-p95", "0"), says="latency must be positive", code=2),
    "latency is no number": Case(
        arguments=("--latency-p95", "nan"), says="latency must be positive", code=2
    ),
    "no such slices": Case(arguments=("--slice", "light"), says="has no array 'light' that says"),
    "no such clusters": Case(
        arguments=("--cluster", "patient"), says="has no array 'patient' that says which items"
    ),
    "no margin for slices": Case(
        arguments=("--slice-margin", "0"), says="a margin for slices of 0 points", code=2
    ),
    "quality above the original's": Case(
        arguments=("--min-quality", "100", "--meter", "cpu-time"),
        make=with_arrays(wrong_labels),
        says="the original itself has a quality of ",
    ),
    "negative seed": Case(arguments=("--seed", "-1"), says="seed -1 is negative", code=2),
}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return make_job(tmp_path_factory.mktemp("job"), items=ITEMS)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_mistake_is_one_line_and_leaves_nothing(
    case: Case,
    job: Job,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In this process: what is looked at happens before any other is started."""
    wrong = case.make(job, tmp_path) or job
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    arguments = ["optimize", wrong.model, "--data", wrong.data, "-o", case.output]
    words = [str(word) for word in (*arguments, "--margin", 5, "--quiet", *case.arguments)]
    monkeypatch.setattr(sys, "argv", ["joulewise", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    done = Done(words, int(ended.value.code or 0), told.out, told.err)
    assert case.says in only_line(done)
    assert done.returncode == case.code
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("optimize",),
        ("optimize", "m.onnx", "-o", "out"),
        ("optimize", "m.onnx", "--data", "d.npz", "-o", "out", "--batch", "many"),
        ("optimize", "m.onnx", "--data", "d.npz", "-o", "out", "--nonsense"),
        ("measure",),
        ("verify",),
        ("nonsense",),
    ],
    ids=" ".join,
)
def test_wrong_use_is_told_with_the_usage(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = joulewise(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("Usage: ")
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
