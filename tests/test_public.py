from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import joulewise


def test_public_names_are_pinned() -> None:
    assert joulewise.__all__ == [
        "Budget",
        "JoulewiseError",
        "Settings",
        "Usage",
        "__version__",
        "calibrate",
        "compare_commands",
        "compare_models",
        "compress_model",
        "log_to_mlflow",
        "measure",
        "measure_command",
        "measure_model",
        "optimize",
        "supply",
        "verify",
    ]


def test_no_subpackage_hides_a_public_name() -> None:
    """A subpackage becomes an attribute of the package once it is imported."""
    parts = {part.name for part in pkgutil.iter_modules(joulewise.__path__)}
    assert not parts & set(joulewise.__all__)
    importlib.import_module("joulewise.pipeline")
    for name in set(joulewise.__all__) - {"__version__"}:
        assert not inspect.ismodule(getattr(joulewise, name)), name


def test_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(joulewise, "optimise")


HEAVY = {
    "msgspec",
    "numpy",
    "onnx",
    "onnxruntime",
    "openvino",
    "optuna",
    "rich",
    "scipy",
    "torch",
    "typer",
}


WINDOW = """
with joulewise.measure("all"):
    pass
"""
COMMAND = """
from joulewise.cli import main
sys.argv = ["joulewise", "measure", "--", "true"]
try:
    main()
except SystemExit as ended:
    assert ended.code == 0
"""


@pytest.mark.parametrize("what", ["", WINDOW, COMMAND], ids=["import", "window", "command"])
def test_measuring_loads_no_heavy_package(what: str) -> None:
    """Their CPU time would be that of the program that is measured, or that it waits for."""
    code = f"import sys, joulewise\n{what}\nprint(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
