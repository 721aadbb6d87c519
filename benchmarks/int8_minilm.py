"""What int8 does to a sentence transformer: how much its answers change, and what it costs.

ONNX Runtime's static quantization with default settings destroys all-MiniLM-L6-v2. Here are the
causes one by one, and the ways out, each with the joules of one thread over those in float::

    python -m benchmarks.int8_minilm -o records/int8-minilm.json

The model and its items are those of `tests.workloads.sentences`. Half of the items give the ranges,
the answers to the other half are compared. Blocks of all variants are interleaved.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from joulewise.compress.material import Material
from joulewise.compress.process import apply_step
from joulewise.core.claim import Ratio
from joulewise.core.energy import Sensor
from joulewise.core.errors import JoulewiseError
from joulewise.core.host import Host, package_versions, read_host
from joulewise.core.recipe import RunSettings, parse_steps
from joulewise.core.records import dump
from joulewise.export.process import ProgramProcess
from joulewise.learn.source import as_onnx
from joulewise.meter.interleave import Plan, interleave, ratio_of
from joulewise.meter.table import meter_opener
from joulewise.workload.store import Store, write_store
from tests.workloads import sentences

SCHEMA = "joulewise/record/int8-minilm/1"

RUN = RunSettings(runtime="onnxruntime", threads=1)
PLAN = Plan(rounds=10, block_s=0.25, warm_up_s=0.5)
CONFIDENCE = 0.95

FLOAT, DYNAMIC = "float32", "dynamic_int8"
RECIPES = (
    DYNAMIC,
    "static_int8",
    "static_int8(operators=compute)",
    "static_int8(operators=transformer)",
    "static_int8(operators=transformer, range='p99.99')",
    "static_int8(operators=transformer, range=mse)",
    "static_int8(operators=transformer, islands=3)",
    "smooth + dynamic_int8",
    "smooth + static_int8(operators=transformer)",
    "smooth + static_int8(operators=transformer, range=mse)",
)
ORT_STATIC, ORT_DYNAMIC = "quantize_static of ONNX Runtime", "quantize_dynamic of ONNX Runtime"
ORT_UNSIGNED = f"{ORT_STATIC}, unsigned activations"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to quantize the model.

    Args:
        name: recipe, or function of ONNX Runtime with its default settings.
        cosine_mean: mean cosine between its vectors and those in float.
        cosine_least: the least of them.
        size_bytes: of its file.
        ratio: joules over those in float.
        ratio_to_dynamic: joules over those of dynamic_int8.
    """

    name: str
    cosine_mean: float
    cosine_least: float
    size_bytes: int
    ratio: Ratio | None
    ratio_to_dynamic: Ratio | None


@dataclass(frozen=True, kw_only=True)
class Record:
    """All variants, and where they were measured.

    Args:
        model: package that holds it.
        items: whose answers are compared.
        tokens: per item.
        sensor: what gave the joules.
        variants: in the order of the tables.
        host: the machine.
        load_before: programs that wanted a CPU at the start, over 1, 5 and 15 minutes.
        packages: versions.
    """

    schema: str = SCHEMA
    model: str = sentences.REQUIREMENT
    items: int
    tokens: int = sentences.TOKENS
    sensor: Sensor
    variants: tuple[Variant, ...]
    host: Host
    load_before: tuple[float, float, float]
    packages: Mapping[str, str]


def measure(folder: Path) -> Record:
    """Quantize the model in every way, and compare answers and joules.

    Args:
        folder: where the variants are kept.
    """
    load_before = os.getloadavg()
    calibrate, test = _halves(folder)
    source = as_onnx(sentences.model(), "tests.workloads.sentences:items", folder / "float")
    made = {FLOAT: source}
    for name, make in _makers(source, calibrate):
        place = folder / f"variant-{len(made)}"
        made[name] = make(place)
    with ExitStack() as stack:
        programs = {
            name: stack.enter_context(ProgramProcess(path, RUN, test, 1))
            for name, path in made.items()
        }
        vectors = {
            name: program.predict(test, folder / f"answers-{number}")[0]
            for number, (name, program) in enumerate(programs.items())
        }
        taken = interleave(programs, meter_opener(None, read_host()), PLAN)
    variants = []
    for name, path in made.items():
        cosines = _cosines(vectors[name], vectors[FLOAT])
        variants.append(
            Variant(
                name=name,
                cosine_mean=float(cosines.mean()),
                cosine_least=float(cosines.min()),
                size_bytes=path.stat().st_size,
                ratio=_ratio(taken, FLOAT, name),
                ratio_to_dynamic=_ratio(taken, DYNAMIC, name),
            )
        )
    return Record(
        items=test.items,
        sensor=taken[FLOAT].sensor,
        variants=tuple(variants),
        host=read_host(),
        load_before=load_before,
        packages=package_versions(),
    )


def _halves(folder: Path) -> tuple[Store, Store]:
    """Write the items to find ranges with, and those to compare answers on."""
    arrays = sentences.items()
    dtypes = dict.fromkeys(arrays, "int64")
    order = np.random.default_rng(0).permutation(sentences.ITEMS)
    half = sentences.ITEMS // 2
    calibrate = write_store(folder / "calibrate", arrays, dtypes, None, np.sort(order[:half]))
    return calibrate, write_store(folder / "test", arrays, dtypes, None, np.sort(order[half:]))


def _makers(source: Path, calibrate: Store) -> Iterator[tuple[str, Callable[[Path], Path]]]:
    """Yield a name, and what writes that variant to a folder and returns its file."""
    from onnxruntime.quantization import QuantType

    yield ORT_STATIC, partial(_ort_static, {}, source, calibrate)
    unsigned = {"activation_type": QuantType.QUInt8}
    yield ORT_UNSIGNED, partial(_ort_static, unsigned, source, calibrate)
    yield ORT_DYNAMIC, partial(_ort_dynamic, source)
    for recipe in RECIPES:
        yield recipe, partial(_own, recipe, source, calibrate)


def _own(recipe: str, source: Path, calibrate: Store, folder: Path) -> Path:
    for number, step in enumerate(parse_steps(recipe)):
        place = folder / str(number)
        made = apply_step(step, source, Material(calibrate=calibrate), place)
        source = place / made.main
    return source


def _ort_static(
    options: Mapping[str, object], source: Path, calibrate: Store, folder: Path
) -> Path:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = calibrate.batches(16)

        def get_next(self) -> Mapping[str, Any] | None:
            return next(self._batches, None)

    folder.mkdir()
    prepared, target = folder / "prepared.onnx", folder / "model.onnx"
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    quantize_static(prepared, target, Reader(), **options)
    return target


def _ort_dynamic(source: Path, folder: Path) -> Path:
    from onnxruntime.quantization import quantize_dynamic

    folder.mkdir()
    quantize_dynamic(source, folder / "model.onnx")
    return folder / "model.onnx"


def _cosines(ours: npt.NDArray[Any], theirs: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the cosine of each pair of vectors."""
    left, right = (x.astype(np.float64).reshape(len(x), -1) for x in (ours, theirs))
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    cosines: npt.NDArray[np.float64] = (left * right).sum(axis=1) / lengths
    return cosines


def _ratio(taken: Mapping[str, Any], baseline: str, name: str) -> Ratio | None:
    return None if name == baseline else ratio_of(taken[baseline], taken[name], CONFIDENCE)


def main(arguments: list[str] | None = None) -> None:
    """Print a line per variant, and write the record where that is asked for."""
    parser = argparse.ArgumentParser(description="int8 on a sentence transformer.")
    parser.add_argument("-o", "--output", type=Path, help="write the record to this file")
    asked = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    logging.getLogger().setLevel(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory() as folder:
            record = measure(Path(folder))
    except JoulewiseError as error:
        parser.exit(error.exit_code, f"{parser.prog}: {error}\n")
    if asked.output is not None:
        dump(record, asked.output)
    for each in record.variants:
        print(
            f"{each.name:58} cosine {each.cosine_mean:.4f}, least {each.cosine_least:.4f}; "
            f"{each.size_bytes / 1e6:.0f} MB; joules {_words(each.ratio)}, "
            f"over dynamic {_words(each.ratio_to_dynamic)}"
        )


def _words(ratio: Ratio | None) -> str:
    if ratio is None:
        return "1"
    return f"{ratio.value:.3f} ({ratio.sampling_low:.3f} to {ratio.sampling_high:.3f})"


if __name__ == "__main__":
    main()
