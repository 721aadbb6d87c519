"""What stays the same throughout one search."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from joulewise.compress.material import Material
from joulewise.compress.process import Tell, Workshop, apply_step
from joulewise.core.energy import Meter
from joulewise.core.errors import InputError
from joulewise.core.host import Host, package_versions
from joulewise.core.recipe import Recipe
from joulewise.core.records import Artifact, describe_artifact, dump, load
from joulewise.core.settings import Settings
from joulewise.search.space import anchor_recipe, earlier_steps
from joulewise.workload.judge import Judge
from joulewise.workload.workload import Workload

__all__ = ["OpenMeter", "Session", "artifact_note", "fingerprint"]

OpenMeter = Callable[[Sequence[int]], Meter]


@dataclass(frozen=True, kw_only=True)
class Session:
    """A search: the job, the terms, the machine, and where intermediate files go.

    Args:
        workload: the job.
        judge: scores answers on the search split.
        settings: what the user declared.
        runtimes: names of the runtimes to use, the one of the model as found first.
        host: the machine.
        open_meter: opens a meter on process ids.
        folder: working folder.
    """

    workload: Workload
    judge: Judge
    settings: Settings
    runtimes: tuple[str, ...]
    host: Host
    open_meter: OpenMeter
    folder: Path

    @property
    def anchor(self) -> Recipe:
        """The program that every trial is interleaved with: one thread, so the least noise."""
        return anchor_recipe(self.runtimes, self.host.logical_cpus)

    @property
    def material(self) -> Material:
        """What passes may learn from."""
        return Material(
            calibrate=self.workload.calibrate,
            train=self.workload.train,
            search=self.workload.search,
            original=self.workload.model.path,
            seed=self.settings.seed,
            values=not self.judge.task.of_classes,
            batch_items=self.workload.usage.batch_items,
        )

    def artifact_folder(self, recipe: Recipe) -> Path:
        """Return the folder that holds the files which the steps of `recipe` give."""
        if not recipe.steps:
            return self.workload.model.path.parent
        return self.folder / "artifacts" / recipe.steps_key

    def artifact(self, recipe: Recipe) -> Artifact | None:
        """Return what the steps of `recipe` gave, None where that is not there yet, or damaged."""
        if not recipe.steps:
            return self.workload.model.artifact
        folder = self.artifact_folder(recipe)
        note = artifact_note(folder)
        if not note.exists():
            return None
        known = load(Artifact, note)
        try:
            found = describe_artifact(folder, known.files, known.format)
        except InputError:
            return None
        return known if found == known else None

    def make(
        self,
        recipe: Recipe,
        tell: Tell | None = None,
        training_s: float | None = None,
        limit_s: float = math.inf,
        workshop: Workshop | None = None,
    ) -> Artifact:
        """Return what the steps of `recipe` give, made now or before.

        Every beginning of the steps has a folder of its own, which recipes share.

        Args:
            recipe: whose steps are applied.
            tell: told of the progress of a step that reports it.
            training_s: longest time for which a step may train, s; None for as long as it asks.
            limit_s: longest time that each step may take, s.
            workshop: where steps are applied; None makes one for each.

        Raises:
            TimeoutError: a step took longer than `limit_s`.
            PassError: a step does not fit the model, or failed.
        """
        known = self.artifact(recipe)
        if known is not None:
            return known
        before = replace(recipe, steps=earlier_steps(recipe.steps))
        self.make(before, tell, training_s, limit_s, workshop)
        folder, material = (
            self.artifact_folder(recipe),
            replace(self.material, training_s=training_s),
        )
        made = apply_step(
            recipe.steps[-1], self.main_file(before), material, folder, tell, limit_s, workshop
        )
        dump(made, artifact_note(folder))
        return made

    def made(self, recipe: Recipe) -> Artifact:
        """Return what the steps of `recipe` gave; raises InputError where it is not there."""
        artifact = self.artifact(recipe)
        if artifact is None:
            raise InputError(f"the files of {recipe} are gone; begin the run anew")
        return artifact

    def main_file(self, recipe: Recipe) -> Path:
        """Return the file to open for `recipe`; raises InputError where it is not there."""
        return self.artifact_folder(recipe) / self.made(recipe).main

    def identity(self, meter_name: str) -> dict[str, str]:
        """Return all that a trial's figures depend on besides its recipe."""
        model = self.workload.model.artifact
        return {
            "model": " ".join(model.files.values()),
            "data": self.workload.search.digest(),
            "training data": "" if self.workload.train is None else self.workload.train.digest(),
            "usage": str(self.workload.usage),
            "settings": str(replace(self.settings, runtimes=self.runtimes)),
            **fingerprint(self.host, meter_name),
        }


def fingerprint(host: Host, meter_name: str) -> dict[str, str]:
    """Return what joules depend on besides the job: where it differs, they are not compared."""
    return {
        "machine": f"{host.short} {host.architecture}",
        "meter": meter_name,
        "package versions": str(sorted(package_versions().items())),
    }


def artifact_note(folder: Path) -> Path:
    """Return the file beside an artifact's folder that says the artifact is whole."""
    return folder.with_suffix(".json")
