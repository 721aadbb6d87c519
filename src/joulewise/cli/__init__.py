"""The command line: arguments in, calls, text and exit codes out.

Exit codes: 0 done, 1 failed, 2 usage, 3 a claim does not hold, 130 interrupted.
stdout carries the result, stderr progress, warnings and errors. Heavy packages are imported by
the commands that need them, so that ``--help`` is instant.
"""

from joulewise.cli.entry import main

__all__ = ["main"]
