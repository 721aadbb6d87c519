"""A model for LiteRT, which was TensorFlow Lite: as it is, or quantized.

LiteRT Torch converts a torch module, so the graph goes there first (`joulewise.learn.network`).
The batch becomes part of the file. LiteRT Quantizer then rounds, as its documentation has it for
CPUs (dynamic) and for fixed ranges (static); what goes in and comes out stays float32.

Source: LiteRT documentation, "Convert PyTorch models to LiteRT"; LiteRT Quantizer documentation,
"Quantization Workflow".
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joulewise.compress.material import Material
from joulewise.compress.searched import searched
from joulewise.core.errors import PassError, one_line
from joulewise.workload.store import Store

__all__ = ["KINDS", "Litert", "calibration_items", "name_inputs"]

KINDS = ("no", "dynamic", "static")
"""What may be rounded to 8 bits: nothing; the weights of products, whose other side is rounded
while running; all that there is an integer operator for, with ranges from calibration items."""

SIGNATURE = "serving_default"
"""What LiteRT Torch calls the only way to call a model."""

NUMBERED = "args_"
"""What LiteRT Torch calls inputs, before their numbers."""


@dataclass(frozen=True, kw_only=True)
class Litert:
    """Convert a model for LiteRT, or round what was converted before.

    Args:
        int8: one of KINDS.
    """

    int8: str = searched(*KINDS)

    def __post_init__(self) -> None:
        if self.int8 not in KINDS:
            raise ValueError(f"int8 is one of {', '.join(KINDS)}")

    def apply(self, source: Path, material: Material, folder: Path) -> tuple[str, ...]:
        """Write ``model.tflite``.

        Raises:
            PassError: torch or LiteRT cannot run the model, or nothing was quantized.
        """
        logging.disable(logging.WARNING)  # the converter tells of every step
        target = folder / "model.tflite"
        if source.suffix == target.suffix:
            shutil.copyfile(source, target)
        else:
            _convert(source, next(material.calibrate.batches(material.batch_items)), target)
        if self.int8 != "no":
            _quantize(target, self.int8, material)
        return (target.name,)


def name_inputs(path: Path, names: Sequence[str]) -> None:
    """Call the inputs in a LiteRT file what the original calls them.

    Args:
        path: of a file whose inputs are numbered by LiteRT Torch.
        names: the inputs of what was converted, in order.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(str(path))
    (signature,) = model.signatureDefs
    for tensor in signature.inputs:
        tensor.name = names[int(tensor.name.decode().removeprefix(NUMBERED))].encode()
    flatbuffer_utils.write_model(model, str(path))


def _convert(source: Path, batch: dict[str, Any], target: Path) -> None:
    import litert_torch
    import torch

    from joulewise.learn.network import check_same, open_network
    from joulewise.learn.traced import traced

    network = open_network(source)
    check_same(network, source, batch)
    example = tuple(torch.from_numpy(batch[name]) for name in network.inputs)
    try:
        litert_torch.convert(traced(network, example), example).export(str(target))
    except Exception as error:  # the converter raises whatever its parts raise
        raise PassError(f"LiteRT cannot convert this graph: {one_line(error)}") from error
    name_inputs(target, network.inputs)


def _quantize(target: Path, kind: str, material: Material) -> None:
    """Quantize a file in its place; raises PassError where nothing was."""
    from litert_quantizer import calibrator, quantizer, recipe

    tool, found = quantizer.Quantizer(str(target)), None
    if kind == "dynamic":
        tool.load_quantization_recipe(recipe.dynamic_wi8_afp32())
    else:
        ends = ("INPUT", "OUTPUT")
        tool.load_quantization_recipe([*recipe.static_wi8_ai8(), *map(_left, ends)])
        items = list(calibration_items(target, material.calibrate, material.batch_items))
        mode = calibrator.CalibrationMode.CALIBRATION_PROFILER_BASED
        found = tool.calibrate({SIGNATURE: items}, mode=mode)
    tool.quantize(found).export_model(str(target), overwrite=True)
    if not _has_int8(target):
        raise PassError("the model has no operator that this pass can quantize")


def calibration_items(path: Path, store: Store, batch_items: int) -> Iterator[dict[str, Any]]:
    """Yield batches of a store in the types that a LiteRT file takes: the converter narrows some.

    Args:
        path: of the file; its inputs have the names of the store's.
        store: of items.
        batch_items: in a batch.
    """
    from ai_edge_litert.interpreter import Interpreter

    taken = Interpreter(str(path)).get_signature_runner().get_input_details()
    for batch in store.batches(batch_items):
        yield {name: batch[name].astype(details["dtype"]) for name, details in taken.items()}


def _left(operation: str) -> dict[str, Any]:
    """Return the line of a recipe that leaves an operation alone."""
    return {"regex": ".*", "operation": operation, "algorithm_key": "no_quantize", "op_config": {}}


def _has_int8(path: Path) -> bool:
    from ai_edge_litert.schema_py_generated import TensorType
    from ai_edge_litert.tools import flatbuffer_utils

    graphs = flatbuffer_utils.read_model(str(path)).subgraphs
    return any(tensor.type == TensorType.INT8 for graph in graphs for tensor in graph.tensors)
