"""What runs inside a tool's environment: ``python meter_guest.py TOOL WHAT [ARGUMENT]``.

WHAT is `start` (open and close one window), `loop TIMES` (inside a window), `pairs SECONDS`
(windows opened and closed again and again) or `tell COMMAND` (as JSON: what the tool says of it).
The answer, where there is one, is the last line, as JSON.

Each tool is used as its documentation says: CodeCarbon offline with its own interval, without file
and, unless it is to tell its method, without log; Zeus without graphics cards. Imports are where
they are needed, as they are what is measured.
"""

from __future__ import annotations

import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing here would be in every start
    from collections.abc import Mapping
    from typing import Any

    Joules = Mapping[str, float | None]

J_PER_KWH = 3.6e6
MOST_PAIRS = 2000


class Bare:
    """No tool; the others do in each method what it says, and import theirs when they are made."""

    def begin(self) -> None:
        """Open the window."""

    def end(self) -> None:
        """Close it."""

    def pair(self) -> None:
        """Open and close another window, while the first is open."""

    def told(self) -> tuple[Joules, str]:
        """Return the window's joules, by name, and how the tool says it found them."""
        return {}, "no tool"


class Joulewise(Bare):
    """A window of joulewise."""

    def __init__(self) -> None:
        import joulewise

        self._window, self._other = joulewise.measure("all"), joulewise.measure("one")

    def begin(self) -> None:
        """Open the window."""
        self._window.start()

    def end(self) -> None:
        """Close it."""
        self._window.stop()

    def pair(self) -> None:
        """Open and close another window, while the first is open."""
        self._other.start()
        self._other.stop()

    def told(self) -> tuple[Joules, str]:
        """Return net and gross joules with their bounds, and the sensors."""
        found = self._window.result
        joules = {
            f"{kind}, {bound}": getattr(each, bound)
            for kind, each in (("net of idle", found.net_j), ("gross", found.gross_j))
            if each is not None
            for bound in ("central", "low", "high")
        }
        sensors = [part.sensor for part in found.parts]
        return joules, "; ".join(
            f"{sensor.name}, grade {sensor.grade}: {sensor.boundary}" for sensor in sensors
        )


class CodeCarbon(Bare):
    """A tracker of CodeCarbon."""

    METHOD_MARKS = ("Tracking Method", "default power", "Falling back on")

    def __init__(self) -> None:
        from codecarbon import OfflineEmissionsTracker

        self._lines: list[str] = []
        tells = sys.argv[2:3] == ["tell"]
        if tells:
            self._listen()
        self._tracker: Any = OfflineEmissionsTracker(
            country_iso_code="USA", save_to_file=False, log_level="info" if tells else "critical"
        )

    def begin(self) -> None:
        """Start tracking."""
        self._tracker.start()

    def end(self) -> None:
        """Stop tracking."""
        self._tracker.stop()

    def pair(self) -> None:
        """Start and stop a task, which is a window inside the tracker's own."""
        self._tracker.start_task("one")
        self._tracker.stop_task("one")

    def told(self) -> tuple[Joules, str]:
        """Return the joules of the parts and their sum, and what its log says of the method."""
        found = self._tracker.final_emissions_data
        kwh = {
            "cpu": found.cpu_energy,
            "gpu": found.gpu_energy,
            "memory": found.ram_energy,
            "all": found.energy_consumed,
        }
        said = [
            line.strip()
            for text in self._lines
            for line in text.splitlines()
            if any(mark in line for mark in self.METHOD_MARKS)
        ]
        joules = {name: J_PER_KWH * value for name, value in kwh.items()}
        return joules, "; ".join([f"tracking mode {found.tracking_mode}", *said])

    def _listen(self) -> None:
        import logging

        lines = self._lines

        class Keep(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                lines.append(record.getMessage())

        logging.getLogger("codecarbon").addHandler(Keep())


class Zeus(Bare):
    """A window of Zeus's monitor."""

    def __init__(self) -> None:
        from zeus.monitor import ZeusMonitor

        self._monitor: Any = ZeusMonitor(gpu_indices=[])
        self._found: Any = None

    def begin(self) -> None:
        """Open the window."""
        self._monitor.begin_window("all")

    def end(self) -> None:
        """Close it."""
        self._found = self._monitor.end_window("all")

    def pair(self) -> None:
        """Open and close another window, while the first is open."""
        self._monitor.begin_window("one")
        self._monitor.end_window("one")

    def told(self) -> tuple[Joules, str]:
        """Return the joules of processors and memory, None where Zeus has none, and why."""
        from zeus.device import get_cpus

        parts = {"cpu": self._found.cpu_energy, "memory": self._found.dram_energy}
        joules = {
            name: None if each is None else sum(each.values()) for name, each in parts.items()
        }
        try:
            method = f"get_cpus() gave {type(get_cpus()).__name__}"
        except Exception as error:  # noqa: BLE001  (whatever it raises is the answer)
            method = f"get_cpus() raised {error!r}"
        return {**joules, "Measurement.total_energy": self._found.total_energy}, method


TOOLS: Mapping[str, type[Bare]] = {
    "bare": Bare,
    "joulewise": Joulewise,
    "codecarbon": CodeCarbon,
    "zeus": Zeus,
}


def start(tool: Bare) -> None:
    """Open a window and close it."""
    tool.begin()
    tool.end()


def loop(tool: Bare, times: int) -> dict[str, object]:
    """Count inside a window and return the CPU time of doing so, by this thread's own clock."""
    tool.begin()
    before_s = time.thread_time()
    total = 0
    for number in range(times):
        total += number * number % 7
    loop_cpu_s = time.thread_time() - before_s
    tool.end()
    return {"loop_cpu_s": loop_cpu_s}


def pairs(tool: Bare, seconds: float) -> dict[str, object]:
    """Return what one more pair of opening and closing takes, s."""
    tool.begin()
    tool.pair()
    wall_s, cpu_s, count = time.monotonic(), time.process_time(), 0
    while count < MOST_PAIRS and time.monotonic() - wall_s < seconds:
        tool.pair()
        count += 1
    cpu_s, wall_s = time.process_time() - cpu_s, time.monotonic() - wall_s
    tool.end()
    return {"count": count, "pair_cpu_s": cpu_s / count, "pair_wall_s": wall_s / count}


def tell(tool: Bare, argv: list[str]) -> dict[str, object]:
    """Run a command in a window and return what the tool says of it."""
    import subprocess

    tool.begin()
    subprocess.run(argv, check=True)
    tool.end()
    joules, method = tool.told()
    return {"joules": dict(joules), "method": method, "version": version(sys.argv[1])}


def version(name: str) -> str | None:
    """Return the version of the package that is called like the tool."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def main() -> None:
    """Do what is asked for, and print the answer."""
    name, what, *rest = sys.argv[1:]
    tool = TOOLS[name]()
    if what == "start":
        start(tool)
        return
    import json

    if what == "loop":
        answer = loop(tool, int(rest[0]))
    elif what == "pairs":
        answer = pairs(tool, float(rest[0]))
    else:
        answer = tell(tool, json.loads(rest[0]))
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
