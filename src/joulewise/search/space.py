"""Which recipes are tried, cheapest joules first."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from joulewise.compress.passes import PASSES
from joulewise.core.host import Host
from joulewise.core.recipe import Recipe, RunSettings, Step
from joulewise.export.program import RUNTIMES

__all__ = ["anchor_recipe", "as_found_recipe", "changed_recipes", "lossless_recipes"]

QUANTIZABLE = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm", "LSTM", "GRU", "Attention"})
"""Operators of which the int8 passes quantize at least one; without any there is nothing to try."""


def as_found_recipe(runtimes: Sequence[str]) -> Recipe:
    """Return the original as a user runs it who sets nothing."""
    return Recipe(run=RUNTIMES.load(runtimes[0])().as_found())


def anchor_recipe(runtimes: Sequence[str], cpus: int) -> Recipe:
    """Return the program that all trials are interleaved with: one thread, so the least noise."""
    return Recipe(run=RUNTIMES.load(runtimes[0])().lossless(cpus)[0])


def lossless_recipes(runtimes: Sequence[str], cpus: int) -> tuple[Recipe, ...]:
    """Return the ways to run the original that leave its arithmetic as it is."""
    found = [as_found_recipe(runtimes)]
    found += [
        Recipe(run=settings)
        for runtime in runtimes
        for settings in RUNTIMES.load(runtime)().lossless(cpus)
    ]
    return tuple(found)


def changed_recipes(
    operators: Collection[str], best: dict[str, RunSettings], host: Host
) -> tuple[Recipe, ...]:
    """Return the recipes that change the model's arithmetic, for this CPU's instruction set.

    Args:
        operators: operator types of the original.
        best: runtime -> its cheapest lossless settings here.
        host: the machine; without VNNI, weights of 7 bits are tried first.
    """
    recipes: list[Recipe] = []
    for runtime, run in best.items():
        lossy = RUNTIMES.load(runtime)().lossy(run, host.instruction_sets)
        recipes += [Recipe(run=settings) for settings in lossy]
        if QUANTIZABLE.intersection(operators):
            recipes += [Recipe(steps=x, run=run) for x in _int8_steps(runtime, operators, host)]
    return tuple(recipes)


def _int8_steps(runtime: str, operators: Collection[str], host: Host) -> list[tuple[Step, ...]]:
    if runtime == "openvino":
        names = ("performance", "mixed") if PASSES.missing("nncf_int8") is None else ()
        return [(Step(name="nncf_int8", parameters={"preset": preset}),) for preset in names]
    if runtime != "onnxruntime":
        return []
    saturates = host.architecture == "x86_64" and "vnni" not in host.instruction_sets
    steps: list[tuple[Step, ...]] = [
        (_static("all", saturates),),
        (_static("all", not saturates),),
        (_static("compute", saturates),),
        (_static("compute", not saturates),),
    ]
    dynamic = Step(name="dynamic_int8", parameters={"reduce_range": saturates})
    if "MatMul" in operators:
        steps.append((dynamic,))
    if _is_transformer(operators):
        smooth = Step(name="smooth")
        steps += [(smooth, dynamic), (smooth, _static("transformer", saturates))]
    return steps


def _is_transformer(operators: Collection[str]) -> bool:
    """Return whether a graph has attention, or normalises layers as transformers do.

    A network of convolutions may end with MatMul and Softmax, but that is no attention.
    """
    attends = "Softmax" in operators and "Conv" not in operators
    return "MatMul" in operators and ("LayerNormalization" in operators or attends)


def _static(operators: str, reduce_range: bool) -> Step:
    return Step(
        name="static_int8", parameters={"operators": operators, "reduce_range": reduce_range}
    )
