from __future__ import annotations

import re

import pytest

from joulewise.core import errors
from joulewise.core.errors import JoulewiseError, MissingExtraError, one_line


def drawn_tree() -> dict[str, int]:
    """Class names in the module docstring's drawing, with their exit codes."""
    drawn = re.findall(r"^ +(?:[├└]── )?(\w+Error) +(\d) ", str(errors.__doc__), re.MULTILINE)
    return {name: int(code) for name, code in drawn}


def real_tree() -> dict[str, int]:
    known: list[type[JoulewiseError]] = [JoulewiseError, *JoulewiseError.__subclasses__()]
    return {k.__name__: k.exit_code for k in known if k.__module__ == errors.__name__}


def test_the_drawn_tree_is_the_real_one() -> None:
    assert drawn_tree() == real_tree()


def test_every_error_of_the_tree_is_public() -> None:
    assert set(real_tree()) <= set(errors.__all__)


@pytest.mark.parametrize(("name", "code"), [("UsageError", 2), ("ClaimError", 3)])
def test_exit_codes_of_usage_and_claim_stand_apart(name: str, code: int) -> None:
    assert [n for n, c in real_tree().items() if c == code] == [name]


def test_missing_extra_names_the_pip_line() -> None:
    assert str(MissingExtraError("onnx", "onnx")) == (
        "onnx is not installed; install it with: pip install 'joulewise[onnx]'"
    )


def test_missing_extra_keeps_package_and_extra() -> None:
    error = MissingExtraError("nncf", "openvino")
    assert (error.package, error.extra) == ("nncf", "openvino")


def test_text_of_a_foreign_error_becomes_one_line() -> None:
    assert one_line(ValueError("first\n  second")) == "first second"


def test_text_of_a_foreign_error_is_cut_to_200_characters() -> None:
    assert len(one_line(ValueError("word " * 100))) <= 200


def test_a_foreign_error_without_text_is_named_by_its_type() -> None:
    assert one_line(ZeroDivisionError()) == "ZeroDivisionError"
