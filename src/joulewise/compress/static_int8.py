"""Static int8 in the QDQ format with ONNX Runtime's quantizer.

Weights are signed and per channel; activations are unsigned on x86, where the fast kernels
multiply u8 by s8, and signed on Arm. Without VNNI those kernels add pairs of products in 16 bits
and saturate, so `reduce_range` gives weights 7 bits there.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joulewise.compress.material import Material
from joulewise.core.errors import PassError
from joulewise.workload.store import Store

__all__ = ["COMPUTE_OPERATORS", "StaticInt8"]

COMPUTE_OPERATORS = ("Conv", "MatMul", "Gemm")
"""Operators that hold nearly all multiplications of a network."""

CALIBRATION_BATCH_ITEMS = 16

PER_CHANNEL_OPSET = 13
"""First ONNX opset whose DequantizeLinear has an axis, that is, a scale per channel."""


@dataclass(frozen=True, kw_only=True)
class StaticInt8:
    """Quantize weights and activations to 8 bits.

    Args:
        operators: "all" that the quantizer knows, or "compute" for COMPUTE_OPERATORS only.
        reduce_range: 7-bit weights, against saturation on CPUs without VNNI.
        per_channel: one scale per output channel of a weight instead of one per tensor.

    Source: range and saturation, ONNX Runtime documentation "Quantize ONNX models", sections
    "Data type selection" and "When to use reduce-range and per-channel quantization".
    """

    operators: str = "all"
    reduce_range: bool = False
    per_channel: bool = True

    def apply(self, source: Path, material: Material, folder: Path) -> tuple[str, ...]:
        """Write ``model.onnx``; raises PassError where nothing was quantized."""
        import onnx

        logging.getLogger().setLevel(logging.ERROR)
        prepared, target = folder / "prepared.onnx", folder / "model.onnx"
        prepare(source, prepared)
        try:
            self._quantize(prepared, material.calibrate, target, adjust_weights=True)
        except (
            ValueError
        ):  # adjusting weight scales to biases fails on some graphs (onnxruntime 1.32)
            self._quantize(prepared, material.calibrate, target, adjust_weights=False)
        prepared.unlink()
        kinds = {node.op_type for node in onnx.load(target).graph.node}
        if "QuantizeLinear" not in kinds:
            raise PassError("the model has no operator that this pass can quantize")
        return ("model.onnx",)

    def _quantize(
        self, prepared: Path, calibration: Store, target: Path, *, adjust_weights: bool
    ) -> None:
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

        activations = QuantType.QUInt8 if platform.machine() == "x86_64" else QuantType.QInt8
        quantize_static(
            str(prepared),
            str(target),
            _Reader(calibration, batch_size(prepared)),
            quant_format=QuantFormat.QDQ,
            per_channel=self.per_channel,
            reduce_range=self.reduce_range,
            activation_type=activations,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=None if self.operators == "all" else list(COMPUTE_OPERATORS),
            extra_options={"QDQDisableWeightAdjustForInt32Bias": not adjust_weights},
        )


def prepare(source: Path, target: Path) -> None:
    """Write `source` to one file with shapes inferred and constants folded.

    ONNX Runtime's own pre-processing goes wrong on models whose weights lie in other files, so
    they are taken into the file first.
    """
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    whole = target.with_suffix(".whole.onnx")
    onnx.save(_raised(onnx.load(source)), whole)
    quant_pre_process(str(whole), str(target), skip_symbolic_shape=True)
    whole.unlink()


def _raised(model: Any) -> Any:  # noqa: ANN401
    """Return the model at PER_CHANNEL_OPSET if it is older, or as it is if that fails."""
    import onnx

    versions = {entry.domain: entry.version for entry in model.opset_import}
    if versions.get("", PER_CHANNEL_OPSET) >= PER_CHANNEL_OPSET:
        return model
    try:
        return onnx.version_converter.convert_version(model, PER_CHANNEL_OPSET)
    except (RuntimeError, onnx.version_converter.ConvertError):
        return model


def batch_size(path: Path) -> int:
    """Return the batch that a model is fixed to, or CALIBRATION_BATCH_ITEMS where it is free."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    shapes = [x.type.tensor_type.shape.dim for x in graph.input if x.name not in weights]
    fixed: int = shapes[0][0].dim_value if shapes and shapes[0] else 0
    return fixed if fixed > 0 else CALIBRATION_BATCH_ITEMS


class _Reader:
    """Calibration batches as ONNX Runtime's quantizer asks for them."""

    def __init__(self, calibration: Store, batch_items: int) -> None:
        self._batches: Iterator[dict[str, Any]] = calibration.batches(batch_items)

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)
