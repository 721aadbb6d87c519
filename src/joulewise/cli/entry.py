"""Where the program starts.

``joulewise measure -- COMMAND`` has no options to parse, and what parses options takes longer to
load than many a command runs: it is called without.
"""

from __future__ import annotations

import sys

from joulewise.core.errors import JoulewiseError

__all__ = ["main"]


def main() -> None:
    """Run the program; every foreseeable failure is one line on stderr."""
    try:
        _run(sys.argv[1:])
    except JoulewiseError as error:
        print(f"joulewise: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)


def _run(arguments: list[str]) -> None:
    if arguments[:2] == ["measure", "--"]:
        from joulewise.cli.measure import is_model, run_measure_command

        command = arguments[2:]
        if command and not is_model(command):
            run_measure_command(command)
    from joulewise.cli.app import app

    app()
