"""A teacher's answers: computed once where they are needed again, else batch by batch."""

from __future__ import annotations

import math
import tokenize
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from joulewise.core.errors import PassError
from joulewise.learn.items import Items, Rows
from joulewise.learn.losses import Form, comparable

__all__ = ["Teacher", "Tell"]

Tell = Callable[[float, str], None]
"""Called with the share that is done, in [0, 1], and a few words."""

Array = np.ndarray[Any, np.dtype[Any]]

KEPT_LIMIT_BYTES = 1 << 31
"""Answers are kept up to this size; larger ones are computed each time."""

UNREADABLE = (EOFError, OSError, SyntaxError, TypeError, ValueError, tokenize.TokenError)
"""What numpy raises on files that are missing or damaged."""


class Teacher:
    """Answers what a network says, in the form that losses compare.

    Args:
        module: the network; put in evaluation mode.
        form: of its first output.
        bf16: whether it computes in bfloat16.
    """

    def __init__(self, module: nn.Module, form: Form, *, bf16: bool) -> None:
        self._module, self._form, self._bf16 = module.eval(), form, bf16
        self._kept: dict[str, Array] = {}
        self._shapes: list[tuple[int, ...]] = []

    def answer(self, split: str, rows: Rows, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the answers to items of a split: the kept ones, or else those to `inputs`.

        Args:
            split: name under which answers may have been kept.
            rows: numbers of the items in it.
            inputs: the items, perhaps changed.
        """
        if split not in self._kept:
            return self._ask(inputs)
        table = torch.from_numpy(np.asarray(self._kept[split][rows], np.float32))
        parts = table.split([math.prod(shape) for shape in self._shapes], dim=1)
        return tuple(
            part.reshape(-1, *shape) for part, shape in zip(parts, self._shapes, strict=True)
        )

    def keep(
        self, split: str, items: Items, batch_items: int, file: Path | None, tell: Tell
    ) -> None:
        """Compute the answers to all items of a split and keep them, unless they are too large.

        Args:
            split: name under which they are asked for.
            items: of the split.
            batch_items: computed at a time.
            file: ``.npy`` file where they are kept, or found already; None keeps them in memory.
            tell: told of the progress.

        Raises:
            PassError: the file cannot be written.
        """
        first = items.at(next(items.chunks(batch_items)))
        self._shapes = [tuple(x.shape[1:]) for x in self._ask(first)]
        shape = (items.count, sum(math.prod(shape) for shape in self._shapes))
        # The rounding of float16 is far below what teachers differ by; values may exceed its range.
        dtype = np.dtype(np.float32 if self._form == "values" else np.float16)
        if math.prod(shape) * dtype.itemsize > KEPT_LIMIT_BYTES:
            return
        try:
            table = None if file is None else _opened(file, shape, dtype)
            if table is None:
                part = None if file is None else file.with_suffix(".part")
                table = _new(part, shape, dtype)
                self._fill(table, items, batch_items, tell)
                if part is not None and file is not None:
                    part.replace(file)
        except OSError as error:
            raise PassError(f"cannot keep the teacher's answers: {error.strerror}") from error
        self._kept[split] = table

    def _fill(self, table: Array, items: Items, batch_items: int, tell: Tell) -> None:
        for rows in items.chunks(batch_items):
            answers = self._ask(items.at(rows))
            table[rows] = torch.cat([x.flatten(1) for x in answers], dim=1).numpy()
            tell(0.0, f"the teacher has answered {rows[-1] + 1:,} of {items.count:,} items")

    def _ask(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
            outputs = self._module(*inputs)
        return comparable(outputs, self._form)


def _opened(file: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array | None:
    """Return the array in a file, None where it is not there or not what it should be."""
    try:
        found: Array = np.load(file, mmap_mode="r", allow_pickle=False)
    except UNREADABLE:
        return None
    return found if (found.shape, found.dtype) == (shape, dtype) else None


def _new(file: Path | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return an array to be filled, in a file or in memory."""
    if file is None:
        return np.empty(shape, dtype)
    file.parent.mkdir(parents=True, exist_ok=True)
    return np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
