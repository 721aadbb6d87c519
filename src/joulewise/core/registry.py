"""A table of back ends: name -> where its code is, what it needs, one line about it.

A table is a literal; nothing is imported until an entry is loaded, and nothing is registered by
side effect. Third parties add entries through Python entry points of the group the table names.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Generic, TypeVar, cast

from joulewise.core.errors import MissingExtraError, UsageError

__all__ = ["Entry", "Registry"]

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One row of a table.

    Args:
        target: ``module:attribute`` of the back end, imported on first use.
        summary: one line for ``doctor`` and the documentation.
        requires: importable packages it needs beyond the base install.
        extra: the extra of joulewise that brings them.
        by_name_only: True where it is never chosen unasked, and so need not be loaded to choose.
    """

    target: str
    summary: str
    requires: tuple[str, ...] = ()
    extra: str = ""
    by_name_only: bool = False


class Registry(Generic[T_co]):
    """Look back ends up by name.

    Args:
        kind: what the rows are, for messages ("runtime").
        rows: the built-in table.
        group: entry-point group through which others add rows.
    """

    def __init__(self, kind: str, rows: Mapping[str, Entry], group: str) -> None:
        self.kind = kind
        self._rows = dict(rows)
        for point in entry_points(group=group):
            self._rows.setdefault(
                point.name, Entry(target=point.value, summary=f"from {point.module}")
            )

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __getitem__(self, name: str) -> Entry:
        """Return the row called `name`; raises UsageError with the nearest name."""
        if name in self._rows:
            return self._rows[name]
        near = difflib.get_close_matches(name, self._rows, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose from: {', '.join(self._rows)}"
        raise UsageError(f"unknown {self.kind} {name!r}; {hint}")

    def missing(self, name: str) -> str | None:
        """Return the first required package of `name` that is not installed, else None."""
        for package in self[name].requires:
            if importlib.util.find_spec(package) is None:
                return package
        return None

    def require(self, name: str) -> None:
        """Raise MissingExtraError where a package of `name` is not installed."""
        package = self.missing(name)
        if package is not None:
            raise MissingExtraError(package, self[name].extra)

    def load(self, name: str) -> T_co:
        """Import the back end; raises MissingExtraError or UsageError."""
        self.require(name)
        module, _, attribute = self[name].target.partition(":")
        return cast(T_co, getattr(importlib.import_module(module), attribute))
