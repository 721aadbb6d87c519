from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from joulewise.bundle import file_checks, open_bundle, scratch_folder, work_folder
from joulewise.core.claim import Ledger
from joulewise.core.errors import InputError, JoulewiseError, UsageError
from joulewise.core.host import read_host
from joulewise.core.recipe import Recipe, RunSettings
from joulewise.core.records import (
    Bundle,
    SplitRecord,
    WorkloadRecord,
    describe_artifact,
    dump,
)
from joulewise.workload.store import write_store

AS_FOUND = Recipe(run=RunSettings(runtime="onnxruntime"))


def test_work_folder_lies_beside_the_output_and_is_removed_at_the_end(tmp_path: Path) -> None:
    with work_folder(tmp_path / "a" / "out", resume=False) as work:
        assert work == tmp_path / "a" / "out.work"
        assert work.is_dir()
        (work / "study.db").touch()
    assert not work.exists()


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_existing_output_is_refused(tmp_path: Path, kind: str) -> None:
    output = tmp_path / "out"
    if kind == "folder":
        output.mkdir()
    elif kind == "file":
        output.touch()
    else:
        output.symlink_to(tmp_path / "nowhere")
    with (
        pytest.raises(UsageError, match=r"already exists; choose another -o"),
        work_folder(output, resume=True),
    ):
        pass
    assert not (tmp_path / "out.work").exists()


@pytest.mark.parametrize("output", [".", "..", "/"])
def test_output_without_a_name_of_its_own_is_refused(output: str) -> None:
    with pytest.raises(UsageError, match="already exists"), work_folder(Path(output), resume=False):
        pass


def test_folder_of_another_run_is_refused_unless_resumed(tmp_path: Path) -> None:
    (tmp_path / "out.work").mkdir()
    (tmp_path / "out.work" / "kept").touch()
    with (
        pytest.raises(UsageError, match=r"interrupted run is in .*--resume"),
        work_folder(tmp_path / "out", resume=False),
    ):
        pass
    with work_folder(tmp_path / "out", resume=True) as work:
        assert (work / "kept").exists()


def test_resume_without_an_interrupted_run_begins_anew(tmp_path: Path) -> None:
    with work_folder(tmp_path / "out", resume=True) as work:
        assert not list(work.iterdir())


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with work_folder(tmp_path / "out", resume=False) as work:
        (work / "study.db").touch()
        with (
            pytest.raises(UsageError, match=r"another run is at work in .*out\.work; wait"),
            work_folder(tmp_path / "out", resume=True),
        ):
            pass
        assert (work / "study.db").exists()
    with work_folder(tmp_path / "out", resume=True):
        pass


def test_what_blocks_inside_a_run_is_not_taken_for_another_run(tmp_path: Path) -> None:
    with (
        pytest.raises(BlockingIOError, match="a pipe is full"),
        work_folder(tmp_path / "out", resume=False),
    ):
        raise BlockingIOError("a pipe is full")


def begin_and_fail(output: Path, name: str, error: BaseException) -> None:
    """Write one file in the work folder and fail."""
    with work_folder(output, resume=False) as work:
        (work / name).touch()
        raise error


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
def test_early_failure_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        begin_and_fail(tmp_path / "out", "items.npy", error)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
def test_failure_after_the_first_trial_keeps_what_was_found(
    tmp_path: Path, error: BaseException
) -> None:
    with pytest.raises(type(error)):
        begin_and_fail(tmp_path / "out", "study.db", error)
    assert (tmp_path / "out.work" / "study.db").exists()


def test_resumed_run_that_fails_early_keeps_the_folder(tmp_path: Path) -> None:
    (tmp_path / "out.work").mkdir()
    with pytest.raises(ValueError, match="x"), work_folder(tmp_path / "out", resume=True):
        raise ValueError("x")
    assert (tmp_path / "out.work").exists()


def test_full_disk_is_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(JoulewiseError, match=r"No space left.*--resume"),
        work_folder(tmp_path / "out", resume=False),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "place",
    [
        lambda _: Path("/proc/x/out"),
        lambda folder: folder / "file" / "out",
        lambda folder: folder / ("a" * 300),
    ],
    ids=["unwritable parent", "parent is a file", "name too long"],
)
def test_unwritable_place_is_one_line(tmp_path: Path, place: Callable[[Path], Path]) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(JoulewiseError, match="cannot write") as caught,
        work_folder(place(tmp_path), resume=False),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_scratch_folder_is_removed() -> None:
    with scratch_folder() as folder:
        (folder / "x").touch()
    assert not folder.exists()


def write_bundle(folder: Path) -> Bundle:
    """Write a bundle that keeps the original; its model is a few bytes."""
    for place in (folder / "model", folder / "evidence" / "original"):
        place.mkdir(parents=True)
        (place / "m.onnx").write_bytes(b"weights")
    x, labels = np.arange(40, dtype=np.uint8).reshape(20, 2), np.arange(20) % 3
    store = write_store(
        folder / "evidence" / "hold_out", {"x": x}, {"x": "float32"}, labels, np.arange(20)
    )
    bundle = Bundle(
        created="2026-01-01T00:00:00+00:00",
        verdict="keep",
        summary="nothing helps",
        workload=WorkloadRecord(
            model="m.onnx",
            data="items.npz",
            model_artifact=describe_artifact(folder / "evidence" / "original", ["m.onnx"], "onnx"),
            metric="top1",
            splits={"hold-out": SplitRecord(items=20, digest=store.digest())},
            batch_items=1,
        ),
        host=read_host(),
        packages={},
        seed=0,
        margin=0.05,
        confidence=0.95,
        smallest_margin=0.01,
        recipe=AS_FOUND,
        artifact=describe_artifact(folder, ["model/m.onnx"], "onnx"),
        as_found=AS_FOUND,
        baseline=AS_FOUND,
        anchor=AS_FOUND,
        claims=(),
        trials=(),
        ledger=Ledger(stages_j={}, seconds={}, grade="D"),
    )
    dump(bundle, folder / "joulewise.json")
    return bundle


def failing(folder: Path, bundle: Bundle) -> dict[str, str]:
    """Return name -> detail of the checks that do not hold."""
    return {c.name: c.detail for c in file_checks(folder, bundle) if not c.holds}


def alter(path: Path, place: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


def test_untouched_bundle_passes_and_reads_back(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path)
    assert open_bundle(tmp_path) == bundle
    assert failing(tmp_path, bundle) == {}


@pytest.mark.parametrize(
    ("file", "check"),
    [
        ("model/m.onnx", "model files"),
        ("evidence/original/m.onnx", "original model"),
        ("evidence/hold_out/input_0.npy", "hold-out data"),
        ("evidence/hold_out/labels.npy", "hold-out data"),
    ],
)
def test_one_altered_byte_is_found(tmp_path: Path, file: str, check: str) -> None:
    bundle = write_bundle(tmp_path)
    alter(tmp_path / file)
    found = failing(tmp_path, bundle)
    assert set(found) == {check}
    assert "altered after the proof" in found[check]


@pytest.mark.parametrize(
    ("file", "check"),
    [
        ("model/m.onnx", "model files"),
        ("evidence/original/m.onnx", "original model"),
        ("evidence/hold_out/labels.npy", "hold-out data"),
        ("evidence/hold_out/index.json", "hold-out data"),
    ],
)
def test_missing_file_is_a_failed_check(tmp_path: Path, file: str, check: str) -> None:
    bundle = write_bundle(tmp_path)
    (tmp_path / file).unlink()
    assert "cannot read" in failing(tmp_path, bundle)[check]


def test_shuffled_labels_are_found(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path)
    path = tmp_path / "evidence" / "hold_out" / "labels.npy"
    np.save(path, np.random.default_rng(0).permutation(np.load(path)))
    assert failing(tmp_path, bundle) == {
        "hold-out data": "items or labels were altered after the proof"
    }


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "model/link"])
def test_path_that_escapes_the_bundle_is_not_followed(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(b"weights")
    folder = tmp_path / "out"
    bundle = write_bundle(folder)
    (folder / "model" / "link").symlink_to(tmp_path / "secret")
    digest = bundle.artifact.files["model/m.onnx"]
    artifact = replace(bundle.artifact, files={name: digest})
    found = failing(folder, replace(bundle, artifact=artifact))
    assert found == {"model files": f"{name} lies outside the bundle"}


def test_store_that_names_a_file_elsewhere_is_not_followed(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path)
    index = tmp_path / "evidence" / "hold_out" / "index.json"
    index.write_text(index.read_text().replace("labels.npy", "../../labels.npy"))
    assert "outside the folder" in failing(tmp_path, bundle)["hold-out data"]


def test_folder_without_record_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not a bundle: it has no joulewise\.json"):
        open_bundle(tmp_path)


def test_other_schema_is_refused(tmp_path: Path) -> None:
    dump(replace(write_bundle(tmp_path), schema="joulewise/bundle/99"), tmp_path / "joulewise.json")
    with pytest.raises(InputError, match="has schema joulewise/bundle/99; this joulewise reads"):
        open_bundle(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1, 2", b"\xff\xfe", b'{"schema": 1}'])
def test_record_that_is_none_is_one_line(tmp_path: Path, content: bytes) -> None:
    write_bundle(tmp_path)
    (tmp_path / "joulewise.json").write_bytes(content)
    with pytest.raises(InputError) as caught:
        open_bundle(tmp_path)
    assert "\n" not in str(caught.value)


def test_record_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path)
    empty = replace(bundle.artifact, files={})
    contradictions = [
        replace(bundle, verdict="cheaper"),
        replace(bundle, verdict="great"),
        replace(bundle, artifact=empty),
        replace(bundle, workload=replace(bundle.workload, model_artifact=empty)),
        replace(bundle, workload=replace(bundle.workload, splits={})),
    ]
    for altered in contradictions:
        dump(altered, tmp_path / "joulewise.json")
        with pytest.raises(InputError, match="contradicts itself"):
            open_bundle(tmp_path)


def test_bundle_can_be_moved(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "a")
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert failing(tmp_path / "b", bundle) == {}
