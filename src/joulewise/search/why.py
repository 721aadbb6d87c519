"""Why a candidate costs more than the original, in words, from what its graph holds."""

from __future__ import annotations

from pathlib import Path

from joulewise.core.host import Host
from joulewise.core.recipe import Recipe
from joulewise.cost.operators import count_operators

__all__ = ["explain_cost"]

COMPUTE = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm", "MatMulInteger", "ConvInteger"})
CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast"})


def explain_cost(recipe: Recipe, path: Path, host: Host) -> str | None:
    """Return the likeliest cause that a candidate saves nothing, None where nothing stands out.

    Args:
        recipe: the candidate.
        path: its main file; only ONNX graphs are looked into.
        host: the machine it ran on.
    """
    if not recipe.steps:
        return None
    if host.architecture == "x86_64" and "vnni" not in host.instruction_sets:
        missing = "this CPU has no int8 dot product (VNNI), so int8 gains little arithmetic"
    else:
        missing = None
    counts = count_operators(path)
    conversions = sum(counts[kind] for kind in CONVERSIONS)
    compute = sum(counts[kind] for kind in COMPUTE)
    if counts["ConvInteger"]:
        return "ConvInteger has no fast CPU kernel"
    if conversions > 2 * compute:
        around = f"{conversions} conversions between int8 and float around {compute} products"
        return f"{around}; {missing}" if missing else around
    return missing
