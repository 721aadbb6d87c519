from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from joulewise.compress.material import Material
from joulewise.compress.process import Workshop, apply_step
from joulewise.core.child import FORKS
from joulewise.core.errors import PassError
from joulewise.core.recipe import Step
from joulewise.core.records import Artifact
from joulewise.testing import models

STATIC = Step(name="static_int8")


@pytest.fixture
def workshop() -> Iterator[Workshop]:
    with Workshop() as workshop:
        yield workshop


@pytest.fixture
def material(tmp_path: Path) -> Material:
    models.conv_classifier(tmp_path / "model.onnx")
    items = models.labelled_store(tmp_path / "items", tmp_path / "model.onnx", 40)
    return Material(calibrate=items, batch_items=4)


def made(workshop: Workshop, folder: Path, material: Material, name: str) -> Artifact:
    return apply_step(STATIC, folder / "model.onnx", material, folder / name, workshop=workshop)


def pid(workshop: Workshop) -> int:
    assert workshop._child is not None
    return workshop._child.pid


@pytest.mark.skipif(not FORKS, reason="processes are copied on Linux only")
def test_one_process_serves_all_steps_those_that_fail_too(
    workshop: Workshop, material: Material, tmp_path: Path
) -> None:
    first = made(workshop, tmp_path, material, "first")
    known = pid(workshop)
    (tmp_path / "garbage.onnx").write_bytes(b"\x08garbage" * 20)
    with pytest.raises(PassError):
        apply_step(
            STATIC, tmp_path / "garbage.onnx", material, tmp_path / "none", workshop=workshop
        )
    assert made(workshop, tmp_path, material, "second").size_bytes == first.size_bytes
    assert pid(workshop) == known


def test_after_a_crash_another_process_goes_on(
    workshop: Workshop, material: Material, tmp_path: Path
) -> None:
    first = made(workshop, tmp_path, material, "first")
    if FORKS:
        os.kill(pid(workshop), signal.SIGKILL)
        os.waitid(os.P_PID, pid(workshop), os.WEXITED | os.WNOWAIT)
    assert made(workshop, tmp_path, material, "second").files.keys() == first.files.keys()


def test_a_step_that_took_too_long_holds_nobody_up(
    workshop: Workshop, material: Material, tmp_path: Path
) -> None:
    with pytest.raises(TimeoutError):
        apply_step(
            STATIC, tmp_path / "model.onnx", material, tmp_path / "late", limit_s=0.01,
            workshop=workshop,
        )  # fmt: skip
    assert made(workshop, tmp_path, material, "next").files
