"""The promises of every runtime, as tests; subclass it beside each new runtime.

::

    class TestMyRuntime(RuntimeContract):
        name = "my-runtime"
"""

# ruff: noqa: S101  (these are tests)

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest

from joulewise.core.errors import ProgramError
from joulewise.core.recipe import Recipe, RunSettings
from joulewise.export.process import ProgramProcess
from joulewise.export.program import RUNTIMES, Program, Runtime
from joulewise.testing import models
from joulewise.workload.store import write_store

__all__ = ["RuntimeContract"]

Batch = dict[str, npt.NDArray[Any]]

CPUS = (1, 2, 6)
MODELS: tuple[Callable[[Path], Path], ...] = (models.conv_classifier, models.mlp_classifier)


class RuntimeContract:
    """What every runtime promises; `name` is given by the subclass.

    Attributes:
        name: registry name.
        tolerance_ratio: largest relative L2 error of an item's float32 answers.
        free_tolerance_ratio: the same where the precision is left to the runtime, which may then
            round to bfloat16.
        tells_operators: whether it tells where the time of a call goes.
    """

    name: ClassVar[str]
    tolerance_ratio: ClassVar[float] = 1e-5
    free_tolerance_ratio: ClassVar[float] = 2e-2
    tells_operators: ClassVar[bool] = True

    @pytest.fixture
    def runtime(self) -> Runtime:
        """Give the runtime."""
        return RUNTIMES.load(self.name)()

    def artifact(self, model: Path, batch: Batch) -> Path:  # noqa: ARG002
        """Return `model` in a format of this runtime; a subclass may convert it for `batch`."""
        return model

    def opened(self, model: Path, batch: Batch, settings: RunSettings | None = None) -> Program:
        """Return `model` opened for batches shaped like `batch`."""
        runtime = RUNTIMES.load(self.name)()
        shapes = {name: values.shape for name, values in batch.items()}
        chosen = settings or runtime.lossless(1)[0]
        return runtime.open(self.artifact(model, batch), chosen, shapes)

    def test_takes_some_format(self, runtime: Runtime) -> None:
        """There is an artifact that it opens."""
        assert runtime.formats

    @pytest.mark.parametrize("cpus", CPUS)
    def test_settings_are_of_this_runtime(self, runtime: Runtime, cpus: int) -> None:
        """Nothing is run by another runtime, or on more threads than there are CPUs."""
        for settings in (runtime.as_found(), *runtime.lossless(cpus)):
            assert isinstance(settings, RunSettings)
            assert settings.runtime == self.name
            assert settings.threads is None or 1 <= settings.threads <= cpus

    @pytest.mark.parametrize("cpus", CPUS)
    def test_lossless_settings_are_unique(self, runtime: Runtime, cpus: int) -> None:
        """No setting is measured twice, and the first is one thread."""
        settings = runtime.lossless(cpus)
        assert len(set(settings)) == len(settings) > 0
        assert settings[0].threads == 1
        assert all(Recipe(run=run).lossless for run in settings)

    def test_lossy_settings_are_called_lossy(self, runtime: Runtime) -> None:
        """What changes the arithmetic is never passed off as lossless."""
        best = runtime.lossless(2)[0]
        for settings in runtime.lossy(best, ("avx2", "avx512_bf16", "bf16", "amx_bf16")):
            assert settings.runtime == self.name
            assert not Recipe(run=settings).lossless

    @pytest.mark.parametrize("make", MODELS)
    @pytest.mark.parametrize("items", [1, 8])
    def test_every_setting_gives_the_reference_answers(
        self, runtime: Runtime, tmp_path: Path, make: Callable[[Path], Path], items: int
    ) -> None:
        """As found and lossless settings all answer like ONNX's reference implementation."""
        model = make(tmp_path / "m.onnx")
        batch: Batch = {"x": models.labelled_items(model, items)[0]}
        (wanted,) = models.reference_outputs(model, batch)
        for settings in (runtime.as_found(), *runtime.lossless(2)):
            as_found = settings == runtime.as_found()
            limit = self.free_tolerance_ratio if as_found else self.tolerance_ratio
            (outputs,) = self.opened(model, batch, settings).run(batch)
            assert _error_ratio(outputs, wanted) <= limit, settings

    def test_opens_a_fixed_batch_and_external_weights(self, tmp_path: Path) -> None:
        """Weights in a second file, and a batch that the model is fixed to, are no obstacle."""
        model = models.conv_classifier(tmp_path / "m.onnx", batch=4, external=True)
        batch: Batch = {"x": models.labelled_items(model, 4)[0]}
        (ours,) = self.opened(model, batch).run(batch)
        (wanted,) = models.reference_outputs(model, batch)
        assert _error_ratio(ours, wanted) <= self.tolerance_ratio

    def test_inputs_go_by_name_and_outputs_in_order(self, tmp_path: Path) -> None:
        """Several inputs and outputs are not mixed up."""
        model = models.two_by_two(tmp_path / "m.onnx")
        random = np.random.default_rng(0)
        batch: Batch = {name: random.normal(size=(2, 3)).astype(np.float32) for name in "ab"}
        difference, product = self.opened(model, batch).run(batch)
        assert _error_ratio(difference, batch["a"] - batch["b"]) <= self.tolerance_ratio
        assert _error_ratio(product, batch["a"] * batch["b"]) <= self.tolerance_ratio

    def test_input_that_a_model_only_passes_on(self, tmp_path: Path) -> None:
        """A graph that renames its input at once still takes it by its own name."""
        model = models.renaming(tmp_path / "m.onnx")
        batch: Batch = {"x": np.ones((2, 3), np.float32)}
        outputs = self.opened(model, batch).run(batch)
        np.testing.assert_allclose(np.asarray(outputs[0]), 2 * batch["x"])

    def test_run_returns_fresh_arrays(self, tmp_path: Path) -> None:
        """A second run leaves the outputs of the first as they were, and its inputs too."""
        model = models.mlp_classifier(tmp_path / "m.onnx")
        x, _ = models.labelled_items(model, 8)
        first: Batch = {"x": x[:4].copy()}
        second: Batch = {"x": x[4:].copy()}
        program = self.opened(model, first)
        (outputs,) = program.run(first)
        before = outputs.copy()
        (others,) = program.run(second)
        np.testing.assert_array_equal(outputs, before)
        np.testing.assert_array_equal(np.concatenate([first["x"], second["x"]]), x)
        assert not np.array_equal(others, before)

    def test_close_is_harmless(self, tmp_path: Path) -> None:
        """Closing keeps the outputs alive, and closing twice does nothing."""
        model = models.mlp_classifier(tmp_path / "m.onnx")
        batch: Batch = {"x": models.labelled_items(model, 2)[0]}
        program = self.opened(model, batch)
        (outputs,) = program.run(batch)
        program.close()
        program.close()
        assert np.isfinite(np.asarray(outputs, np.float64)).all()

    def test_profile_tells_no_more_time_than_there_was(
        self, runtime: Runtime, tmp_path: Path
    ) -> None:
        """Operators have names and times, the longest first, which fit into that of all calls.

        A runtime that does not tell them says so.
        """
        model = models.conv_classifier(tmp_path / "m.onnx")
        batch: Batch = {"x": models.labelled_items(model, 256)[0]}
        artifact = self.artifact(model, batch)
        if not self.tells_operators:
            with pytest.raises(ProgramError):
                runtime.profile(artifact, runtime.lossless(1)[0], [batch] * 5)
            return
        began_s = time.perf_counter()
        found = runtime.profile(artifact, runtime.lossless(1)[0], [batch] * 5)
        took_s = time.perf_counter() - began_s
        told = [each.seconds for each in found]
        assert told
        assert told == sorted(told, reverse=True)
        assert all(each.kind and each.count > 0 and each.seconds >= 0 for each in found)
        assert 0 < 5 * sum(told) <= took_s

    @pytest.mark.parametrize("damage", ["empty", "noise", "truncated"])
    def test_damaged_file_is_an_error_not_a_crash(self, tmp_path: Path, damage: str) -> None:
        """The process that opens it survives to say in one line what is wrong."""
        model = models.mlp_classifier(tmp_path / "m.onnx")
        x, _ = models.labelled_items(model, 2)
        store = write_store(tmp_path / "s", {"x": x}, {"x": "float32"}, None, np.arange(2))
        broken = self.artifact(model, {"x": x[:1]})
        whole = broken.read_bytes()
        noise = np.random.default_rng(0).bytes(400)
        contents = {"empty": b"", "noise": noise, "truncated": whole[: len(whole) // 2]}
        broken.write_bytes(contents[damage])
        with pytest.raises(ProgramError) as caught:
            ProgramProcess(broken, RUNTIMES.load(self.name)().as_found(), store, 1).close()
        text = str(caught.value)
        assert "\n" not in text
        assert "killed by signal" not in text
        assert len(text.split()) > 3


def _error_ratio(ours: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> float:
    """Return the largest relative L2 error of an item, for outputs [n, ...]."""
    assert ours.shape == wanted.shape
    ours, wanted = (np.asarray(x, np.float64).reshape(len(x), -1) for x in (ours, wanted))
    errors = np.linalg.norm(ours - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
    return float(errors.max())
