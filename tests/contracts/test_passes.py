"""Every registered pass against the contract of passes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from joulewise.compress.material import Material
from joulewise.compress.passes import PASSES
from joulewise.compress.process import ENVIRONMENT
from joulewise.core.recipe import Step
from joulewise.testing import models
from joulewise.testing.pass_contract import PassContract
from joulewise.workload.store import Store

STUBBED = """
from unittest.mock import MagicMock
from nncf.telemetry import telemetry
assert isinstance(telemetry, MagicMock), type(telemetry)
"""


class TestStaticInt8(PassContract):
    step = Step(name="static_int8")
    runtime = "onnxruntime"


class TestDynamicInt8(PassContract):
    step = Step(name="dynamic_int8")
    runtime = "onnxruntime"
    make = staticmethod(models.mlp_classifier)


class TestWeightOnly(PassContract):
    step = Step(name="weight_only")
    runtime = "onnxruntime"
    make = staticmethod(models.mlp_classifier)


class TestSmooth(PassContract):
    step = Step(name="smooth")
    runtime = "onnxruntime"
    make = staticmethod(models.mlp_classifier)


class TestNncfInt8(PassContract):
    step = Step(name="nncf_int8")
    runtime = "openvino"


@pytest.mark.slow
class TestLitert(PassContract):
    step = Step(name="litert", parameters={"int8": "dynamic"})
    runtime = "litert"


class TestCascade(PassContract):
    step = Step(name="cascade", parameters={"threshold": 1.0})
    runtime = "onnxruntime"

    def material(self, items: Store) -> Material:
        """A second stage of the same job; its weights lie elsewhere, so it is another file."""
        original = models.conv_classifier(items.folder / "original.onnx", external=True)
        return Material(calibrate=items, original=original)


class TestEarlyExit(PassContract):
    step = Step(name="early_exit", parameters={"threshold": 1.0})
    runtime = "onnxruntime"


class TestFoldBatchNorm(PassContract):
    step = Step(name="fold_batch_norm")
    runtime = "onnxruntime"
    make = staticmethod(models.norm_classifier)


class TestQat(PassContract):
    step = Step(name="qat", parameters={"epochs": 1, "rate": 1e-4})
    runtime = "onnxruntime"

    def material(self, items: Store) -> Material:
        """The model as its own teacher."""
        return Material(calibrate=items, train=items, search=items)


class TestDistill(PassContract):
    step = Step(name="distill", parameters={"epochs": 1, "rate": 1e-4})
    runtime = "onnxruntime"

    def material(self, items: Store) -> Material:
        """The model as its own teacher."""
        return Material(calibrate=items, train=items, search=items)


class TestPrune(PassContract):
    step = Step(name="prune", parameters={"ratio": 0.1, "align": 1})
    runtime = "onnxruntime"


class TestDropBlocks(PassContract):
    step = Step(name="drop_blocks", parameters={"count": 1})
    runtime = "onnxruntime"
    make = staticmethod(models.residual_classifier)


class TestTrimPadding(PassContract):
    step = Step(name="trim_padding")
    runtime = "onnxruntime"
    make = staticmethod(models.masked_pooling)

    def store(self, folder: Path, model: Path, items: int) -> Store:  # noqa: ARG002
        """Tokens and their mask, which this pass is about."""
        return models.masked_store(folder, items)


class TestLowRank(PassContract):
    step = Step(name="low_rank", parameters={"energy": 0.95, "align": 1})
    runtime = "onnxruntime"
    make = staticmethod(models.mlp_classifier)


@pytest.mark.parametrize("name", list(PASSES))
def test_every_pass_has_a_suite(name: str) -> None:
    assert name in {suite.step.name for suite in PassContract.__subclasses__()}


def test_nncf_itself_says_that_its_telemetry_is_a_stub() -> None:
    """Pytest switches it off as well, so its variables are left out."""
    own = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
    done = subprocess.run(
        [sys.executable, "-c", STUBBED],
        env={**own, **ENVIRONMENT},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
