"""Parameters of passes that a search may set: declared where the pass is, as the field's default.

@dataclass(frozen=True, kw_only=True)
class StaticInt8:
range: str = searched("minmax", "mse", "p99.99")
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any, TypeVar

__all__ = ["searched", "values_of"]

T = TypeVar("T")

VALUES = "searched"
"""Where a field's metadata hold its values."""


def searched(default: T, *others: T) -> T:
    """Return a dataclass field with a default, and with other values that a search may try."""
    return field(default=default, metadata={VALUES: (default, *others)})


def values_of(kind: type[Any]) -> Mapping[str, tuple[str | int | float | bool, ...]]:
    """Return what a search may try: field -> its values, the default first.

    Args:
        kind: a pass.
    """
    return {each.name: each.metadata[VALUES] for each in fields(kind) if VALUES in each.metadata}
