"""What a changed model should need, foreseen from where the time of the original's calls goes.

The time of each type of operator is measured once per runtime. What a step computes in fewer bits
then takes so much less of it, and the rest of the call stays. Conversions between numbers, caches
and what fuses differently are not in it. It decides what is tried first, so that a search that ends
early has seen the most promising, and nothing else: no candidate is rejected or proved by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from joulewise.core.claim import Trial
from joulewise.core.host import Host
from joulewise.core.profile import Profile
from joulewise.core.recipe import Recipe
from joulewise.search.choose import best_runs
from joulewise.search.why import PRODUCTS

__all__ = ["Surrogate", "ratios_of_runtimes"]

MATRIX_PRODUCTS = frozenset({"FullyConnected", "FusedMatMul", "MatMul"})
"""Products of matrices, as ONNX, ONNX Runtime and OpenVINO call them."""

INT8_OF = {"static_int8": PRODUCTS, "nncf_int8": PRODUCTS, "dynamic_int8": MATRIX_PRODUCTS}
"""Pass -> operators that it computes in 8 bits."""

INT8_GAIN, INT8_GAIN_WITHOUT_VNNI = 4.0, 4 / 3
"""Multiply-adds of 8 bits per instruction over those of 32; without VNNI it takes three.

Source: Rodriguez et al. 2018, "Lower numerical precision deep learning inference and training"
(Intel), section on instructions.
"""

BF16_GAIN = 2.0
"""The same of 16 bits: VDPBF16PS does 32 where a fused multiply-add of floats does 16."""


@dataclass(frozen=True, kw_only=True)
class Surrogate:
    """What is known before anything was changed.

    Args:
        ratios: runtime -> joules of the original on its cheapest lossless settings, relative to
            those of the anchor.
        profiles: runtime -> where the time of its calls goes there.
        host: the machine.
    """

    ratios: Mapping[str, float]
    profiles: Mapping[str, Profile]
    host: Host

    def ratio(self, recipe: Recipe) -> float | None:
        """Return the joules to be expected relative to the anchor's, None where nothing is known.

        The call's time is taken to shrink like its joules: Amdahl 1967, AFIPS 30, 483-485, with
        the part of the call that the steps reach.

        Args:
            recipe: none that is cut down or taught.
        """
        base, profile = self.ratios.get(recipe.run.runtime), self.profiles.get(recipe.run.runtime)
        if base is None or profile is None:
            return None
        reached, gain = frozenset[str](), 1.0
        for step in recipe.steps:
            if step.name in INT8_OF:
                reached, gain = INT8_OF[step.name], self._int8_gain
        if recipe.run.precision == "bf16":
            reached, gain = PRODUCTS, BF16_GAIN
        part = sum(share for kind, share in profile.shares.items() if kind in reached)
        return base * (1 - part * (1 - 1 / gain))

    def first(self, recipes: Iterable[Recipe]) -> tuple[Recipe, ...]:
        """Return recipes, those with the fewest joules to be expected first, else in their order.

        Those of which nothing is known come last.
        """
        known = [(self.ratio(recipe), recipe) for recipe in recipes]
        ranked = sorted(known, key=lambda pair: (pair[0] is None, pair[0] or 0.0))
        return tuple(recipe for _, recipe in ranked)

    @property
    def _int8_gain(self) -> float:
        host = self.host
        without = host.architecture == "x86_64" and "vnni" not in host.instruction_sets
        return INT8_GAIN_WITHOUT_VNNI if without else INT8_GAIN


def ratios_of_runtimes(trials: Iterable[Trial]) -> dict[str, float]:
    """Return runtime -> ratio to the anchor of the original on its cheapest lossless settings."""
    known = tuple(trials)
    best = best_runs(known)
    return {
        trial.recipe.run.runtime: trial.ratio.value
        for trial in known
        if trial.ratio is not None
        and trial.recipe.lossless
        and trial.recipe.run == best.get(trial.recipe.run.runtime)
    }
