"""Every registered runtime against the contract of runtimes."""

from __future__ import annotations

import pytest

from joulewise.export.program import RUNTIMES
from joulewise.testing.runtime_contract import RuntimeContract


class TestOnnxRuntime(RuntimeContract):
    name = "onnxruntime"


class TestOpenVino(RuntimeContract):
    name = "openvino"


@pytest.mark.parametrize("name", list(RUNTIMES))
def test_every_runtime_has_a_suite(name: str) -> None:
    assert name in {suite.name for suite in RuntimeContract.__subclasses__()}
