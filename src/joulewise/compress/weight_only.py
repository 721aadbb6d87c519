"""Weights in 8 or 4 bits, arithmetic in float, with ONNX Runtime's quantizer.

It pays where reading weights takes the time: matrix products of one row, as in a language model or
a large perceptron at batch 1. With more rows `dynamic_int8` needs fewer joules.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from joulewise.compress.material import Material
from joulewise.compress.searched import searched
from joulewise.compress.static_int8 import prepare
from joulewise.core.errors import PassError

__all__ = ["WeightOnly"]

BITS = (4, 8)
BLOCKS = (16, 32, 64, 128, 256)
"""Powers of 2 from 16 on (ONNX Runtime, ContribOperators.md, com.microsoft.MatMulNBits)."""

INT8_ACCURACY = 4
"""The ``accuracy_level`` at which the kernel may round activations to 8 bits, the fastest one."""


@dataclass(frozen=True, kw_only=True)
class WeightOnly:
    """Hold the weights of matrix products in few bits.

    Args:
        bits: 8 or 4.
        block: weights of an output channel that share a scale: 16, 32, 64, 128 or 256.
    """

    bits: int = searched(8, 4)
    block: int = searched(32, 128)

    def __post_init__(self) -> None:
        """Raise PassError where there is no such kernel."""
        for name, value, known in (("bits", self.bits, BITS), ("block", self.block, BLOCKS)):
            if value not in known:
                words = ", ".join(map(str, known))
                raise PassError(f"there are no weights with {name}={value}; choose one of {words}")

    def apply(self, source: Path, material: Material, folder: Path) -> tuple[str, ...]:  # noqa: ARG002
        """Write ``model.onnx``; raises PassError where there is no matrix product of weights."""
        import onnx
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        logging.getLogger().setLevel(logging.ERROR)
        prepared, target = folder / "prepared.onnx", folder / "model.onnx"
        prepare(source, prepared)
        model = onnx.load(prepared)
        prepared.unlink()
        quantizer = MatMulNBitsQuantizer(
            model,
            bits=self.bits,
            block_size=self.block,
            is_symmetric=True,
            accuracy_level=INT8_ACCURACY,
        )
        quantizer.model.replace_gemm_with_matmul()
        quantizer.process()
        made = quantizer.model.model
        if "MatMulNBits" not in {node.op_type for node in made.graph.node}:
            raise PassError("the model has no matrix product of weights to quantize")
        onnx.save(made, target)
        return (target.name,)
