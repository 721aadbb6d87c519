"""Quantization-aware fine-tuning: int8 weights that were trained to be rounded.

Use it where static int8 loses too much. The network is trained with activations and weights
rounded exactly where `static_int8` with the same parameters rounds them, and with its ranges; then
that quantizer rounds what was learnt.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from joulewise.compress.distill import FEW_ITEMS, fixed_items, lengths_of
from joulewise.compress.material import Material
from joulewise.compress.static_int8 import Quantizer, StaticInt8, prepare
from joulewise.core.child import tell
from joulewise.core.errors import PassError
from joulewise.learn.plan import Lessons, Plan
from joulewise.workload.store import Store

if TYPE_CHECKING:
    from joulewise.learn.network import Network

__all__ = ["Qat"]

ALIKE_RATIO = 0.25
"""Largest relative L2 difference between the graph and the network that was trained in its place.

Source: a judgement. Where a number lies between two steps, float32 sums in another order round it
the other way, and every layer after it makes more of that: 0.002 was found for two layers, 0.1 for
a transformer of six, where rounding itself changes 0.67. That torch computes the operators as ONNX
Runtime does is checked without rounding.
"""


@dataclass(frozen=True, kw_only=True)
class Qat:
    """Train a model while its weights and activations are rounded to 8 bits, and quantize it.

    Args:
        epochs: times that every training item is seen.
        rate: highest learning rate.
        batch_items: items per step.
        temperature: of the distributions over classes in which model and original are compared.
        label_weight: share of the labels in the loss, [0, 1]; the rest is the original's.
        operators: see StaticInt8.
        reduce_range: see StaticInt8.
        per_channel: see StaticInt8.
        range: see StaticInt8.

    Source: Jacob et al. 2018, section 3 (arXiv:1712.05877).
    """

    epochs: int = 3
    rate: float = 1e-3
    batch_items: int = 64
    temperature: float = 4.0
    label_weight: float = 0.1
    operators: str = "all"
    reduce_range: bool = False
    per_channel: bool = True
    range: str = "minmax"

    def __post_init__(self) -> None:
        """Raise ValueError or PassError where a value is outside its range."""
        self._plan(seed=0)
        self._quantization()

    def apply(self, source: Path, material: Material, folder: Path) -> tuple[str, ...]:
        """Write ``model.onnx``; raises PassError where there is nothing to round or learn from."""
        if material.train is None:
            raise PassError("there is nothing to learn from; name training items with --train")
        import onnx

        from joulewise.learn.fake_int8 import fake_int8
        from joulewise.learn.network import Network, check_same

        logging.getLogger().setLevel(logging.ERROR)
        prepared, target = folder / "prepared.onnx", folder / "model.onnx"
        prepare(source, prepared)
        try:
            quantizer = Quantizer(self._quantization(), prepared, material.calibrate)
        finally:
            prepared.unlink()
        rounded, floats = quantizer.whole(), quantizer.weights()
        original = material.original or source
        student = fake_int8(rounded, floats, reduce_range=self.reduce_range)
        teacher = Network(onnx.load(original))
        few = material.calibrate.batch(0, student.fixed_items or FEW_ITEMS)
        check_same(teacher, original, few)
        check_same(Network(onnx.load(source)), source, few)
        self._train(student, teacher, material, material.train)
        quantizer.put(student.weights())
        onnx.save(quantizer.whole(), target)
        check_same(student, target, few, ALIKE_RATIO)
        return (target.name,)

    def _train(self, student: Network, teacher: Network, material: Material, items: Store) -> None:
        from joulewise.learn.fixed_batch import FixedBatch
        from joulewise.learn.trainer import train

        fixed = fixed_items(student, teacher, material)
        pupil, master = (x if fixed is None else FixedBatch(x, fixed) for x in (student, teacher))
        train(
            pupil,
            Lessons(
                train=items,
                search=material.search,
                inputs=student.inputs,
                teacher=master,
                values=material.values,
                lengths=lengths_of(items),
            ),
            self._plan(material.seed),
            checkpoint=material.checkpoint,
            tell=lambda share, words: tell((share, words)),
            stop=material.pays_no_more,
        )

    def _plan(self, seed: int) -> Plan:
        return Plan(
            epochs=self.epochs,
            rate=self.rate,
            batch_items=self.batch_items,
            temperature=self.temperature,
            label_weight=self.label_weight,
            precision="f32",
            seed=seed,
        )

    def _quantization(self) -> StaticInt8:
        return StaticInt8(
            operators=self.operators,
            reduce_range=self.reduce_range,
            per_channel=self.per_channel,
            range=self.range,
        )
