"""The promises of every pass, as tests; subclass it beside each new pass.

::

    class TestMyPass(PassContract):
        step = Step(name="my-pass")
        runtime = "my-runtime"
"""

# ruff: noqa: S101  (these are tests)

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from joulewise.compress import process
from joulewise.compress.material import Material
from joulewise.compress.process import Workshop, apply_step
from joulewise.core.child import Child
from joulewise.core.errors import PassError
from joulewise.core.recipe import RunSettings, Step
from joulewise.core.records import Artifact
from joulewise.export.process import ProgramProcess
from joulewise.testing import models
from joulewise.workload.store import Store

__all__ = ["PassContract"]

ITEMS = 60
BATCH_ITEMS = 4
LEAST_AGREEMENT = 0.9


class PassContract:
    """What every pass promises; `step` and `runtime` are given by the subclass.

    Attributes:
        step: the pass with the parameters to test.
        runtime: registry name of the runtime that opens its results.
        make: writes a model that the pass can change.
    """

    step: ClassVar[Step]
    runtime: ClassVar[str]
    make: ClassVar[Callable[..., Path]] = staticmethod(models.conv_classifier)

    @pytest.fixture(scope="class")
    @classmethod
    def workshop(cls) -> Iterator[Workshop]:
        """Give where the pass is applied."""
        with Workshop() as workshop:
            yield workshop

    @pytest.fixture
    def model(self, tmp_path: Path) -> Path:
        """Give a model that the pass can change, with a free batch."""
        return self.make(tmp_path / "model.onnx")

    @pytest.fixture
    def items(self, tmp_path: Path, model: Path) -> Store:
        """Give items for it."""
        return self.store(tmp_path / "items", model, ITEMS)

    def store(self, folder: Path, model: Path, items: int) -> Store:
        """Write items for a model; override where it takes something else than one x."""
        return models.labelled_store(folder, model, items)

    def material(self, items: Store) -> Material:
        """Return what the pass may learn from; override where it needs more."""
        return Material(calibrate=items, batch_items=BATCH_ITEMS)

    def agreement(self, original: Path, result: Path, items: Store, folder: Path) -> float:
        """Return the share of `items` that get the reference's class from `result`."""
        run = RunSettings(runtime=self.runtime, threads=1)
        with ProgramProcess(result, run, items, BATCH_ITEMS) as program:
            (scores,) = program.predict(items, folder / "outputs")
        wanted = models.reference_answers(original, items.batch(0, items.items))
        return float(np.mean(np.argmax(scores, axis=1) == wanted))

    def check_result(self, model: Path, items: Store, folder: Path, workshop: Workshop) -> Artifact:
        """Apply the pass and check what must hold for every model; return the artifact."""
        before = _digests(model.parent)
        made = apply_step(
            self.step, model, self.material(items), folder / "made", workshop=workshop
        )
        assert _digests(model.parent) == before, "the input was touched"
        assert made.files
        for name in made.files:
            path = (folder / "made" / name).resolve()
            assert path.is_relative_to((folder / "made").resolve())
            assert path.is_file()
        unlisted = {path.name for path in (folder / "made").iterdir()} - set(made.files)
        assert not unlisted, "files were left over"
        share = self.agreement(model, folder / "made" / made.main, items, folder)
        assert share >= LEAST_AGREEMENT
        return made

    def test_result_does_the_same_job(
        self, model: Path, items: Store, tmp_path: Path, workshop: Workshop
    ) -> None:
        """The input stays, the result opens in its runtime and mostly answers the same."""
        moved = _alone(model, tmp_path)
        self.check_result(moved, items, tmp_path, workshop)

    def test_size_is_the_same_every_time(
        self, model: Path, items: Store, tmp_path: Path, workshop: Workshop
    ) -> None:
        """Applying it again gives as many bytes, in a folder that held something else."""
        folder = tmp_path / "made"
        first = apply_step(self.step, model, self.material(items), folder, workshop=workshop)
        (folder / "left-over").write_text("from an interrupted run")
        second = apply_step(self.step, model, self.material(items), folder, workshop=workshop)
        assert second.size_bytes == first.size_bytes
        assert not (folder / "left-over").exists()

    def test_fixed_batch_and_weights_in_a_second_file(
        self, tmp_path: Path, workshop: Workshop
    ) -> None:
        """Such a model works, none of its files is touched, the items need not fill a batch."""
        (tmp_path / "in").mkdir()
        model = self.make(tmp_path / "in" / "model.onnx", batch=BATCH_ITEMS, external=True)
        assert len(list(model.parent.iterdir())) == 2
        items = self.store(tmp_path / "few", model, BATCH_ITEMS * 8 - 1)
        self.check_result(model, items, tmp_path, workshop)

    def test_nothing_to_change_is_one_line(self, tmp_path: Path, workshop: Workshop) -> None:
        """A model without an operator for it is refused, not passed through."""
        model = models.pointwise(tmp_path / "pointwise.onnx")
        few = models.vector_store(tmp_path / "vectors", 8)
        with pytest.raises(PassError) as caught:
            apply_step(self.step, model, self.material(few), tmp_path / "made", workshop=workshop)
        assert "\n" not in str(caught.value)
        assert str(self.step) in str(caught.value)

    def test_damaged_model_is_one_line(
        self, items: Store, tmp_path: Path, workshop: Workshop
    ) -> None:
        """Garbage is an error of the pass."""
        model = tmp_path / "garbage.onnx"
        model.write_bytes(b"\x08garbage" * 20)
        with pytest.raises(PassError) as caught:
            apply_step(self.step, model, self.material(items), tmp_path / "made", workshop=workshop)
        assert "\n" not in str(caught.value)

    def test_nothing_is_reported_over_the_network(
        self, model: Path, items: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The process of the pass has telemetry switched off before anything is imported."""
        seen: list[dict[str, str]] = []

        class Spied(Child):
            def __init__(self, module: str, environment: dict[str, str] | None = None) -> None:
                seen.append(dict(environment or {}))
                super().__init__(module, environment)

        monkeypatch.setattr(process, "Child", Spied)
        apply_step(self.step, model, self.material(items), tmp_path / "made")
        (environment,) = seen
        assert environment["NNCF_CI"]
        assert environment["CI"] == "true"


def _alone(model: Path, folder: Path) -> Path:
    """Move `model` to a folder of its own."""
    (folder / "in").mkdir()
    return model.rename(folder / "in" / model.name)


def _digests(folder: Path) -> dict[str, Any]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}
