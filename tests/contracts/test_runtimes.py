"""Every registered runtime against the contract of runtimes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from joulewise.compress.process import ENVIRONMENT
from joulewise.core.child import Child
from joulewise.core.errors import ProgramError
from joulewise.core.recipe import RunSettings
from joulewise.export.litert import LiteRt
from joulewise.export.program import RUNTIMES
from joulewise.testing import models
from joulewise.testing.runtime_contract import RuntimeContract
from joulewise.workload.store import write_store


class TestOnnxRuntime(RuntimeContract):
    name = "onnxruntime"


class TestOpenVino(RuntimeContract):
    name = "openvino"


@pytest.fixture(scope="module")
def converter() -> Iterator[Child]:
    with Child("joulewise.compress.worker", ENVIRONMENT) as child:
        yield child


class TestLiteRt(RuntimeContract):
    name = "litert"
    tells_operators = False

    @pytest.fixture(autouse=True)
    def use_converter(self, converter: Child) -> None:
        """Convert in one process, as it takes seconds to begin."""
        self.converter = converter

    def artifact(self, model: Path, batch: dict[str, Any]) -> Path:
        """Convert it for that batch."""
        rows = len(next(iter(batch.values())))
        folder = model.parent / f"litert-{rows}"
        if not folder.exists():
            folder.mkdir()
            dtypes = {name: str(values.dtype) for name, values in batch.items()}
            items = write_store(folder / "items", batch, dtypes, None, np.arange(rows))
            self.converter.ask(
                "apply", name="litert", parameters={}, source=str(model),
                stores={"calibrate": str(items.folder)}, original=None, seed=0,
                checkpoint=str(folder / "progress"), training_s=None, values=False,
                batch_items=rows, folder=str(folder),
            )  # fmt: skip
        return folder / "model.tflite"

    def test_another_batch_is_one_line(self, tmp_path: Path) -> None:
        model = models.mlp_classifier(tmp_path / "m.onnx")
        x, _ = models.labelled_items(model, 4)
        path = self.artifact(model, {"x": x[:2]})
        for shapes in ({"x": x.shape}, {"y": x[:2].shape}):
            with pytest.raises(ProgramError, match="convert it for these") as caught:
                LiteRt().open(path, RunSettings(runtime="litert"), shapes)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", list(RUNTIMES))
def test_every_runtime_has_a_suite(name: str) -> None:
    assert name in {suite.name for suite in RuntimeContract.__subclasses__()}
