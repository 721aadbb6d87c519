"""``--prometheus PORT``: counters that grow while a command runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from joulewise.core.energy import Meter
from joulewise.meter.table import open_meter, open_meters
from joulewise.meter.window import Stopwatch
from joulewise.report.scrape import MetricsServer

__all__ = ["serving_metrics"]


@contextmanager
def serving_metrics(
    server: MetricsServer, name: str | None, meters: Sequence[Meter]
) -> Iterator[None]:
    """Serve the joules of this process and its children while it lasts.

    The meters are opened once more, as a meter is read by one thread only; idle power that was
    watched is passed on.

    Args:
        server: bound to its port.
        name: of the meter, as the user gave it.
        meters: those that measure the command.
    """
    pids = [os.getpid()]
    with ExitStack() as opened:
        own = open_meters(pids) if name is None else (open_meter(pids, name=name),)
        for mine, theirs in zip(own, meters, strict=True):
            opened.callback(mine.close)
            mine.idle_w = theirs.idle_w
        window = opened.enter_context(Stopwatch("metrics", meters=own))
        opened.enter_context(server.serving(lambda: window.so_far().parts))
        yield
