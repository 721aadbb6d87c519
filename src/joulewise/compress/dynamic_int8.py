"""Dynamic int8 of matrix products with ONNX Runtime's quantizer.

Only MatMul: on convolutions the dynamic quantizer emits ConvInteger, which has no fast CPU
kernel and runs several times slower than float.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from joulewise.compress.material import Material
from joulewise.compress.searched import searched
from joulewise.compress.static_int8 import prepare
from joulewise.core.errors import PassError

__all__ = ["DynamicInt8"]


@dataclass(frozen=True, kw_only=True)
class DynamicInt8:
    """Quantize the weights of matrix products to 8 bits, activations while running.

    Args:
        reduce_range: 7-bit weights, against saturation on CPUs without VNNI.
        per_channel: one scale per output channel of a weight.
    """

    reduce_range: bool = searched(False, True)
    per_channel: bool = searched(True, False)

    def apply(self, source: Path, material: Material, folder: Path) -> tuple[str, ...]:  # noqa: ARG002
        """Write ``model.onnx``; raises PassError where there is no matrix product of weights."""
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic

        logging.getLogger().setLevel(logging.ERROR)
        prepared, target = folder / "prepared.onnx", folder / "model.onnx"
        prepare(source, prepared)
        quantize_dynamic(
            str(prepared),
            str(target),
            op_types_to_quantize=["MatMul"],
            per_channel=self.per_channel,
            reduce_range=self.reduce_range,
            weight_type=QuantType.QInt8,
        )
        prepared.unlink()
        kinds = {node.op_type for node in onnx.load(target).graph.node}
        if not kinds & {"MatMulInteger", "DynamicQuantizeMatMul"}:
            raise PassError("the model has no matrix product of weights to quantize")
        return ("model.onnx",)
