"""What a pass is, and the table of all passes.

A pass is a frozen value with one method; it reads an artifact and writes a new one. The input is
never touched. Adding one: one file, one row in PASSES.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Protocol

from joulewise.compress.material import Material
from joulewise.core.errors import UsageError, one_line
from joulewise.core.recipe import Step
from joulewise.core.registry import Entry, Registry

__all__ = ["PASSES", "Pass", "check_step"]


class Pass(Protocol):
    """Turns a model into a cheaper one."""

    def apply(self, source: Path, material: Material, folder: Path) -> tuple[str, ...]:
        """Write the model at `source` changed to `folder`, and nothing else there.

        Returns:
            The paths it wrote, relative to `folder`, the one to open first.

        Raises:
            PassError: the model has nothing to change.
        """
        ...


PASSES: Registry[type[Pass]] = Registry(
    "pass",
    {
        "static_int8": Entry(
            target="joulewise.compress.static_int8:StaticInt8",
            summary="int8 weights and activations, ranges from calibration items (ONNX Runtime)",
            requires=("onnx", "onnxruntime"),
            extra="onnx",
        ),
        "dynamic_int8": Entry(
            target="joulewise.compress.dynamic_int8:DynamicInt8",
            summary="int8 matrix products with ranges found while running (ONNX Runtime)",
            requires=("onnx", "onnxruntime"),
            extra="onnx",
        ),
        "weight_only": Entry(
            target="joulewise.compress.weight_only:WeightOnly",
            summary="8 or 4 bits for weights alone, where reading them takes the time",
            requires=("onnx", "onnxruntime"),
            extra="onnx",
        ),
        "smooth": Entry(
            target="joulewise.compress.smooth:Smooth",
            summary="outliers of activations moved into weights, before int8; the same function",
            requires=("onnx", "onnxruntime"),
            extra="onnx",
        ),
        "nncf_int8": Entry(
            target="joulewise.compress.nncf_int8:NncfInt8",
            summary="int8 post-training quantization for OpenVINO (NNCF)",
            requires=("openvino", "nncf"),
            extra="openvino",
        ),
        "litert": Entry(
            target="joulewise.compress.litert:Litert",
            summary="a file for LiteRT, float or int8 (LiteRT Torch, LiteRT Quantizer)",
            requires=("onnx", "onnxruntime", "torch", "litert_torch", "litert_quantizer"),
            extra="litert",
        ),
        "cascade": Entry(
            target="joulewise.compress.cascade:Cascade",
            summary="this model first, the original for what it is unsure of (one ONNX file)",
            requires=("onnx", "onnxruntime"),
            extra="onnx",
        ),
        "early_exit": Entry(
            target="joulewise.compress.early_exit:EarlyExit",
            summary="an answer from inside the model, the rest of it where that is unsure",
            requires=("onnx", "onnxruntime"),
            extra="onnx",
        ),
        "fold_batch_norm": Entry(
            target="joulewise.compress.fold_batch_norm:FoldBatchNorm",
            summary="batch normalisation folded into the layer before it; the same function",
            requires=("onnx", "onnxruntime", "torch"),
            extra="torch",
        ),
        "qat": Entry(
            target="joulewise.compress.qat:Qat",
            summary="static int8 of weights that were trained to be rounded (needs --train)",
            requires=("onnx", "onnxruntime", "torch"),
            extra="torch",
        ),
        "distill": Entry(
            target="joulewise.compress.distill:Distill",
            summary="a changed model learns the original's job again (needs --train)",
            requires=("onnx", "onnxruntime", "torch"),
            extra="torch",
        ),
        "prune": Entry(
            target="joulewise.compress.prune:Prune",
            summary="whole channels and attention heads out; dense and smaller (Torch-Pruning)",
            requires=("onnx", "onnxruntime", "torch", "torch_pruning"),
            extra="torch",
        ),
        "drop_blocks": Entry(
            target="joulewise.compress.drop_blocks:DropBlocks",
            summary="whole residual blocks out: layers of a transformer, blocks of a ResNet",
            requires=("onnx", "onnxruntime", "torch"),
            extra="torch",
        ),
        "trim_padding": Entry(
            target="joulewise.compress.trim_padding:TrimPadding",
            summary="padding cut off within the graph, to the longest item of a batch",
            requires=("onnx", "onnxruntime", "torch"),
            extra="torch",
        ),
        "low_rank": Entry(
            target="joulewise.compress.low_rank:LowRank",
            summary="matrix products split into two thin ones where that is less work",
            requires=("onnx", "onnxruntime", "torch"),
            extra="torch",
        ),
    },
    group="joulewise.passes",
)


def check_step(step: Step) -> None:
    """Raise unless a step names a pass that is installed, with parameters that it has.

    Raises:
        UsageError: there is no such pass, or it has no such parameter, or not of such a value.
        MissingExtraError: its packages are not installed.
    """
    kind = PASSES.load(step.name)
    known = [each.name for each in fields(kind)]  # type: ignore[arg-type]  # passes are dataclasses
    for name in step.parameters:
        if name not in known:
            raise UsageError(f"{step.name} has no parameter {name!r}; it has {', '.join(known)}")
    try:
        kind(**step.parameters)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{step} cannot be meant: {one_line(error)}") from error
