"""Why a candidate costs what it costs, in words, from where the time of its calls goes.

Evidence is two profiles, the candidate's and that of the original run in the same way. A cause is
told with the time that it accounts for, the largest first; time is measured, and joules mostly
follow it, but no joules are told here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from joulewise.core.energy import Measurement
from joulewise.core.host import Host
from joulewise.core.profile import OperatorTime, Profile
from joulewise.core.recipe import Recipe
from joulewise.meter.interleave import busy_cpus
from joulewise.report.text import seconds

__all__ = ["Cause", "causes", "explain_cost", "explain_threads", "runs_on_other_threads"]

PRODUCTS = frozenset(
    {
        "Attention", "Conv", "ConvInteger", "ConvTranspose", "Convolution", "Deconvolution",
        "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "FullyConnected", "FusedConv", "FusedGemm",
        "FusedMatMul", "GRU", "Gemm", "GroupConvolution", "LSTM", "LSTMSequence", "GRUSequence",
        "MatMul", "MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits", "MultiHeadAttention",
        "QAttention", "QGemm", "QLinearConv", "QLinearMatMul", "ScaledDotProductAttention",
    }
)  # fmt: skip
"""Operators of multiply-adds, as ONNX, ONNX Runtime and OpenVINO call them."""

CONVERSIONS = frozenset(
    {
        "Cast", "Convert", "DequantizeLinear", "DynamicQuantizeLinear", "FakeQuantize",
        "QuantizeLinear", "Reorder", "ReorderInput", "ReorderOutput",
    }
)  # fmt: skip
"""Operators that change how numbers are kept, and not the numbers."""

FAST = 0.9
"""Products that take more than this part of the original's time save next to nothing."""

WORTH_TELLING = 0.1
"""Least part of a call that a cause accounts for."""

MOST_TOLD = 2

OUTSIDE = 0.5
"""Part of a call from which what lies outside operators, or outside products, explains it."""

LEAST_MAC_PER_BYTE = 0.25
"""Multiply-adds per byte up to which a product waits for bytes.

A core with AVX2 does 16 float32 multiply-adds per cycle and gets at most 64 bytes per cycle from
its second-level cache (Intel 64 and IA-32 Architectures Optimization Reference Manual, section on
the cache hierarchy of Skylake), less from further away; wider registers only raise the limit.
"""


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Words, and the seconds of a call that they account for."""

    seconds: float
    words: str


def explain_cost(
    recipe: Recipe, candidate: Profile, original: Profile, host: Host, *, loses: bool = True
) -> str | None:
    """Return why a candidate saves no more, in a sentence; None where nothing stands out.

    Args:
        recipe: the candidate.
        candidate: its profile.
        original: profile of the original, run in the same way.
        host: the machine of both.
        loses: whether another way to run the original needs fewer joules.
    """
    told = [cause.words for cause in causes(recipe, candidate, original, host)[:MOST_TOLD]]
    speed = original.call_s / candidate.call_s if candidate.call_s else 1.0
    if loses and speed > 1 / FAST:
        faster = f"{speed:.2f} times as fast as the original run like it, but there is a better way"
        told = [f"{faster} to run the original", *told[:1]]
    return "; ".join(told) or None


def causes(recipe: Recipe, candidate: Profile, original: Profile, host: Host) -> tuple[Cause, ...]:
    """Return what makes a candidate cost what it does, what takes most of a call first.

    Args:
        recipe: the candidate.
        candidate: its profile.
        original: profile of the original, run in the same way.
        host: the machine of both.
    """
    found = (
        _products(recipe, candidate, original, host),
        _conversions(candidate, original),
        _others(candidate, original),
        _outside(candidate),
    )
    least_s = WORTH_TELLING * candidate.total_s
    told = [cause for cause in found if cause is not None and cause.seconds >= least_s]
    return tuple(sorted(told, key=lambda cause: -cause.seconds))


def explain_threads(mine: Measurement, single: Measurement) -> str | None:
    """Return why several threads do not pay, None where they do, or where CPU time is unknown.

    Args:
        mine: with several threads.
        single: of the same program with one thread.
    """
    busy, speed = busy_cpus(mine), _items_per_s(mine) / _items_per_s(single)
    if busy is None or busy <= speed * (1 + WORTH_TELLING):
        return None
    return f"{busy:.1f} CPUs are busy for {speed:.2f} times the speed of one thread"


def runs_on_other_threads(recipe: Recipe, anchor: Recipe) -> bool:
    """Return whether `recipe` is the original in the anchor's runtime, with other threads."""
    mine, other = recipe.run, anchor.run
    return recipe.lossless and mine.runtime == other.runtime and mine.threads != other.threads


def _products(recipe: Recipe, candidate: Profile, original: Profile, host: Host) -> Cause | None:
    """Return that products take as long as before, and why."""
    mine, theirs = _of(candidate, PRODUCTS), _of(original, PRODUCTS)
    mine_s, theirs_s = _sum_s(mine), _sum_s(theirs)
    if not mine or mine_s <= FAST * theirs_s:
        return None
    words = (
        f"products ({_kinds(mine)}) take {seconds(mine_s)} of a call, "
        f"in the original {seconds(theirs_s)}"
    )
    why = _why_slow(recipe, mine, original, host)
    return Cause(seconds=mine_s, words=f"{words}: {why}" if why else words)


def _why_slow(
    recipe: Recipe, products: Iterable[OperatorTime], original: Profile, host: Host
) -> str | None:
    kinds = {each.kind for each in products}
    kernels = {kernel for each in products for kernel in each.kernels}
    if "ConvInteger" in kinds:
        return "ConvInteger has no fast kernel in ONNX Runtime"
    if not _is_int8(recipe):
        return _memory(original)
    if kernels and all(kernel.endswith("_f32") for kernel in kernels):
        return "OpenVINO runs them in f32 all the same"
    if host.architecture == "x86_64" and "vnni" not in host.instruction_sets:
        return "this CPU has no int8 dot product (VNNI), so int8 gains little arithmetic"
    return None


def _memory(original: Profile) -> str | None:
    work = original.work
    if work is None or not work.mac or work.mac_per_byte > LEAST_MAC_PER_BYTE:
        return None
    return (
        f"they do {work.mac_per_byte:.2g} multiply-adds per byte (counted), so memory sets their "
        "pace, not arithmetic"
    )


def _conversions(candidate: Profile, original: Profile) -> Cause | None:
    mine, theirs = _of(candidate, CONVERSIONS), _of(original, CONVERSIONS)
    more_s = _sum_s(mine) - _sum_s(theirs)
    places = round(sum(each.count for each in mine))
    return Cause(
        seconds=more_s,
        words=f"{places} conversions of numbers ({_kinds(mine)}) take "
        f"{_percent(_sum_s(mine), candidate)} of a call, in the original "
        f"{_percent(_sum_s(theirs), original)}",
    )


def _others(candidate: Profile, original: Profile) -> Cause | None:
    """Return that operators around the products came to cost more, or are most of all."""
    mine, theirs = (
        _of(each, PRODUCTS | CONVERSIONS, inside=False) for each in (candidate, original)
    )
    more_s = _sum_s(mine) - _sum_s(theirs)
    if more_s >= WORTH_TELLING * candidate.total_s:
        return Cause(
            seconds=more_s,
            words=f"operators around the products ({_kinds(mine)}) take {seconds(_sum_s(mine))} of "
            f"a call, in the original {seconds(_sum_s(theirs))}",
        )
    if _sum_s(mine) < OUTSIDE * candidate.total_s:
        return None
    return Cause(
        seconds=_sum_s(mine),
        words=f"{_percent(_sum_s(mine), candidate)} of a call is in operators that are left alone "
        f"({_kinds(mine)})",
    )


def _outside(candidate: Profile) -> Cause | None:
    if candidate.outside_ratio < OUTSIDE:
        return None
    short = " or in operators shorter than 1 µs" if candidate.runtime == "openvino" else ""
    return Cause(
        seconds=candidate.outside_s,
        words=f"{_percent(candidate.outside_s, candidate)} of a call of "
        f"{seconds(candidate.call_s)} lies outside operators{short}: the call from Python costs "
        "more than the model",
    )


def _is_int8(recipe: Recipe) -> bool:
    return any("int8" in step.name or step.name == "qat" for step in recipe.steps)


def _of(
    profile: Profile, kinds: frozenset[str], *, inside: bool = True
) -> tuple[OperatorTime, ...]:
    return tuple(each for each in profile.operators if (each.kind in kinds) == inside)


def _sum_s(operators: Iterable[OperatorTime]) -> float:
    return sum(each.seconds for each in operators)


def _kinds(operators: tuple[OperatorTime, ...]) -> str:
    """Return the longest types by name."""
    more = ", ..." if len(operators) > 3 else ""
    return ", ".join(each.kind for each in operators[:3]) + more


def _percent(part_s: float, profile: Profile) -> str:
    return f"{100 * part_s / profile.total_s:.0f} %" if profile.total_s else "0 %"


def _items_per_s(measurement: Measurement) -> float:
    blocks = measurement.blocks
    return sum(block.items for block in blocks) / sum(block.seconds for block in blocks)
