"""The process in which a program runs: opens an artifact, times blocks, writes answers.

Started by `ProgramProcess`; imports numpy and one runtime, nothing else.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import numpy as np

from joulewise.core.child import serve
from joulewise.core.errors import ProgramError
from joulewise.core.profile import Profile
from joulewise.core.recipe import RunSettings
from joulewise.export.program import RUNTIMES, Array, Program
from joulewise.workload.store import Store, open_store

BLOCK_BYTES = 64 << 20
"""Real inputs kept ready for timed blocks; more than a last-level cache, less than a problem."""


WARM_CALLS = 3
FEWEST_CALLS = 5
MOST_TIMED = 1000
MOST_PROFILED = 50
"""Calls of a profile: enough for a mean, and few enough for a trace of thousands of operators."""


class Worker:
    """One open program and the inputs that it is timed on."""

    def __init__(self) -> None:
        self._program: Program | None = None
        self._inputs: list[dict[str, Array]] = []
        self._position = 0

    def open(self, path: str, settings: dict[str, object], store: str, batch_items: int) -> float:
        """Open the artifact and prepare inputs; return the seconds that opening took."""
        run = msgspec.convert(settings, RunSettings)
        self._inputs = _ready(open_store(Path(store)), batch_items)
        shapes = {name: values.shape for name, values in self._inputs[0].items()}
        started = time.perf_counter()
        self._program = RUNTIMES.load(run.runtime)().open(Path(path), run, shapes)
        return time.perf_counter() - started

    def block(self, batches: int) -> dict[str, float]:
        """Run `batches` batches in real order and return seconds, CPU seconds and latencies."""
        program = self._opened()
        latencies = np.empty(batches)
        inputs, position = self._inputs, self._position
        cpu = time.process_time()
        started = before = time.perf_counter()
        for i in range(batches):
            program.run(inputs[position])
            position = (position + 1) % len(inputs)
            after = time.perf_counter()
            latencies[i] = after - before
            before = after
        seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu
        self._position = position
        p50, p95 = np.quantile(latencies, (0.5, 0.95))
        return {"seconds": seconds, "cpu_s": cpu_s, "p50_s": float(p50), "p95_s": float(p95)}

    def predict(self, store: str, batch_items: int, limit: int | None, output: str) -> int:
        """Write the outputs for the first `limit` items of a store; return their number.

        Raises:
            ProgramError: an output's first axis is not the batch.
        """
        program, data = self._opened(), open_store(Path(store))
        items = min(limit or data.items, data.items)
        parts: list[list[Array]] = []
        for batch in data.batches(batch_items, items):
            outputs = [np.asarray(values) for values in program.run(batch)]
            if any(values.ndim == 0 or len(values) != batch_items for values in outputs):
                raise ProgramError(
                    "an output does not have one row per item of the batch; "
                    "export the model with a batch axis on every output"
                )
            parts.append([values.copy() for values in outputs])
        Path(output).mkdir(parents=True, exist_ok=True)
        for number, columns in enumerate(zip(*parts, strict=True)):
            np.save(Path(output) / f"{number}.npy", np.concatenate(columns)[:items])
        return len(parts[0])

    def profile(self, path: str, settings: dict[str, object], seconds: float) -> Profile:
        """Return where the time of a call goes.

        Calls of the open program are timed for about `seconds`, then as long again those of a
        program that is opened to tell of its operators.
        """
        run = msgspec.convert(settings, RunSettings)
        warm_s = self.block(WARM_CALLS)["seconds"] / WARM_CALLS
        timed, profiled = (
            max(FEWEST_CALLS, min(most, int(seconds / warm_s)))
            for most in (MOST_TIMED, MOST_PROFILED)
        )
        call_s = self.block(timed)["seconds"] / timed
        batches = [self._inputs[i % len(self._inputs)] for i in range(profiled)]
        return Profile(
            runtime=run.runtime,
            batch_items=len(next(iter(batches[0].values()))),
            calls=profiled,
            call_s=call_s,
            operators=tuple(RUNTIMES.load(run.runtime)().profile(Path(path), run, batches)),
        )

    def _opened(self) -> Program:
        if self._program is None:
            raise RuntimeError("no program is open")
        return self._program


def _ready(store: Store, batch_items: int) -> list[dict[str, Array]]:
    """Return batches in the model's types, as many as fit into BLOCK_BYTES, at least one."""
    ready: list[dict[str, Array]] = []
    held_bytes = 0
    for batch in store.batches(batch_items):
        ready.append(batch)
        held_bytes += sum(values.nbytes for values in batch.values())
        if held_bytes >= BLOCK_BYTES:
            break
    return ready


if __name__ == "__main__":
    worker = Worker()
    handlers = (worker.open, worker.block, worker.predict, worker.profile)
    serve({handler.__name__: handler for handler in handlers})
