"""Run the command line as ``python -m joulewise``."""

from joulewise.cli import main

main()
