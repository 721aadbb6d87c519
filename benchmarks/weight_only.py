"""Does it pay to keep only the weights in 8 or 4 bits, and to compute in float?

ONNX Runtime's MatMulNBits reads fewer bytes of weights and turns them into floats on the way. That
can only help where reading weights takes the time: many weights, few rows. So it is measured on a
sentence transformer (`tests.workloads.sentences`, 64 rows per product), and on what a language
model does for one token: a chain of products of one row, beside `dynamic_int8`::

    python -m benchmarks.weight_only -o records/weight-only.json

The chain's weights are random: its errors are not those of a language model.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import helper

from benchmarks.int8_minilm import CONFIDENCE, PLAN, RUN
from joulewise.compress.dynamic_int8 import DynamicInt8
from joulewise.compress.material import Material
from joulewise.compress.weight_only import WeightOnly
from joulewise.core.claim import Ratio
from joulewise.core.energy import Sensor
from joulewise.core.errors import JoulewiseError
from joulewise.core.host import Host, package_versions, read_host
from joulewise.core.records import dump
from joulewise.export.process import ProgramProcess
from joulewise.learn.source import as_onnx
from joulewise.meter.interleave import interleave, ratio_of
from joulewise.meter.table import meter_opener
from joulewise.testing.models import save_model
from joulewise.workload.store import Store, write_store
from tests.workloads import sentences

SCHEMA = "joulewise/record/weight-only/1"

WIDTH, LAYERS = 2048, 10
"""Of the chain: 168 MB in float32, more than caches hold."""

ITEMS = 128
FLOAT = "float32"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to hold the weights.

    Args:
        model: "sentences", or "one row" or "64 rows" of the chain.
        name: "float32", or a recipe.
        error_ratio: relative L2 difference of the answers from those in float.
        size_bytes: of its file.
        ratio: joules over those in float, None for float itself.
    """

    model: str
    name: str
    error_ratio: float
    size_bytes: int
    ratio: Ratio | None


@dataclass(frozen=True, kw_only=True)
class Record:
    """All variants, and where they were measured.

    Args:
        variants: by model.
        sensor: what gave the joules.
        host: the machine.
        load_before: programs that wanted a CPU at the start, over 1, 5 and 15 minutes.
        packages: versions.
    """

    schema: str = SCHEMA
    variants: tuple[Variant, ...]
    sensor: Sensor
    host: Host
    load_before: tuple[float, float, float]
    packages: Mapping[str, str]


def measure(folder: Path) -> Record:
    """Measure all variants of all models; they are kept in `folder`."""
    load_before = os.getloadavg()
    arrays = {name: values[:ITEMS] for name, values in sentences.items().items()}
    texts = write_store(
        folder / "texts", arrays, dict.fromkeys(arrays, "int64"), None, np.arange(ITEMS)
    )
    model = as_onnx(sentences.model(), "tests.workloads.sentences:items", folder / "sentences")
    found = [*_measured("sentences", model, texts, 1)]
    x = np.random.default_rng(1).normal(size=(ITEMS, WIDTH)).astype(np.float32)
    rows = write_store(folder / "rows", {"x": x}, {"x": "float32"}, None, np.arange(ITEMS))
    (folder / "chain").mkdir()
    chain = _chain(folder / "chain" / "model.onnx")
    found += _measured("one row", chain, rows, 1)
    found += _measured("64 rows", chain, rows, 64)
    variants, sensors = zip(*found, strict=True)
    return Record(
        variants=variants,
        sensor=sensors[0],
        host=read_host(),
        load_before=load_before,
        packages=package_versions(),
    )


def _measured(
    label: str, model: Path, items: Store, batch_items: int
) -> list[tuple[Variant, Sensor]]:
    """Return the variants of a model, interleaved, with the sensor."""
    folder = model.with_name(label)
    steps: dict[str, DynamicInt8 | WeightOnly] = {"dynamic_int8": DynamicInt8()}
    steps |= {f"weight_only(bits={bits})": WeightOnly(bits=bits) for bits in (8, 4)}
    made = {FLOAT: model}
    for number, (name, step) in enumerate(steps.items()):
        made[name] = _made(step, model, items, folder / str(number))
    with ExitStack() as stack:
        programs = {
            name: stack.enter_context(ProgramProcess(path, RUN, items, batch_items))
            for name, path in made.items()
        }
        answers = {
            name: program.predict(items, folder / f"answers {name}")[0].astype(np.float64)
            for name, program in programs.items()
        }
        taken = interleave(programs, meter_opener(None, read_host()), PLAN)
    wanted, baseline = answers[FLOAT], taken[FLOAT]
    return [
        (
            Variant(
                model=label,
                name=name,
                error_ratio=float(np.linalg.norm(answers[name] - wanted) / np.linalg.norm(wanted)),
                size_bytes=path.stat().st_size,
                ratio=None if name == FLOAT else ratio_of(baseline, taken[name], CONFIDENCE),
            ),
            taken[name].sensor,
        )
        for name, path in made.items()
    ]


def _made(step: DynamicInt8 | WeightOnly, model: Path, items: Store, folder: Path) -> Path:
    folder.mkdir(parents=True)
    (name,) = step.apply(model, Material(calibrate=items), folder)
    return folder / name


def _chain(path: Path) -> Path:
    """Write LAYERS times MatMul and Tanh."""
    random = np.random.default_rng(0)
    weights = {f"w{i}": random.normal(size=(WIDTH, WIDTH)) / WIDTH**0.5 for i in range(LAYERS)}
    names = ["x", *(f"h{i}" for i in range(LAYERS - 1)), "y"]
    nodes = []
    for i in range(LAYERS):
        nodes.append(helper.make_node("MatMul", [names[i], f"w{i}"], [f"raw{i}"], name=f"p{i}"))
        nodes.append(helper.make_node("Tanh", [f"raw{i}"], [names[i + 1]]))
    return save_model(path, nodes, weights, {"x": ["n", WIDTH]}, {"y": ["n", WIDTH]})


def main(arguments: list[str] | None = None) -> None:
    """Print a line per variant, and write the record where that is asked for."""
    parser = argparse.ArgumentParser(description="Weights in 8 or 4 bits, arithmetic in float.")
    parser.add_argument("-o", "--output", type=Path, help="write the record to this file")
    asked = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    try:
        with tempfile.TemporaryDirectory() as folder:
            record = measure(Path(folder))
    except JoulewiseError as error:
        parser.exit(error.exit_code, f"{parser.prog}: {error}\n")
    if asked.output is not None:
        dump(record, asked.output)
    for each in record.variants:
        joules = 1.0 if each.ratio is None else each.ratio.value
        print(
            f"{each.model:10} {each.name:19} error {100 * each.error_ratio:.1f} %; "
            f"{each.size_bytes / 1e6:.0f} MB; joules {joules:.2f}"
        )


if __name__ == "__main__":
    main()
