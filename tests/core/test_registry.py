from __future__ import annotations

import fractions
import sys
from pathlib import Path

import pytest

from joulewise.core.errors import MissingExtraError, UsageError
from joulewise.core.registry import Entry, Registry

GROUP = "joulewise.nobody"
ROWS = {
    "fraction": Entry(target="fractions:Fraction", summary="exact numbers"),
    "heavy": Entry(
        target="no_such_package.deep:Thing",
        summary="needs a package that nobody has",
        requires=("json", "no_such_package"),
        extra="heavy",
    ),
}


@pytest.fixture
def table() -> Registry[type[fractions.Fraction]]:
    return Registry("number", ROWS, GROUP)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution of somebody else that adds two rows, one under a name that is taken."""
    folder = tmp_path / "stranger-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        f"[{GROUP}]\nodd = decimal:Decimal\nfraction = decimal:Decimal\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


def test_names_come_in_the_order_of_the_table(
    table: Registry[type[fractions.Fraction]],
) -> None:
    assert list(table) == ["fraction", "heavy"]


def test_a_row_is_found_by_its_name(table: Registry[type[fractions.Fraction]]) -> None:
    assert table["heavy"] == ROWS["heavy"]


def test_a_misspelt_name_is_answered_with_the_nearest(
    table: Registry[type[fractions.Fraction]],
) -> None:
    with pytest.raises(UsageError, match="unknown number 'fracton'; did you mean 'fraction'"):
        table["fracton"]


def test_a_strange_name_is_answered_with_all(table: Registry[type[fractions.Fraction]]) -> None:
    with pytest.raises(UsageError, match="unknown number 'xyz'; choose from: fraction, heavy"):
        table["xyz"]


def test_a_row_without_requirements_misses_nothing(
    table: Registry[type[fractions.Fraction]],
) -> None:
    assert table.missing("fraction") is None


def test_the_first_missing_package_is_named(table: Registry[type[fractions.Fraction]]) -> None:
    assert table.missing("heavy") == "no_such_package"


def test_a_row_whose_packages_are_there_may_be_used(
    table: Registry[type[fractions.Fraction]],
) -> None:
    table.require("fraction")


def test_a_missing_package_is_an_error_with_the_pip_line(
    table: Registry[type[fractions.Fraction]],
) -> None:
    with pytest.raises(MissingExtraError) as caught:
        table.require("heavy")
    assert str(caught.value) == (
        "no_such_package is not installed; install it with: pip install 'joulewise[heavy]'"
    )


def test_loading_gives_the_attribute(table: Registry[type[fractions.Fraction]]) -> None:
    assert table.load("fraction") is fractions.Fraction


def test_loading_names_a_missing_package_before_it_imports(
    table: Registry[type[fractions.Fraction]],
) -> None:
    with pytest.raises(MissingExtraError):
        table.load("heavy")


def test_loading_an_unknown_name_is_a_usage_error(
    table: Registry[type[fractions.Fraction]],
) -> None:
    with pytest.raises(UsageError):
        table.load("fractal")


def test_nothing_is_imported_before_a_row_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "this", raising=False)
    table: Registry[object] = Registry(
        "poem", {"zen": Entry(target="this:s", summary="a poem")}, GROUP
    )
    table.require("zen")
    assert "this" not in sys.modules


@pytest.mark.usefixtures("installed")
def test_others_add_rows_through_entry_points() -> None:
    entry = Registry[object]("number", ROWS, GROUP)["odd"]
    assert entry == Entry(target="decimal:Decimal", summary="from decimal")


@pytest.mark.usefixtures("installed")
def test_others_cannot_replace_a_row_of_the_table() -> None:
    assert Registry[object]("number", ROWS, GROUP)["fraction"] == ROWS["fraction"]
