"""Static int8 for OpenVINO with NNCF's post-training quantization.

NNCF and OpenVINO report their use over the network by default. The variables that switch this
off are set by the process that passes run in (compress.process), before anything is imported.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joulewise.compress.material import Material
from joulewise.compress.searched import searched
from joulewise.core.errors import PassError

__all__ = ["NncfInt8", "model_type_of"]


@dataclass(frozen=True, kw_only=True)
class NncfInt8:
    """Quantize weights and activations to 8 bits.

    Args:
        preset: "performance" (symmetric activations) or "mixed" (asymmetric where it helps).
    """

    preset: str = searched("performance", "mixed")

    def apply(self, source: Path, material: Material, folder: Path) -> tuple[str, ...]:
        """Write ``model.xml`` and ``model.bin``; raises PassError where nothing was quantized."""
        import openvino

        model = openvino.Core().read_model(source)
        with _torch_unseen():
            quantized = self._quantized(model, material)
        if not any(node.get_type_name() == "FakeQuantize" for node in quantized.get_ops()):
            raise PassError("the model has no operator that this pass can quantize")
        openvino.save_model(quantized, folder / "model.xml", compress_to_fp16=False)
        return ("model.xml", "model.bin")

    def _quantized(self, model: Any, material: Material) -> Any:  # noqa: ANN401 - of OpenVINO
        import nncf

        nncf.set_log_level(logging.ERROR)
        calibration = material.calibrate
        shape = model.inputs[0].get_partial_shape()
        batch_items = 1 if shape[0].is_dynamic else shape[0].get_length()
        return nncf.quantize(
            model,
            nncf.Dataset(list(calibration.batches(batch_items))),
            preset=nncf.QuantizationPreset(self.preset),
            subset_size=max(1, calibration.items // batch_items),
            model_type=model_type_of(model),
        )


def model_type_of(model: Any) -> Any:  # noqa: ANN401 - of OpenVINO, and of NNCF
    """Return the model type that NNCF asks for where there is attention, else None.

    Without it NNCF 3 fails on some encoders of texts (KeyError of an embedding).

    Source: NNCF documentation, "Post-Training Quantization", `model_type`.
    """
    import nncf

    kinds = {node.get_type_name() for node in model.get_ops()}
    attends = {"MatMul", "Softmax"} <= kinds and "Convolution" not in kinds
    return nncf.ModelType.TRANSFORMER if attends else None


@contextmanager
def _torch_unseen() -> Iterator[None]:
    """Keep NNCF from importing PyTorch: it takes seconds, and is of no use to OpenVINO's graphs.

    Source: NNCF 3.4, nncf/tensor/functions/dispatcher.py: it does without where there is none.
    """
    unseen = "torch" not in sys.modules
    if unseen:
        sys.modules["torch"] = None  # type: ignore[assignment] # then importing it fails
    try:
        yield
    finally:
        if unseen:
            del sys.modules["torch"]
