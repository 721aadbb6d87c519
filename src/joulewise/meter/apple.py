"""Read the joules of an Apple chip from powermetrics, which macOS brings along (grade B).

powermetrics runs beside us and writes a property list every PERIOD_S with the millijoules that the
CPU, the GPU and the Neural Engine took since the one before; they are added up. ``combined_power``
is the same again and is never read, and the GPU, which some versions tell twice, counts once. Not
in it: memory, display, disk and radio.

A reading waits for the sample that holds its moment, at most one period, so what a program took is
inside its window whole; joules and seconds are those of whole samples and fit each other exactly.

It needs root, so it is started by ``sudo -n`` where we are not. IOReport, where powermetrics has
the figures from, needs no root, but is private and undocumented: channels change names between
versions of macOS, and a wrong binding ends the program instead of raising; it is not read.

Invariant: a reading never falls; a sample that is late, incomplete or below zero is an error, then
and at every later reading.

Tested against an executable that writes lists with published figures; never run on a Mac.

Source: powermetrics(1), "machine-readable property list, NUL-separated"; keys and millijoules as in
graelo/pumas, src/modules/powermetrics/plist_parsing.rs, and tlkh/asitop, parsers.py.
"""

from __future__ import annotations

import os
import plistlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import IO, ClassVar
from xml.parsers.expat import ExpatError

from joulewise.core.energy import Component, Grade, Reading, Sensor
from joulewise.core.errors import SensorError, one_line
from joulewise.core.host import Host

__all__ = ["AppleMeter", "Sample", "command_line", "parse_sample", "probe", "samples"]

PERIOD_S = 0.1
"""Time between samples, s: a judgement; each of them costs powermetrics some milliseconds."""

STEP_J = 1e-3
"""Step of a rail in one sample, J: they are whole millijoules."""

PATIENCE_S = 10.0
"""Longest wait for a sample, s: a judgement."""

LATE_S = 2.0
"""How long a sample may be late, s: a judgement; beyond it joules may be missing."""

RATIOS, PAIR_RATIO = (0.7, 1.4), 1.15
"""Error of Apple's figures, and the part that two programs do not share: judgements.

Source: powermetrics(1) says that they are estimates, not to be compared between devices, but of use
for making programs on one device more efficient. No published bound was found.
"""

RAILS = ("cpu", "gpu", "ane")
"""Rails that add up: processors, graphics, Neural Engine."""

SAMPLERS = "cpu_power,gpu_power"
"""What is asked for; ``cpu_power`` brings the Neural Engine along."""

RIGHTS = (
    'run joulewise with sudo, or allow powermetrics without a password: echo "$USER ALL=(root) '
    'NOPASSWD: /usr/bin/powermetrics" | sudo tee /etc/sudoers.d/powermetrics'
)

END = b"</plist>"


def probe(*, platform: str = sys.platform) -> str | None:
    """Return why no Apple chip can be read here, with the fix, or None where it can.

    Args:
        platform: as in sys.platform.
    """
    if platform != "darwin":
        return f"it needs macOS on a Mac with an Apple chip, this is {platform}"
    try:
        with closing(AppleMeter()):
            return None
    except SensorError as error:
        return str(error)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One property list.

    Args:
        seconds: time since the one before, s.
        rails_j: joules of each rail in it.
    """

    seconds: float
    rails_j: Mapping[str, float]


def command_line(period_s: float, *, root: bool) -> list[str]:
    """Return how powermetrics is started.

    Args:
        period_s: time between samples, s.
        root: whether we are root.
    """
    period_ms = max(1, round(1e3 * period_s))
    command = ["powermetrics", "-f", "plist", "-b", "1", "-i", str(period_ms), "-s", SAMPLERS]
    return command if root else ["sudo", "-n", *command]


def samples(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield each property list as soon as its last line is there.

    Not at the NUL between two of them, which may come with the second.

    Args:
        stream: what powermetrics writes.
    """
    lines: list[bytes] = []
    for line in stream:
        lines.append(line)
        if END in line:
            yield b"".join(lines).strip(b"\0\n ")
            lines.clear()


def parse_sample(text: bytes) -> Sample:
    """Return the joules of a property list.

    Args:
        text: as powermetrics writes it.

    Raises:
        SensorError: it is no property list, or has no joules of the CPU.
    """
    try:
        fields = plistlib.loads(text, fmt=plistlib.FMT_XML)
        processor = fields["processor"]
        joules = {"gpu_energy": fields.get("gpu", {}).get("gpu_energy"), **processor}
        found = {rail: joules.get(f"{rail}_energy") for rail in RAILS}
        rails_j = {rail: float(mj) * 1e-3 for rail, mj in found.items() if mj is not None}
        seconds = float(fields["elapsed_ns"]) * 1e-9
    except (ExpatError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SensorError(
            f"powermetrics wrote what is not understood ({type(error).__name__}: "
            f"{one_line(error)}); it needs a Mac with an Apple chip"
        ) from error
    if "cpu" not in rails_j:
        raise SensorError("powermetrics tells no cpu_energy; it needs a Mac with an Apple chip")
    if seconds <= 0 or min(rails_j.values()) < 0:
        raise SensorError("powermetrics told joules or seconds below 0; measure again")
    return Sample(seconds=seconds, rails_j=rails_j)


class AppleMeter:
    """Count the joules of an Apple chip.

    `idle_w` is None until the caller sets it.

    Args:
        period_s: time between samples, s.
        clock: monotonic time, s; another function in tests.

    Raises:
        SensorError: powermetrics is absent, may not be run, or gives no joules; the message has
            the fix.
    """

    grade: ClassVar[Grade] = "B"
    component: ClassVar[Component] = "machine"
    probe: ClassVar[Callable[[], str | None]] = staticmethod(probe)

    def __init__(
        self, *, period_s: float = PERIOD_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._news = threading.Condition()
        self._fault: SensorError | None = None
        self._latest: Reading | None = None
        self._closed = False
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115  (closed by the thread)
        self._process = self._start(command_line(period_s, root=os.geteuid() == 0))
        self._thread = threading.Thread(target=self._follow, name="joulewise-apple", daemon=True)
        self._thread.start()
        try:
            first = self._reading(lambda _latest: True)
        except SensorError:
            self.close()
            raise
        self.idle_w: float | None = None
        self.sensor = apple_sensor(tuple(first.rails_j), period_s)

    @classmethod
    def attach(cls, pids: Sequence[int], host: Host) -> AppleMeter:  # noqa: ARG003
        """Open the meter; its joules are the chip's, whatever the processes."""
        return cls()

    def read(self) -> Reading:
        """Return the joules of each rail since the meter was opened, up to the end of this sample.

        Raises:
            SensorError: powermetrics ended, is late, or wrote something else, now or before.
        """
        asked_s = self._clock()
        return self._reading(lambda latest: latest.time_s >= asked_s)

    def close(self) -> None:
        """End powermetrics; under sudo it ends by itself, as nobody reads its next sample."""
        self._closed = True
        with suppress(ProcessLookupError, PermissionError):
            self._process.terminate()
        self._thread.join(timeout=LATE_S)

    def _start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start powermetrics out of the terminal's reach: Ctrl-C is not for it."""
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._complaints,
                start_new_session=True,
            )
        except OSError as error:
            self._complaints.close()
            raise SensorError(
                f"cannot run {command[0]} ({error.strerror}); it comes with macOS"
            ) from error

    def _reading(self, wanted: Callable[[Reading], bool]) -> Reading:
        """Return the latest sums once they are wanted."""
        with self._news:
            came = self._news.wait_for(
                lambda: self._fault or (self._latest is not None and wanted(self._latest)),
                PATIENCE_S,
            )
            if self._fault is not None:
                raise self._fault
            if not came or self._latest is None:
                raise SensorError(f"powermetrics gave no sample in {PATIENCE_S:g} s; measure again")
            return self._latest

    def _follow(self) -> None:
        """Take in samples until powermetrics ends or the meter is closed."""
        stream = self._process.stdout
        assert stream is not None  # noqa: S101  (it is a pipe)
        try:
            with stream, self._complaints:
                for text in samples(stream):
                    if self._closed:
                        return
                    self._take(parse_sample(text))
                self._end(SensorError(self._why()))
        except SensorError as error:
            self._end(error)
        finally:
            self._process.wait()

    def _take(self, sample: Sample) -> None:
        now_s, before = self._clock(), self._latest
        if before is None:  # joules are counted from the end of the first sample
            fresh = Reading(time_s=now_s, rails_j=dict.fromkeys(sample.rails_j, 0.0))
        elif sample.rails_j.keys() != before.rails_j.keys():
            raise SensorError("powermetrics tells other rails than before; measure again")
        else:
            fresh = Reading(
                time_s=before.time_s + sample.seconds,
                rails_j={
                    rail: before.rails_j[rail] + joules for rail, joules in sample.rails_j.items()
                },
            )
        if now_s - fresh.time_s > LATE_S:
            raise SensorError(
                f"powermetrics is {now_s - fresh.time_s:.1f} s late (was the Mac asleep?); stop "
                "other work on it and measure again"
            )
        with self._news:
            self._latest = fresh
            self._news.notify_all()

    def _end(self, fault: SensorError) -> None:
        with self._news:
            self._fault = fault
            self._news.notify_all()

    def _why(self) -> str:
        """Say why powermetrics ended."""
        self._complaints.seek(0)
        said = self._complaints.read().decode(errors="replace").strip()
        if "superuser" in said or "password" in said:
            return f"powermetrics needs root: {RIGHTS}"
        last = said.splitlines()[-1] if said else f"exit code {self._process.wait()}"
        return f"powermetrics ended ({last[:200]}); measure again"


def apple_sensor(rails: tuple[str, ...], period_s: float) -> Sensor:
    """Describe the rails that were found."""
    return Sensor(
        name="apple",
        grade="B",
        boundary="CPU, GPU and Neural Engine of the Apple chip, without memory, idle included",
        rails=rails,
        includes_idle=True,
        resolution_j=STEP_J,
        update_period_s=period_s,
        low_ratio=RATIOS[0],
        high_ratio=RATIOS[1],
        pair_ratio=PAIR_RATIO,
        source="powermetrics of macOS, which estimates them; the error band is a judgement",
    )
