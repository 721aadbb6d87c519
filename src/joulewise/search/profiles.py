"""Take the profiles of programs of a search, and keep them with their trials."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from joulewise.core.claim import Trial
from joulewise.core.errors import ProgramError
from joulewise.core.profile import Profile
from joulewise.core.recipe import Recipe
from joulewise.cost.operators import count_work
from joulewise.export.process import ProgramProcess
from joulewise.search.session import Session

__all__ = ["profile_of", "profiles_of", "with_profiles"]


def profile_of(session: Session, recipe: Recipe) -> Profile | None:
    """Return where the time of a call goes, on the search items; None where nothing can tell.

    Args:
        session: of the search.
        recipe: whose steps were applied before.

    Raises:
        InputError: its files are not there.
    """
    path, workload = session.main_file(recipe), session.workload
    batch_items = workload.usage.batch_items
    try:
        with ProgramProcess(path, recipe.run, workload.search, batch_items) as program:
            found = program.profile()
    except ProgramError:
        return None
    return found if recipe.steps else replace(found, work=count_work(path, batch_items))


def profiles_of(session: Session, trials: Iterable[Trial]) -> dict[str, Profile]:
    """Return the profiles of those `trials` that have none yet, by the key of their recipe."""
    missing = [trial.recipe for trial in trials if trial.profile is None]
    found = {recipe.key: profile_of(session, recipe) for recipe in missing}
    return {key: profile for key, profile in found.items() if profile is not None}


def with_profiles(trials: Sequence[Trial], profiles: Mapping[str, Profile]) -> tuple[Trial, ...]:
    """Return the trials, each with the profile that `profiles` have of its recipe, if any."""
    return tuple(
        replace(trial, profile=profiles.get(trial.recipe.key, trial.profile)) for trial in trials
    )
