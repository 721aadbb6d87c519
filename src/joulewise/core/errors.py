"""Every error a user can foresee, each with the exit code that the CLI ends with.

::

    JoulewiseError             1  something that the user can mend went wrong
    ├── UsageError             2  the request itself is not one that can be carried out
    ├── InputError             1  a model, data set or bundle is unreadable or inconsistent
    ├── MissingExtraError      1  an optional package is not installed; names the pip line
    ├── SensorError            1  a joule counter is absent or unreadable
    ├── PassError              1  a compression pass cannot be applied to this model
    ├── ProgramError           1  a program failed while it was being opened or run
    └── ClaimError             3  a claim does not hold

Messages are one line: what is wrong, then what to do.
"""

from __future__ import annotations

import textwrap

__all__ = [
    "ClaimError",
    "InputError",
    "JoulewiseError",
    "MissingExtraError",
    "PassError",
    "ProgramError",
    "SensorError",
    "UsageError",
    "one_line",
]


class JoulewiseError(Exception):
    """Root of all errors raised on purpose; its text is shown to the user as it is."""

    exit_code = 1


class UsageError(JoulewiseError):
    """The request is not one that can be carried out: unknown name, contradicting options."""

    exit_code = 2


class InputError(JoulewiseError):
    """A model, data set, study or bundle is unreadable, inconsistent or too small."""


class SensorError(JoulewiseError):
    """A joule counter is absent, unreadable or implausible."""


class PassError(JoulewiseError):
    """A compression pass cannot be applied to this model."""


class ProgramError(JoulewiseError):
    """A program failed while it was being opened or run."""


class ClaimError(JoulewiseError):
    """A claim does not hold."""

    exit_code = 3


class MissingExtraError(JoulewiseError):
    """An optional package is not installed.

    Args:
        package: the package that could not be imported.
        extra: the extra of joulewise that brings it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is not installed; install it with: pip install 'joulewise[{extra}]'"
        )
        self.package = package
        self.extra = extra


def one_line(error: BaseException) -> str:
    """Return the text of somebody else's `error`, or its type, in one line of 200 characters."""
    return textwrap.shorten(str(error), 200, placeholder=" …") or type(error).__name__
