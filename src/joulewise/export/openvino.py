"""OpenVINO on the CPU.

Shapes are made static, because the batch is known; float arithmetic is pinned to f32, because
OpenVINO otherwise rounds to bfloat16 on CPUs that have it, which is a change of the model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from joulewise.core.errors import ProgramError
from joulewise.core.profile import OperatorTime, longest_first
from joulewise.core.recipe import RunSettings
from joulewise.export.program import Program, thread_counts

__all__ = ["OpenVino"]

Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]


class OpenVino:
    """Open ONNX files and OpenVINO IR on OpenVINO's CPU device."""

    formats = ("onnx", "openvino")

    def as_found(self) -> RunSettings:
        """Return the settings of a user who sets nothing."""
        return RunSettings(runtime="openvino")

    def lossless(self, cpus: int) -> Sequence[RunSettings]:
        """Return every thread count in f32."""
        return [
            RunSettings(runtime="openvino", threads=threads, precision="f32")
            for threads in thread_counts(cpus)
        ]

    def lossy(self, best: RunSettings, instruction_sets: Sequence[str]) -> Sequence[RunSettings]:
        """Return bfloat16 arithmetic where the CPU has it."""
        if "bf16" not in instruction_sets:
            return ()
        return [RunSettings(runtime="openvino", threads=best.threads, precision="bf16")]

    def open(
        self, path: Path, settings: RunSettings, shapes: Mapping[str, Sequence[int]]
    ) -> Program:
        """Open an ONNX or IR file with static `shapes`; raises ProgramError where that fails."""
        return _request(path, compile_options(settings), shapes)

    def profile(
        self, path: Path, settings: RunSettings, batches: Sequence[Mapping[str, Array]]
    ) -> Sequence[OperatorTime]:
        """Run `batches` with OpenVINO's performance counters, after one call that does not count.

        The counters are whole microseconds, rounded down: what is shorter is not told.
        """
        shapes = {name: values.shape for name, values in batches[0].items()}
        request = _request(path, {**compile_options(settings), "PERF_COUNT": "YES"}, shapes)
        request.run(batches[0])
        before = request.counters()
        for batch in batches:
            request.run(batch)
        return operators_of_counters(before, request.counters(), len(batches))


def _request(
    path: Path, options: Mapping[str, str], shapes: Mapping[str, Sequence[int]]
) -> _Request:
    import openvino

    core = openvino.Core()
    try:
        model = core.read_model(path)
        names = {name: port for port in model.inputs for name in port.get_names()}
        model.reshape({names[name]: list(shape) for name, shape in shapes.items()})
        compiled = core.compile_model(model, "CPU", dict(options))
    except RuntimeError as error:
        raise ProgramError(f"OpenVINO: {_reason(error)}") from error
    return _Request(compiled.create_infer_request(), [p.get_any_name() for p in model.inputs])


@dataclass(frozen=True, kw_only=True)
class Counter:
    """What OpenVINO tells of one node of its graph.

    Args:
        node: its name.
        kind: its type.
        kernel: name of the kernel that runs it.
        mean_us: mean time over all calls so far, whole microseconds, rounded down.
    """

    node: str
    kind: str
    kernel: str
    mean_us: int


def operators_of_counters(
    before: Sequence[Counter], after: Sequence[Counter], calls: int
) -> tuple[OperatorTime, ...]:
    """Return mean times of a call by operator type, the longest first.

    Args:
        before: counters after one call, which packs weights and is left out.
        after: counters of the same nodes when `calls` more have been made.
        calls: at least 1.
    """
    first_us = {counter.node: counter.mean_us for counter in before}
    total_us: dict[str, list[int]] = defaultdict(list)
    kernels: dict[str, set[str]] = defaultdict(set)
    for counter in after:
        spent_us = (calls + 1) * counter.mean_us - first_us.get(counter.node, 0)
        if spent_us > 0:
            total_us[counter.kind].append(spent_us)
            kernels[counter.kind].add(counter.kernel)
    return longest_first(
        OperatorTime(
            kind=kind,
            count=len(spent_us),
            seconds=1e-6 * sum(spent_us) / calls,
            kernels=tuple(sorted(kernels[kind])),
        )
        for kind, spent_us in total_us.items()
    )


class _Request:
    """An infer request; `share_inputs` avoids a copy, outputs are copied out."""

    def __init__(self, request: Any, names: Sequence[str]) -> None:  # noqa: ANN401
        self._request = request
        self._names = names

    def run(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        results = self._request.infer(
            {i: inputs[name] for i, name in enumerate(self._names)}, share_inputs=True
        )
        return list(results.values())

    def counters(self) -> list[Counter]:
        return [
            Counter(
                node=found.node_name,
                kind=found.node_type,
                kernel=found.exec_type,
                mean_us=round(1e6 * found.real_time.total_seconds()),
            )
            for found in self._request.profiling_info
        ]

    def close(self) -> None:
        self._request = None


def _reason(error: RuntimeError) -> str:
    """Return the text of an OpenVINO error in one line, without the places in its source code."""
    lines = str(error).splitlines()
    return " ".join(
        line.strip() for line in lines if line and not line.startswith("Exception from")
    )


def compile_options(settings: RunSettings) -> dict[str, str]:
    """Return the properties that `settings` stand for."""
    options = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}
    if settings.threads is not None:
        options["INFERENCE_NUM_THREADS"] = str(settings.threads)
    if settings.precision is not None:
        options["INFERENCE_PRECISION_HINT"] = settings.precision
    return options
