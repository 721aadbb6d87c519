"""Static int8 for OpenVINO with NNCF's post-training quantization.

NNCF and OpenVINO report their use over the network by default. The variables that switch this
off are set by the process that passes run in (compress.process), before anything is imported.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from joulewise.compress.material import Material
from joulewise.compress.searched import searched
from joulewise.core.errors import PassError

__all__ = ["NncfInt8"]


@dataclass(frozen=True, kw_only=True)
class NncfInt8:
    """Quantize weights and activations to 8 bits.

    Args:
        preset: "performance" (symmetric activations) or "mixed" (asymmetric where it helps).
    """

    preset: str = searched("performance", "mixed")

    def apply(self, source: Path, material: Material, folder: Path) -> tuple[str, ...]:
        """Write ``model.xml`` and ``model.bin``; raises PassError where nothing was quantized."""
        import nncf
        import openvino

        nncf.set_log_level(logging.ERROR)
        calibration = material.calibrate
        model = openvino.Core().read_model(source)
        shape = model.inputs[0].get_partial_shape()
        batch_items = 1 if shape[0].is_dynamic else shape[0].get_length()
        quantized = nncf.quantize(
            model,
            nncf.Dataset(list(calibration.batches(batch_items))),
            preset=nncf.QuantizationPreset(self.preset),
            subset_size=max(1, calibration.items // batch_items),
        )
        if not any(node.get_type_name() == "FakeQuantize" for node in quantized.get_ops()):
            raise PassError("the model has no operator that this pass can quantize")
        openvino.save_model(quantized, folder / "model.xml", compress_to_fp16=False)
        return ("model.xml", "model.bin")
