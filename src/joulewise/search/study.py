"""The study: every trial in Optuna's embedded storage, so that a killed run can go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from joulewise.core.claim import Trial
from joulewise.core.errors import InputError, JoulewiseError, one_line
from joulewise.core.recipe import Recipe

__all__ = ["Study"]

NAME = "joulewise"
STATES = {"measured": "COMPLETE", "rejected": "PRUNED", "failed": "FAIL"}
"""State of a joulewise trial -> state of the Optuna trial that holds it."""


class Study:
    """Trials on disk.

    Args:
        path: the SQLite file; made if missing.
        identity: all that a trial's figures depend on besides its recipe (model, data, machine,
            usage, versions). A study of another identity is refused.

    Raises:
        InputError: the file is no study, or belongs to another identity.
    """

    def __init__(self, path: Path, identity: dict[str, str]) -> None:
        import optuna
        from sqlalchemy.exc import DatabaseError

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._optuna = optuna
        self._path = path
        try:
            self._study = optuna.create_study(
                study_name=NAME, storage=f"sqlite:///{path}", load_if_exists=True
            )
        except (DatabaseError, RuntimeError) as error:  # RuntimeError: tables of another Optuna
            raise InputError(f"{path} is not a study; delete it to begin anew") from error
        self._check(identity, path)
        self._drop_interrupted()

    def finished(self, recipe: Recipe) -> Trial | None:
        """Return the trial of `recipe` if it was finished before, else None."""
        for frozen in self._study.get_trials(deepcopy=False):
            if frozen.user_attrs.get("key") == recipe.key and "trial" in frozen.user_attrs:
                return msgspec.json.decode(frozen.user_attrs["trial"], type=Trial)
        return None

    def begin(self, recipe: Recipe) -> Any:  # noqa: ANN401
        """Note that a trial of `recipe` has begun; give the result to `finish`."""
        with self._kept():
            begun = self._study.ask()
            begun.set_user_attr("key", recipe.key)
            begun.set_user_attr("recipe", str(recipe))
        return begun

    def finish(self, begun: Any, trial: Trial) -> None:  # noqa: ANN401
        """Keep a finished trial; its joule ratio is the value that Optuna sees."""
        state = self._optuna.trial.TrialState[STATES[trial.state]]
        value = trial.ratio.value if trial.state == "measured" and trial.ratio else None
        with self._kept():
            begun.set_user_attr("trial", msgspec.json.encode(trial).decode())
            self._study.tell(begun, value, state=state)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Turn a storage that cannot be written (a full disk, say) into one line."""
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (SQLAlchemyError, self._optuna.exceptions.StorageInternalError) as error:
            raise JoulewiseError(
                f"cannot write {self._path} ({one_line(error)}); "
                "make it writable, then go on with --resume"
            ) from error

    def _check(self, identity: dict[str, str], path: Path) -> None:
        known = self._study.user_attrs.get("identity")
        if known is None:
            self._study.set_user_attr("identity", identity)
        elif known != identity:
            other = sorted(k for k in {*known, *identity} if known.get(k) != identity.get(k))
            raise InputError(
                f"the interrupted run in {path.parent} had another {', '.join(other)}; "
                "run it as it was begun, or delete that folder to begin anew"
            )

    def _drop_interrupted(self) -> None:
        """Mark trials that a killed run left open as failed; they are begun anew."""
        state = self._optuna.trial.TrialState
        for frozen in self._study.get_trials(deepcopy=False, states=(state.RUNNING,)):
            self._study.tell(frozen.number, state=state.FAIL)
