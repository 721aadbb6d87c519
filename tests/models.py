"""Tiny but real jobs, and short measurements, for tests of the whole chain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from joulewise.meter.interleave import Plan
from joulewise.testing.models import conv_classifier, labelled_items

SHORT_PLANS: Mapping[str, Mapping[str, Plan]] = {
    "joulewise.pipeline": {"PROOF_PLAN": Plan(rounds=6, block_s=0.05, warm_up_s=0.1)},
    "joulewise.search.bench": {
        "QUICK_PLAN": Plan(rounds=2, block_s=0.02, warm_up_s=0.05),
        "FULL_PLAN": Plan(rounds=4, block_s=0.03, warm_up_s=0.1),
    },
}
"""Module -> plan -> a shorter one: intervals are wider, and all else is as it is."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A model and its data on disk."""

    model: Path
    data: Path


def make_job(folder: Path, items: int = 1500) -> Job:
    """Write a convolutional classifier and items whose labels are its own answers."""
    folder.mkdir(parents=True, exist_ok=True)
    model = conv_classifier(folder / "tiny.onnx")
    x, labels = labelled_items(model, items, flipped_ratio=0.0)
    np.savez(folder / "items.npz", x=x, y=labels)
    return Job(model=model, data=folder / "items.npz")


def shorten_plans(patch: pytest.MonkeyPatch) -> None:
    """Make measurements of this process short."""
    for module, plans in SHORT_PLANS.items():
        for name, plan in plans.items():
            patch.setattr(import_module(module), name, plan)
