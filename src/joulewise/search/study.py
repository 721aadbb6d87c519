"""The study: every trial in Optuna's storage, so that a killed run can go on.

Embedded (SQLite in the run's own folder) unless the user names a database server by its URL.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec

from joulewise.core.claim import Trial
from joulewise.core.errors import (
    InputError,
    JoulewiseError,
    MissingExtraError,
    UsageError,
    one_line,
)
from joulewise.core.recipe import Recipe

__all__ = ["Study"]

NAME = "joulewise"
FILE = "study.db"
NAME_FILE = "study-name"
"""Where a run keeps the name of its study on a server, which holds those of others too."""

STATES = {"measured": "COMPLETE", "rejected": "PRUNED", "failed": "FAIL"}
"""State of a joulewise trial -> state of the Optuna trial that holds it."""


DRIVERS = {
    "postgresql": ("postgresql+psycopg", "psycopg"),
    "mysql": ("mysql+pymysql", "pymysql"),
}
"""Server -> its driver's name in SQLAlchemy, and its package; the extra is called as the server."""


class Study:
    """Trials in a database.

    Args:
        folder: of the run; it holds the SQLite file or, with `url`, the study's name there.
        identity: all that a trial's figures depend on besides its recipe (model, data, machine,
            usage, versions). A study of another identity is refused.
        url: of a database server, as in ``postgresql://user@host/base`` or ``mysql://...``; None
            for a file in `folder`.

    Raises:
        InputError: what is there is no study, belongs to another identity, or cannot be reached.
        UsageError: the URL cannot be meant.
        MissingExtraError: the server's driver is not installed.
    """

    def __init__(self, folder: Path, identity: dict[str, str], url: str | None = None) -> None:
        import optuna
        from sqlalchemy.exc import SQLAlchemyError
        from sqlalchemy.pool import NullPool

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._optuna = optuna
        self._place = str(folder / FILE) if url is None else _shown(url)
        storage = f"sqlite:///{folder / FILE}" if url is None else _with_driver(url)
        name = NAME if url is None else _own_name(folder)
        self._file = folder / FILE
        try:
            self._storage = optuna.storages.RDBStorage(storage, {"poolclass": NullPool})
            self._study = optuna.create_study(
                study_name=name, storage=self._storage, load_if_exists=True
            )
        except (SQLAlchemyError, RuntimeError) as error:  # RuntimeError: tables of another Optuna
            if url is None:
                raise InputError(
                    f"{self._place} is not a study; delete it to begin anew"
                ) from error
            raise InputError(
                f"cannot keep a study in {self._place} ({one_line(error)}); see that the server "
                "runs and that the user may make tables there"
            ) from error
        self._check(identity, folder)
        self._drop_interrupted()

    def finished(self, recipe: Recipe) -> Trial | None:
        """Return the trial of `recipe` if it was finished before, else None."""
        kept = self._kept_under(recipe.key)
        return None if kept is None else msgspec.json.decode(kept, type=Trial)

    def has(self, key: str) -> bool:
        """Return whether the trial of the recipe with this key was finished before."""
        return self._kept_under(key) is not None

    def _kept_under(self, key: str) -> str | None:
        for frozen in self._study.get_trials(deepcopy=False):
            if frozen.user_attrs.get("key") == key and "trial" in frozen.user_attrs:
                return str(frozen.user_attrs["trial"])
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

    def write_file(self) -> None:
        """See to it that the study also lies in the run's folder, as a file."""
        if self._study.study_name == NAME:
            return
        self._file.unlink(missing_ok=True)
        with self._kept():
            self._optuna.copy_study(
                from_study_name=self._study.study_name, from_storage=self._storage,
                to_storage=f"sqlite:///{self._file}", to_study_name=NAME,
            )  # fmt: skip

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Turn a storage that cannot be written (a full disk, say) into one line."""
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (SQLAlchemyError, self._optuna.exceptions.StorageInternalError) as error:
            raise JoulewiseError(
                f"cannot write {self._place} ({one_line(error)}); "
                "make it writable, then go on with --resume"
            ) from error

    def _check(self, identity: dict[str, str], folder: Path) -> None:
        known = self._study.user_attrs.get("identity")
        if known is None:
            self._study.set_user_attr("identity", identity)
        elif known != identity:
            other = sorted(k for k in {*known, *identity} if known.get(k) != identity.get(k))
            raise InputError(
                f"the interrupted run in {folder} had another {', '.join(other)}; "
                "run it as it was begun, or delete that folder to begin anew"
            )

    def _drop_interrupted(self) -> None:
        """Mark trials that a killed run left open as failed; they are begun anew."""
        state = self._optuna.trial.TrialState
        for frozen in self._study.get_trials(deepcopy=False, states=(state.RUNNING,)):
            self._study.tell(frozen.number, state=state.FAIL)


def _own_name(folder: Path) -> str:
    """Return the name of this run's study on a server, made up when the run begins."""
    file = folder / NAME_FILE
    if not file.exists():
        file.write_text(f"{NAME}-{uuid4().hex}")
    return file.read_text()


def _with_driver(url: str) -> str:
    """Return a URL that names the driver; raises where there is none, or it is not installed."""
    from importlib.util import find_spec

    kind, separator, rest = url.partition("://")
    if not separator or kind not in DRIVERS:
        raise UsageError(
            f"a study cannot be kept in {_shown(url)!r}; use postgresql://USER@HOST/BASE or "
            "mysql://USER@HOST/BASE, or leave it out for a file beside the output"
        )
    driver, package = DRIVERS[kind]
    if find_spec(package) is None:
        raise MissingExtraError(package, kind)
    return f"{driver}://{rest}"


def _shown(url: str) -> str:
    """Return a URL without its password."""
    return re.sub(r"(://[^:@/]*):[^@]*@", r"\1:***@", url)
