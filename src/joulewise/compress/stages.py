"""Join two stages into one file: set the gate on items, compose, and compare with the rule."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from joulewise.compress.compose import batch_of, compose, self_contained
from joulewise.compress.gate import Found, Gate, Terms, are_probabilities
from joulewise.compress.material import Material
from joulewise.compress.static_int8 import CALIBRATION_BATCH_ITEMS, batch_size
from joulewise.core.child import tell
from joulewise.core.errors import PassError, one_line
from joulewise.core.statistics import fewest_items
from joulewise.learn.session import open_session
from joulewise.workload.store import Store
from joulewise.workload.task import score_agreement, score_top1

if TYPE_CHECKING:
    import onnx

__all__ = ["METADATA_KEY", "Stages", "answers_to", "items_to_judge", "join", "require_classes"]

Array = npt.NDArray[Any]

METADATA_KEY = "joulewise.cascade"
"""Where a joined model says, in JSON, how its gate was set."""

CHECK_ITEMS = 2 * CALIBRATION_BATCH_ITEMS
"""Items on which a joined model is compared with the two stages."""

SAME_RATIO = 0.01
"""Largest relative L2 difference at which answers count as the same.

Source: a judgement: rounding of float32 stays below 1e-4; where it moves a value of a quantized
stage to the next of 256 steps, single answers change by more than this, all together do not.
"""

NEAR_RATIO = 1e-3
"""Relative distance to the threshold within which rounding may decide."""


@dataclass(frozen=True, kw_only=True)
class Stages:
    """A cheap and a dear way to answer the same items.

    Args:
        first: model of the cheap way.
        second: model of the dear way, whose answers are wanted.
        rest: what of the second is left to do for an item that the first has seen; self-contained.
        feeds: input of `rest` -> the value of the first that it gets.
    """

    first: Path
    second: Path
    rest: onnx.ModelProto
    feeds: Mapping[str, str]


def require_classes(material: Material) -> None:
    """Raise PassError where answers are no classes: then a model does not know how sure it is."""
    if material.values:
        raise PassError(
            "the answers are values or vectors; only models that give a score per class know how "
            "sure they are"
        )


def items_to_judge(material: Material, terms: Terms) -> list[Store]:
    """Return what a threshold is found with: calibration items, and the search's if these are few.

    Never items to train on: a first stage that was trained on them is too sure of them. That the
    search judges the result on the same items once more makes its judgement a little kinder, not
    that of the final test.
    """
    found = terms.threshold is None
    few = found and material.calibrate.items < fewest_items(terms.loss, terms.confidence)
    more = [] if material.search is None or not few else [material.search]
    return [material.calibrate, *more]


def join(
    stages: Stages,
    terms: Terms,
    items: Sequence[Store],
    folder: Path,
    note: Mapping[str, object] | None = None,
) -> tuple[str, ...]:
    """Write both stages, with a gate between them, to ``model.onnx`` in `folder`; return its name.

    Args:
        stages: what is joined.
        terms: of the gate.
        items: what the gate is set on; the first of them serve to check what was written.
        folder: where the model goes.
        note: what else the model should say under METADATA_KEY.

    Raises:
        PassError: the stages do not fit together, or no threshold will do.
    """
    import onnx

    first = self_contained(onnx.load(stages.first))
    tell((0.1, "asking the first stage"))
    ours = answers_to(stages.first, items)
    tell((0.3, "asking the second stage"))
    theirs = answers_to(stages.second, items)
    gate, found = _set_gate(terms, ours, theirs, _labels(items))
    tell((0.9, "joining the two"))
    few = min(CHECK_ITEMS, items[0].items)
    beginning = [[values[:few] for values in answers] for answers in (ours, theirs)]
    rows = _check(first, stages, gate, items[0], beginning)
    made = compose(first, stages.rest, gate, feeds=stages.feeds, rows=rows)
    _note(made, {"signal": terms.signal, "loss": terms.loss, **asdict(found), **(note or {})})
    onnx.save(made, folder / "model.onnx")
    tell((1.0, _sentence(terms, found)))
    return ("model.onnx",)


def answers_to(model: Path, items: Sequence[Store]) -> list[Array]:
    """Return every output of a model for all items, each [n, ...].

    Raises:
        PassError: an output does not have one row per item.
    """
    session, batch_items = open_session(model), batch_size(model)
    stores = [_answers(session, store, batch_items) for store in items]
    return [np.concatenate(parts) for parts in zip(*stores, strict=True)]


def _answers(session: Any, store: Store, batch_items: int) -> list[Array]:  # noqa: ANN401
    parts = []
    for batch in store.batches(batch_items):
        outputs = [np.asarray(values) for values in session.run(None, batch)]
        if any(values.ndim == 0 or len(values) != batch_items for values in outputs):
            raise PassError(
                "an output does not have one row per item of the batch; export the model with a "
                "batch axis on every output"
            )
        parts.append(outputs)
    return [np.concatenate(column)[: store.items] for column in zip(*parts, strict=True)]


def _labels(items: Sequence[Store]) -> npt.NDArray[np.int64] | None:
    known = [store.labels for store in items if store.labels is not None]
    return np.concatenate(known) if len(known) == len(items) else None


def _set_gate(
    terms: Terms,
    first: Sequence[Array],
    second: Sequence[Array],
    labels: npt.NDArray[np.int64] | None,
) -> tuple[Gate, Found]:
    """Return the gate, and what it does on these items.

    Right is the label where there are labels, else the second stage's answer.
    """
    shapes = [[values.shape[1:] for values in answers] for answers in (first, second)]
    if shapes[0] != shapes[1]:
        raise PassError(
            f"the two stages give outputs of shapes {shapes[0]} and {shapes[1]} an item"
        )
    scores = first[0]
    if scores.ndim != 2 or scores.shape[1] < 2 or scores.dtype.kind != "f":
        raise PassError(
            f"the first output is {scores.dtype} {list(scores.shape[1:])} an item; only models "
            "whose first output is a score per class know how sure they are"
        )
    gate = Gate(signal=terms.signal, threshold=0.0, probabilities=are_probabilities(scores))
    if labels is None:
        right = score_agreement(first, second), np.ones(len(scores), dtype=bool)
    else:
        right = score_top1(first, labels), score_top1(second, labels)
    found = terms.find(gate.confidence(scores), *right)
    return replace(gate, threshold=found.threshold), found


def _check(
    first: onnx.ModelProto,
    stages: Stages,
    gate: Gate,
    store: Store,
    answers: Sequence[Sequence[Array]],
) -> bool:
    """Return whether the second stage can be given the deferred items of a batch alone.

    What is checked has a threshold of its own, that defers half of the items.

    Raises:
        PassError: the joined model answers differently from its stages.
    """
    confidence = gate.confidence(answers[0][0])
    half = replace(gate, threshold=max(0.0, float(np.nan_to_num(np.nanmedian(confidence)))))
    deferred = half.deferred(answers[0][0])
    with np.errstate(invalid="ignore"):
        clear = ~(np.abs(confidence - half.threshold) <= NEAR_RATIO * half.threshold)
    wanted = [
        np.where(deferred.reshape(-1, *[1] * (ours.ndim - 1)), theirs, ours)[clear]
        for ours, theirs in zip(*answers, strict=True)
    ]
    reason = ""
    for rows in (True, False):
        made = compose(first, stages.rest, half, feeds=stages.feeds, rows=rows)
        reason = _difference(made, store, clear, wanted)
        if not reason:
            return rows
    raise PassError(
        f"joined, the two stages do not answer as they do alone: {reason}; leave out cascades and "
        "early exits for this model"
    )


def _difference(
    model: onnx.ModelProto,
    store: Store,
    clear: npt.NDArray[np.bool_],
    wanted: Sequence[Array],
) -> str:
    """Return in which way a model does not give what is wanted for the `clear` items, or ""."""
    fixed = batch_of(model)
    for batch_items in (CALIBRATION_BATCH_ITEMS, 1) if fixed is None else (fixed,):
        try:
            session = open_session(model)
            starts = range(0, len(clear), batch_items)
            parts = [session.run(None, store.batch(start, batch_items)) for start in starts]
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors have no common class
            return one_line(error)
        found = [np.concatenate(column)[: len(clear)][clear] for column in zip(*parts, strict=True)]
        off = max(_off(*pair) for pair in zip(found, wanted, strict=True))
        if not off <= SAME_RATIO:
            return f"in batches of {batch_items} an output is off by {100 * off:.2g} %"
    return ""


def _off(found: Array, wanted: Array) -> float:
    """Return the relative L2 difference; of what are no numbers, the share that differs."""
    if found.dtype.kind not in "fiub":
        return float(np.mean(found != wanted))
    same = (found == wanted) | ((found != found) & (wanted != wanted))  # or both NaN
    ours, theirs = found[~same].astype(np.float64), wanted[~same].astype(np.float64)
    if not len(ours):
        return 0.0
    length = float(np.linalg.norm(np.nan_to_num(wanted.astype(np.float64))))
    return float(np.linalg.norm(ours - theirs)) / (length or 1.0)


def _note(model: onnx.ModelProto, note: Mapping[str, object]) -> None:
    """Keep in the model how its gate was set."""
    others = [entry for entry in model.metadata_props if entry.key != METADATA_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(others)
    model.metadata_props.add(key=METADATA_KEY, value=json.dumps(note))


def _sentence(terms: Terms, found: Found) -> str:
    return (
        f"{100 * found.deferred_ratio:.0f} % of {found.items:,} items need the second stage, for a "
        f"loss below {100 * terms.loss:g} points with {100 * found.confidence:.0f} % confidence"
    )
