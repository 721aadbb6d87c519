"""Static int8 in the QDQ format with ONNX Runtime's quantizer.

Weights are signed and per channel; activations are unsigned on x86, where the fast kernels
multiply u8 by s8, and signed on Arm. Without VNNI those kernels add pairs of products in 16 bits
and saturate, so `reduce_range` gives weights 7 bits there.

The quantizer is given ranges that are found here (`joulewise.compress.ranges`). Its own calibration
takes the mask of an attention (the lowest float32) for a number, and so rounds what comes before
the softmax to nothing; here nodes that such a number goes through stay in float.
"""

from __future__ import annotations

import logging
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from joulewise.compress.float_islands import Comparison, float_islands
from joulewise.compress.material import Material
from joulewise.compress.ranges import CALIBRATION_BATCH_ITEMS, MARK, Range, check_observer, observe
from joulewise.compress.searched import searched
from joulewise.core.errors import PassError
from joulewise.workload.store import Store

if TYPE_CHECKING:
    import onnx

__all__ = ["CALIBRATION_BATCH_ITEMS", "COMPUTE_OPERATORS", "Quantizer", "StaticInt8"]

COMPUTE_OPERATORS = ("Conv", "MatMul", "Gemm")
"""Operators that hold nearly all multiplications of a network."""

CUT_OFF = ("Clip", "Relu")
"""Operators that are nothing but the ends of a range: after a product its result is rounded within
them, and they go. Rounded before them, most steps would lie in what they cut off."""

ISLAND_ITEMS = 64
"""Calibration items on which nodes are tried alone."""

QUANTIZED = re.compile("Quantize|Integer|QLinear|NBits")
"""What names of operators hold that are there only once a model is quantized."""

PER_CHANNEL_OPSET = 13
"""First ONNX opset whose DequantizeLinear has an axis, that is, a scale per channel."""


@dataclass(frozen=True, kw_only=True)
class StaticInt8:
    """Quantize weights and activations to 8 bits.

    Args:
        operators: "all" that the quantizer knows; "compute" for COMPUTE_OPERATORS only, with the
            CUT_OFF after them; or "transformer" for those products that have weights, the results
            of matrix products left in float. Those hold single numbers that are a hundred times
            larger than all others.
        reduce_range: 7-bit weights, against saturation on CPUs without VNNI.
        per_channel: one scale per output channel of a weight instead of one per tensor.
        range: of activations: "minmax", "mse" for the least squared error, or "p99.99" to leave out
            the outermost 0.01 % of all numbers.
        islands: how many nodes are left in float at most, the ones that do the most harm.
        tolerance: relative error of the outputs on calibration items below which no more nodes are
            left in float; 0 leaves `islands`.

    Source: range and saturation, ONNX Runtime documentation "Quantize ONNX models", sections
    "Data type selection" and "When to use reduce-range and per-channel quantization". Outliers of
    transformers: Bondarenko et al. 2021, section 3 (arXiv:2109.12948).
    """

    operators: str = searched("all", "compute", "transformer")
    reduce_range: bool = searched(False, True)
    per_channel: bool = searched(True, False)
    range: str = searched("minmax", "mse", "p99.99")
    islands: int = searched(0, 2, 5)
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        """Raise PassError where a value is outside its range."""
        if self.operators not in ("all", "compute", "transformer"):
            raise PassError(
                f"there are no operators {self.operators!r}; choose all, compute or transformer"
            )
        check_observer(self.range)
        if self.islands < 0 or not 0 <= self.tolerance < float("inf"):
            raise PassError("islands and tolerance cannot be negative")

    def apply(self, source: Path, material: Material, folder: Path) -> tuple[str, ...]:
        """Write ``model.onnx``; raises PassError where nothing was quantized."""
        import onnx

        logging.getLogger().setLevel(logging.ERROR)
        prepared, target = folder / "prepared.onnx", folder / "model.onnx"
        prepare(source, prepared)
        quantizer = Quantizer(self, prepared, material.calibrate)
        try:
            left = self._islands(quantizer, prepared, material.calibrate)
        finally:
            prepared.unlink()
        if left and set(quantizer.nodes) <= set(left):
            raise PassError("all would be left in float; give fewer islands or a larger tolerance")
        onnx.save(quantizer.whole(left), target)
        return (target.name,)

    def _islands(self, quantizer: Quantizer, prepared: Path, items: Store) -> Sequence[str]:
        if not self.islands:
            return ()
        batches = list(items.batches(batch_size(prepared), ISLAND_ITEMS))
        comparison = Comparison(prepared, batches)
        return float_islands(
            quantizer.quantized, quantizer.nodes, comparison, self.islands, self.tolerance
        )


class Quantizer:
    """A prepared model that is quantized as often as need be, with ranges that are found once.

    Args:
        step: how.
        prepared: the model.
        calibration: items from which the ranges are taken.
    """

    def __init__(self, step: StaticInt8, prepared: Path, calibration: Store) -> None:
        from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

        self._step = step
        self._model = load_model_with_shape_infer(prepared)
        self._kinds = _kinds_of(step.operators)
        _name_nodes(self._model.graph)
        graph = self._model.graph
        weights = self.weights()
        nodes = [node for node in graph.node if node.op_type in self._kinds]
        if step.operators == "compute":
            products = {
                x for node in nodes if node.op_type in COMPUTE_OPERATORS for x in node.output
            }
            nodes = [x for x in nodes if x.op_type not in CUT_OFF or x.input[0] in products]
        if step.operators == "transformer":
            nodes = [node for node in nodes if any(name in weights for name in node.input)]
        floats = _float_tensors(graph)
        used = {x: None for node in nodes for x in _tensors(node) if x in floats - set(weights)}
        self._ranges = observe(prepared, tuple(used), calibration, step.range, fixed_batch(graph))
        marked = {name for name, value in weights.items() if _has_marks(value)}
        marked |= used.keys() - self._ranges.keys()
        self.nodes = tuple(node.name for node in nodes if marked.isdisjoint(_tensors(node)))
        self._left_out = {node.name for node in graph.node} - set(self.nodes)

    def whole(self, left: Sequence[str] = ()) -> onnx.ModelProto:
        """Return the model quantized, but for `left`; raises PassError where nothing is."""
        model = self.quantized((), left)
        if "QuantizeLinear" not in _kinds(model.graph):
            raise PassError("the model has no operator that this pass can quantize")
        return model

    def weights(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return the weights of the model in float by name."""
        from onnx import numpy_helper

        return {x.name: numpy_helper.to_array(x) for x in self._model.graph.initializer}

    def put(self, weights: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Give the model in float new weights; the ranges of its activations stay."""
        from onnx import numpy_helper

        for tensor in self._model.graph.initializer:
            if tensor.name in weights:
                tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))

    def quantized(self, only: Sequence[str], left: Sequence[str]) -> onnx.ModelProto:
        """Return the model quantized.

        Args:
            only: names of the nodes to quantize; none for all.
            left: names of the nodes that stay in float.
        """
        if set(self.nodes) <= set(left):
            return self._model
        try:
            return self._apply(only, left, adjust_weights=True)
        except ValueError:  # adjusting weights to biases fails on some graphs (onnxruntime 1.32)
            return self._apply(only, left, adjust_weights=False)

    def _apply(
        self, only: Sequence[str], left: Sequence[str], *, adjust_weights: bool
    ) -> onnx.ModelProto:
        import onnx
        from onnxruntime.quantization import QDQQuantizer, QuantType

        step, model = self._step, onnx.ModelProto()
        model.CopyFrom(self._model)
        float_results = ["MatMul", "Gemm"] if step.operators == "transformer" else []
        quantizer = QDQQuantizer(
            model,
            step.per_channel,
            step.reduce_range,
            QuantType.QInt8,
            QuantType.QUInt8 if platform.machine() == "x86_64" else QuantType.QInt8,
            _as_tensors_data(self._ranges),
            list(only),
            [*sorted(self._left_out), *left],
            list(self._kinds),
            {
                "QDQDisableWeightAdjustForInt32Bias": not adjust_weights,
                "OpTypesToExcludeOutputQuantization": float_results,
            },
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
        return quantizer.model.model


def prepare(source: Path, target: Path) -> None:
    """Write `source` to one file with shapes inferred and constants folded.

    ONNX Runtime's own pre-processing goes wrong on models whose weights lie in other files, so
    they are taken into the file first.

    Raises:
        PassError: the model is quantized already.
    """
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model, whole = onnx.load(source), target.with_suffix(".whole.onnx")
    found = sorted(kind for kind in _kinds(model.graph) if QUANTIZED.search(kind))
    if found:
        raise PassError(
            f"the model is quantized already ({found[0]}); give the one in float, or quantize last"
        )
    onnx.save(_raised(model), whole)
    quant_pre_process(str(whole), str(target), skip_symbolic_shape=True)
    whole.unlink()


def _kinds(graph: onnx.GraphProto) -> set[str]:
    """Return the operator types of a graph and of those within its nodes."""
    inner = [x.g for node in graph.node for x in node.attribute if x.HasField("g")]
    return {node.op_type for node in graph.node}.union(*map(_kinds, inner))


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

    return fixed_batch(onnx.load(path, load_external_data=False).graph) or CALIBRATION_BATCH_ITEMS


def fixed_batch(graph: onnx.GraphProto) -> int | None:
    """Return the batch that a graph is fixed to, None where it is free."""
    weights = {tensor.name for tensor in graph.initializer}
    shapes = [x.type.tensor_type.shape.dim for x in graph.input if x.name not in weights]
    fixed: int = shapes[0][0].dim_value if shapes and shapes[0] else 0
    return fixed if fixed > 0 else None


def _kinds_of(operators: str) -> tuple[str, ...]:
    """Return the operators that are quantized; "all" are those of ``quantize_static``."""
    if operators == "compute":
        return (*COMPUTE_OPERATORS, *CUT_OFF)
    if operators == "transformer":
        return COMPUTE_OPERATORS
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    return tuple(sorted({*QDQRegistry, *QLinearOpsRegistry}))


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Give every node a name of its own, since the quantizer knows nodes by theirs."""
    known: set[str] = set()
    for number, node in enumerate(graph.node):
        if not node.name or node.name in known:
            node.name = f"{node.op_type}_{number}_{node.output[0]}"
        known.add(node.name)


def _float_tensors(graph: onnx.GraphProto) -> set[str]:
    """Return the names of the float32 tensors of a graph whose shapes are inferred."""
    from onnx import TensorProto

    values = (*graph.input, *graph.value_info, *graph.output)
    return {x.name for x in values if x.type.tensor_type.elem_type == TensorProto.FLOAT}


def _tensors(node: onnx.NodeProto) -> tuple[str, ...]:
    return (*node.input, *node.output)


def _has_marks(value: np.ndarray[Any, Any]) -> bool:
    return value.dtype == np.float32 and not bool(np.all(np.abs(value) < MARK))


def _as_tensors_data(ranges: dict[str, Range]) -> Any:  # noqa: ANN401
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData

    ends = {
        name: (np.array(low, np.float32), np.array(high, np.float32))
        for name, (low, high) in ranges.items()
    }
    return TensorsData(CalibrationMethod.MinMax, ends)
