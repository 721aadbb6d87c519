"""What each group of channels of a model costs in joules, which multiplications do not tell.

Early layers with few channels and large maps, or layers whose width does not fill a register, need
many more joules per multiplication than others. So each group is measured: the whole model against
the same one with that group alone made narrow, block by block in turns.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from joulewise.compress.narrow import Narrow, narrowed
from joulewise.core.recipe import Recipe, RunSettings
from joulewise.export.process import ProgramProcess
from joulewise.meter.interleave import Plan, interleave, ratio_of
from joulewise.search.session import Session

__all__ = ["group_costs", "shares_of"]

MEASURED_GROUPS = 12
"""Groups that are measured, those with the most multiplications; others count like their mean."""

TOGETHER = 4
"""Narrow models that are open at the same time, beside the whole one."""

PLAN = Plan(rounds=5, block_s=0.1, warm_up_s=0.2)

WHOLE = "whole"


def group_costs(session: Session, recipe: Recipe, align: int) -> tuple[int, ...]:
    """Return what each group of channels of a model costs, in thousandths of its joules.

    Args:
        session: the job, the terms and the machine.
        recipe: whose steps give the model, and how it is run.
        align: widths are multiples of it.

    Returns:
        In the order of `joulewise.compress.prune.Prune.costs`; 0 where nothing can be measured.

    Raises:
        PassError: the model has no channels that can go, or a step does not fit.
    """
    session.make(recipe)
    model = session.main_file(recipe)
    with tempfile.TemporaryDirectory(dir=session.folder) as folder:
        groups = narrowed(model, session.workload.calibrate, align, MEASURED_GROUPS, Path(folder))
        saved: dict[int, float] = {}
        numbers = [number for number, group in enumerate(groups) if group.file]
        for first in range(0, len(numbers), TOGETHER):
            some = numbers[first : first + TOGETHER]
            files = {WHOLE: model} | {str(n): Path(folder) / str(groups[n].file) for n in some}
            saved |= _saved(session, recipe.run, files)
    return tuple(round(1000 * share) for share in shares_of(groups, saved))


def shares_of(groups: Sequence[Narrow], saved: Mapping[int, float]) -> tuple[float, ...]:
    """Return the part of the model's joules that each group costs, [0, 1].

    Args:
        groups: of the model.
        saved: number of a group -> part of the model's joules that went with what it lost.
    """
    gone = sum(groups[number].gone_ratio for number in saved)
    rate = sum(saved.values()) / gone if gone else 0.0
    found = []
    for number, group in enumerate(groups):
        own = saved[number] / group.gone_ratio if number in saved else rate
        found.append(min(1.0, own * group.work_ratio))
    return tuple(found)


def _saved(session: Session, run: RunSettings, files: Mapping[str, Path]) -> dict[int, float]:
    """Return by number the part of the joules that narrow models save, 0 where none is seen."""
    workload, confidence = session.workload, session.judge.confidence
    with ExitStack() as stack:
        programs = {
            name: stack.enter_context(
                ProgramProcess(path, run, workload.search, workload.usage.batch_items)
            )
            for name, path in files.items()
        }
        taken = interleave(programs, session.open_meter, PLAN)
    whole = taken.pop(WHOLE)
    ratios = {name: ratio_of(whole, each, confidence) for name, each in taken.items()}
    return {
        int(name): 1 - ratio.value if ratio.sampling_high < 1 else 0.0
        for name, ratio in ratios.items()
    }
