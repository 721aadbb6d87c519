"""Which recipes are tried, cheapest joules first."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from joulewise.compress.passes import PASSES
from joulewise.compress.trim_padding import MASK
from joulewise.core.host import Host
from joulewise.core.recipe import Recipe, RunSettings, Step
from joulewise.export.program import RUNTIMES

__all__ = [
    "CONVERSIONS",
    "anchor_recipe",
    "as_found_recipe",
    "changed_recipes",
    "converted_recipes",
    "earlier_steps",
    "is_converted",
    "is_transformer",
    "lossless_recipes",
    "plain_steps",
]

CONVERSIONS = {"litert": Step(name="litert")}
"""Runtime that opens no ONNX files -> the step that writes what it opens. What comes out may answer
a little differently, so it is judged like any changed model."""

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
        if runtime not in CONVERSIONS
        for settings in RUNTIMES.load(runtime)().lossless(cpus)
    ]
    return tuple(found)


def converted_recipes(runtimes: Sequence[str], cpus: int) -> tuple[Recipe, ...]:
    """Return the original converted for the runtimes that need it, with every number of threads."""
    return tuple(
        Recipe(steps=plain_steps(runtime), run=settings)
        for runtime in runtimes
        if runtime in CONVERSIONS and PASSES.missing(CONVERSIONS[runtime].name) is None
        for settings in RUNTIMES.load(runtime)().lossless(cpus)
    )


def plain_steps(runtime: str) -> tuple[Step, ...]:
    """Return the steps without which a runtime cannot open a model at all."""
    return (CONVERSIONS[runtime],) if runtime in CONVERSIONS else ()


def is_converted(recipe: Recipe) -> bool:
    """Return whether a recipe does no more than convert the original for its runtime."""
    return bool(recipe.steps) and recipe.steps == plain_steps(recipe.run.runtime)


def earlier_steps(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """Return the steps to whose result the last of `steps` is applied.

    They are those before it, and where it converts and rounds, the plain conversion after them:
    recipes that round in other ways share it.
    """
    *before, last = steps
    plain = next((step for step in CONVERSIONS.values() if step.name == last.name), None)
    return (*before,) if plain is None or last == plain else (*before, plain)


def changed_recipes(
    operators: Collection[str],
    best: dict[str, RunSettings],
    host: Host,
    inputs: Collection[str] = (),
) -> tuple[Recipe, ...]:
    """Return the recipes that change the model's arithmetic, for this CPU's instruction set.

    Args:
        operators: operator types of the original.
        best: runtime -> the settings that suit it best here.
        host: the machine; without VNNI, weights of 7 bits are tried first.
        inputs: names of the original's inputs; from one with a mask padding is cut.
    """
    recipes: list[Recipe] = []
    trims = MASK in inputs and PASSES.missing("trim_padding") is None
    for runtime, run in best.items():
        lossy = RUNTIMES.load(runtime)().lossy(run, host.instruction_sets)
        recipes += [Recipe(run=settings) for settings in lossy]
        if trims and runtime not in CONVERSIONS:  # their files have a fixed length
            recipes += [Recipe(steps=x, run=run) for x in _trimmed_steps(runtime, operators, host)]
        if QUANTIZABLE.intersection(operators):
            recipes += [Recipe(steps=x, run=run) for x in _int8_steps(runtime, operators, host)]
    return tuple(recipes)


def _int8_steps(runtime: str, operators: Collection[str], host: Host) -> list[tuple[Step, ...]]:
    if runtime == "litert":
        return [(Step(name="litert", parameters={"int8": kind}),) for kind in ("static", "dynamic")]
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
