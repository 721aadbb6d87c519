"""Which recipes are tried, cheapest joules first."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from joulewise.compress.passes import PASSES
from joulewise.compress.trim_padding import MASK
from joulewise.core.host import Host
from joulewise.core.recipe import Recipe, RunSettings, Step
from joulewise.export.program import RUNTIMES

__all__ = [
    "anchor_recipe",
    "as_found_recipe",
    "changed_recipes",
    "is_transformer",
    "lossless_recipes",
]

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
    operators: Collection[str],
    best: dict[str, RunSettings],
    host: Host,
    inputs: Collection[str] = (),
) -> tuple[Recipe, ...]:
    """Return the recipes that change the model's arithmetic, for this CPU's instruction set.

    Args:
        operators: operator types of the original.
        best: runtime -> its cheapest lossless settings here.
        host: the machine; without VNNI, weights of 7 bits are tried first.
        inputs: names of the original's inputs; from one with a mask padding is cut.
    """
    recipes: list[Recipe] = []
    trims = MASK in inputs and PASSES.missing("trim_padding") is None
    for runtime, run in best.items():
        lossy = RUNTIMES.load(runtime)().lossy(run, host.instruction_sets)
        recipes += [Recipe(run=settings) for settings in lossy]
        if trims:
            recipes += [Recipe(steps=x, run=run) for x in _trimmed_steps(runtime, operators, host)]
        if QUANTIZABLE.intersection(operators):
            recipes += [Recipe(steps=x, run=run) for x in _int8_steps(runtime, operators, host)]
    return tuple(recipes)


def _int8_steps(runtime: str, operators: Collection[str], host: Host) -> list[tuple[Step, ...]]:
    if runtime == "openvino":
        names = ("performance", "mixed") if PASSES.missing("nncf_int8") is None else ()
        return [(Step(name="nncf_int8", parameters={"preset": preset}),) for preset in names]
    if runtime != "onnxruntime":
        return []
    saturates = _saturates(host)
    steps: list[tuple[Step, ...]] = [
        (_static("all", saturates),),
        (_static("all", not saturates),),
        (_static("compute", saturates),),
        (_static("compute", not saturates),),
    ]
    dynamic = Step(name="dynamic_int8", parameters={"reduce_range": saturates})
    if "MatMul" in operators:
        steps.append((dynamic,))
    if is_transformer(operators):
        steps += _smoothed_steps(saturates)
    return steps


def _smoothed_steps(saturates: bool) -> list[tuple[Step, ...]]:
    smooth = Step(name="smooth")
    dynamic = Step(name="dynamic_int8", parameters={"reduce_range": saturates})
    return [(smooth, dynamic), (smooth, _static("transformer", saturates))]


def _trimmed_steps(runtime: str, operators: Collection[str], host: Host) -> list[tuple[Step, ...]]:
    """Return steps that cut padding off first: alone, and before int8 of a transformer."""
    trim = Step(name="trim_padding")
    if runtime != "onnxruntime" or not is_transformer(operators):
        return [(trim,)]
    return [(trim,), *((trim, *steps) for steps in _smoothed_steps(_saturates(host)))]


def _saturates(host: Host) -> bool:
    """Return whether sums of products of 8 bits overflow 16 bits, which is so without VNNI."""
    return host.architecture == "x86_64" and "vnni" not in host.instruction_sets


def is_transformer(operators: Collection[str]) -> bool:
    """Return whether a graph has attention, or normalises layers as transformers do.

    A network of convolutions may end with MatMul and Softmax, but that is no attention.
    """
    attends = "Softmax" in operators and "Conv" not in operators
    return "MatMul" in operators and ("LayerNormalization" in operators or attends)


def _static(operators: str, reduce_range: bool) -> Step:
    return Step(
        name="static_int8", parameters={"operators": operators, "reduce_range": reduce_range}
    )
