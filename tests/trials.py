"""Synthetic trials; every figure is invented."""

from __future__ import annotations

from joulewise.core.claim import Ratio, Trial
from joulewise.core.recipe import Recipe, RunSettings, Step

AS_FOUND = Recipe(run=RunSettings(runtime="onnxruntime"))
ONE_THREAD = Recipe(run=RunSettings(runtime="onnxruntime", threads=1))


def int8(name: str = "static_int8", **parameters: str | float | bool) -> Recipe:
    """Return a recipe that changes the model."""
    return Recipe(steps=(Step(name=name, parameters=parameters),), run=ONE_THREAD.run)


def ratio(value: float, spread: float = 1.02, band: float = 1.0) -> Ratio:
    """Return a ratio whose sampling interval is a factor `spread` wide on each side."""
    return Ratio(
        value=value,
        low=value / spread / band,
        high=value * spread * band,
        sampling_low=value / spread,
        sampling_high=value * spread,
        confidence=0.95,
        pairs=6,
        grade="D",
        objective="net of idle",
    )


def measured(recipe: Recipe, value: float, *, spread: float = 1.02, band: float = 1.0) -> Trial:
    """Return a trial that went all the way."""
    return Trial(recipe=recipe, state="measured", ratio=ratio(value, spread, band))


def rejected(recipe: Recipe, value: float | None = None) -> Trial:
    """Return a trial whose quality did not do."""
    found = None if value is None else ratio(value)
    return Trial(recipe=recipe, state="rejected", reason="quality is not enough", ratio=found)


def failed(recipe: Recipe) -> Trial:
    """Return a trial that could not be made or run."""
    return Trial(recipe=recipe, state="failed", reason="it crashed")
