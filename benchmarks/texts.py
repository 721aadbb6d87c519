"""What compression saves on texts, against the int8 that a user of ONNX Runtime has for one line.

MiniLM with a linear layer tells the topic of news (Reuters R8) or the group of posts (20
Newsgroups), one text at a time, on one thread. The peer is ONNX Runtime's `quantize_dynamic` with
its default settings, of the model as it is, for texts padded to 128 tokens; and, as a user may well
give it texts without their padding, also of a model that cuts it off::

    python -m benchmarks.texts reuters-r8 -o records/texts-r8.json
    python -m benchmarks.texts 20newsgroups -o records/texts-20ng.json

The recipe is applied by `joulewise.compress_model`, whose test of it against the original is part
of the record. Then all variants answer the same held-out texts, and take turns in blocks.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import tempfile
import warnings
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from joulewise.compress.material import Material
from joulewise.compress.process import apply_step
from joulewise.compression import RECORD, Compressed, compress_model
from joulewise.core.claim import Ratio
from joulewise.core.energy import Sensor
from joulewise.core.errors import JoulewiseError
from joulewise.core.host import read_host
from joulewise.core.recipe import RunSettings, Step
from joulewise.core.records import dump, load
from joulewise.core.settings import Settings, Usage
from joulewise.core.statistics import lower_bound
from joulewise.export.process import ProgramProcess
from joulewise.meter.interleave import Plan, interleave, ratio_of
from joulewise.meter.table import meter_opener
from joulewise.workload.store import Store
from joulewise.workload.workload import open_workload
from tests.workloads import texts

SCHEMA = "joulewise/record/texts/1"

RUN = RunSettings(runtime="onnxruntime", threads=1)
PLAN = Plan(rounds=30, block_s=0.6, warm_up_s=0.8)

FLOAT, FLOAT_TRIMMED = "float32", "float32, trimmed"
PEER = "quantize_dynamic of ONNX Runtime"
PEER_TRIMMED = f"{PEER}, trimmed"
COMPRESSED = "compressed"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One corpus, and what is done for it.

    Args:
        data: items to calibrate and judge with.
        train: items to learn from.
        recipe: steps.
        margin: largest acceptable loss of accuracy.
    """

    data: str
    train: str
    recipe: str
    margin: float


JOBS = {
    texts.R8: Job(
        data="tests.workloads.texts:r8",
        train="tests.workloads.texts:r8_lessons",
        recipe="drop_blocks(count=4) + trim_padding + distill(epochs=4, rate=1e-4, batch_items=32, "
        "temperature=2.0, label_weight=0.5) + quantize(dynamic)",
        margin=0.005,
    ),
    texts.NEWS: Job(
        data="tests.workloads.texts:news",
        train="tests.workloads.texts:news_lessons",
        recipe="drop_blocks(count=4) + trim_padding + distill(epochs=4, rate=2e-4, batch_items=32, "
        "label_weight=1.0) + quantize(dynamic)",
        margin=0.01,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to do the job.

    Args:
        name: what it is.
        accuracy: on the held-out texts.
        loss_at_most: upper bound of what it loses to the original, as a fraction of the texts;
            None for the original itself.
        size_bytes: of its file.
        ratio: joules over those of the peer that computes the padding.
        ratio_to_trimmed: joules over those of the peer that does not.
    """

    name: str
    accuracy: float
    loss_at_most: float | None
    size_bytes: int
    ratio: Ratio | None
    ratio_to_trimmed: Ratio | None


@dataclass(frozen=True, kw_only=True)
class Record:
    """All variants on one corpus.

    Args:
        corpus: its name.
        compressed: recipe, what it cost, and its test against the original.
        held_out: texts that all variants answered.
        sensor: what gave the joules.
        variants: in the order of the tables.
        load_before: programs that wanted a CPU at the start, over 1, 5 and 15 minutes.
        load_after: the same at the end.
    """

    schema: str = SCHEMA
    corpus: str
    compressed: Compressed
    held_out: int
    sensor: Sensor
    variants: tuple[Variant, ...]
    load_before: tuple[float, float, float]
    load_after: tuple[float, float, float]


def measure(corpus: str, job: Job, folder: Path) -> Record:
    """Compress the model, and compare it with the peers.

    Args:
        corpus: one of JOBS.
        job: what to do.
        folder: for models and intermediate files; what is there already is used again.
    """
    load_before = os.getloadavg()
    settings = Settings(margin=job.margin)
    original = texts.model(corpus)
    compressed = _compressed(original, job, settings, folder / "compressed")
    workload = open_workload(original, job.data, Usage(), settings, folder / "data")
    files = _peers(original, workload.calibrate, folder)
    files[COMPRESSED] = folder / "compressed" / compressed.artifact.main
    held_out, opener = workload.hold_out, meter_opener(settings.meter, read_host())
    with ExitStack() as stack:
        programs = {
            name: stack.enter_context(ProgramProcess(path, RUN, held_out, 1))
            for name, path in files.items()
        }
        answers = {
            name: program.predict(held_out, _fresh(folder, f"answers-{number}"))
            for number, (name, program) in enumerate(programs.items())
        }
        taken = interleave(programs, opener, replace(PLAN, seed=settings.seed))
    right = {
        name: np.asarray(scores[0]).argmax(axis=1) == held_out.labels
        for name, scores in answers.items()
    }
    variants = []
    for name, path in files.items():
        ours, theirs = right[name], right[FLOAT]
        gained, lost = int(np.sum(ours & ~theirs)), int(np.sum(theirs & ~ours))
        bound = lower_bound(gained, lost, len(ours), settings.confidence)
        ratios = {
            peer: None if name == peer else ratio_of(taken[peer], taken[name], settings.confidence)
            for peer in (PEER, PEER_TRIMMED)
        }
        variants.append(
            Variant(
                name=name,
                accuracy=float(ours.mean()),
                loss_at_most=None if name == FLOAT else -bound,
                size_bytes=path.stat().st_size,
                ratio=ratios[PEER],
                ratio_to_trimmed=ratios[PEER_TRIMMED],
            )
        )
    return Record(
        corpus=corpus,
        compressed=compressed,
        held_out=held_out.items,
        sensor=taken[FLOAT].sensor,
        variants=tuple(variants),
        load_before=load_before,
        load_after=os.getloadavg(),
    )


def _compressed(original: Path, job: Job, settings: Settings, folder: Path) -> Compressed:
    if not folder.exists():
        resume = folder.with_name(f"{folder.name}.work").exists()
        compress_model(
            original, job.recipe, job.data, folder, train=job.train, settings=settings,
            resume=resume,
        )  # fmt: skip
    return load(Compressed, folder / RECORD)


def _peers(original: Path, calibrate: Store, folder: Path) -> dict[str, Path]:
    """Return what the compressed model is compared with, by name."""
    from onnxruntime.quantization import quantize_dynamic

    made = apply_step(
        Step(name="trim_padding"), original, Material(calibrate=calibrate), folder / "trimmed"
    )
    files = {FLOAT: original, FLOAT_TRIMMED: folder / "trimmed" / made.main}
    for name, source in ((PEER, FLOAT), (PEER_TRIMMED, FLOAT_TRIMMED)):
        files[name] = _fresh(folder, f"peer-{len(files)}") / "model.onnx"
        quantize_dynamic(files[source], files[name])
    return files


def _fresh(folder: Path, name: str) -> Path:
    shutil.rmtree(folder / name, ignore_errors=True)
    (folder / name).mkdir(parents=True)
    return folder / name


def lines_of(record: Record) -> list[str]:
    """Return a line per variant for the terminal."""
    return [
        f"{each.name:42} {100 * each.accuracy:.2f} %{_bound(each)}; "
        f"{each.size_bytes / 1e6:.0f} MB; joules over the peer's {_words(each.ratio)}, "
        f"over the trimmed peer's {_words(each.ratio_to_trimmed)}"
        for each in record.variants
    ]


def _bound(variant: Variant) -> str:
    loss = variant.loss_at_most
    return "" if loss is None else f", {100 * loss:.2f} points less at most"


def _words(ratio: Ratio | None) -> str:
    return "1" if ratio is None else f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"


def main(arguments: list[str] | None = None) -> None:
    """Print a line per variant, and write the record where that is asked for."""
    parser = argparse.ArgumentParser(description="Compression on texts.")
    parser.add_argument("corpus", choices=sorted(JOBS))
    parser.add_argument("--recipe", help="steps to apply instead of those of the record")
    parser.add_argument("--folder", type=Path, help="keep models there, and go on from there")
    parser.add_argument("-o", "--output", type=Path, help="write the record to this file")
    asked = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    logging.getLogger().setLevel(logging.ERROR)
    job = JOBS[asked.corpus]
    job = job if asked.recipe is None else replace(job, recipe=asked.recipe)
    try:
        record = _in_folder(asked.corpus, job, asked.folder)
    except JoulewiseError as error:
        parser.exit(error.exit_code, f"{parser.prog}: {error}\n")
    if asked.output is not None:
        dump(record, asked.output)
    print("\n".join(lines_of(record)))


def _in_folder(corpus: str, job: Job, folder: Path | None) -> Record:
    if folder is not None:
        return measure(corpus, job, folder)
    with tempfile.TemporaryDirectory() as temporary:
        return measure(corpus, job, Path(temporary))


if __name__ == "__main__":
    main()
