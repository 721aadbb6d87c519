"""ONNX Runtime on the CPU.

Its default spins idle worker threads, which is fast and expensive; threads and spinning are
therefore settings of their own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from joulewise.core.profile import OperatorTime
from joulewise.core.recipe import RunSettings
from joulewise.export.ort_trace import operators_of_trace
from joulewise.export.program import Program, thread_counts

__all__ = ["OnnxRuntime"]

Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]


class OnnxRuntime:
    """Open ONNX files with ONNX Runtime's CPU provider."""

    formats = ("onnx",)

    def as_found(self) -> RunSettings:
        """Return the settings of a user who sets nothing."""
        return RunSettings(runtime="onnxruntime")

    def lossless(self, cpus: int) -> Sequence[RunSettings]:
        """Return one thread at two graph levels, and more threads with and without spinning.

        All CPUs with spinning are left out: that is how the runtime comes.
        """
        settings = [
            RunSettings(runtime="onnxruntime", threads=1),
            RunSettings(runtime="onnxruntime", threads=1, graph="basic"),
        ]
        for threads in thread_counts(cpus)[1:]:
            settings += [
                RunSettings(runtime="onnxruntime", threads=threads, spinning=spinning)
                for spinning in (False, True)
                if not (spinning and threads == cpus)
            ]
        return settings

    def lossy(self, best: RunSettings, instruction_sets: Sequence[str]) -> Sequence[RunSettings]:  # noqa: ARG002
        """Return nothing: the CPU provider keeps the arithmetic of the graph."""
        return ()

    def open(
        self,
        path: Path,
        settings: RunSettings,
        shapes: Mapping[str, Sequence[int]],  # noqa: ARG002
    ) -> Program:
        """Open an ONNX file; raises whatever ONNX Runtime raises."""
        return _Session(_session(path, session_options(settings)))

    def profile(
        self, path: Path, settings: RunSettings, batches: Sequence[Mapping[str, Array]]
    ) -> Sequence[OperatorTime]:
        """Run `batches` with ONNX Runtime's own profiling, after one call that does not count."""
        options = session_options(settings)
        options.enable_profiling = True
        with tempfile.TemporaryDirectory(prefix="joulewise-") as folder:
            options.profile_file_prefix = str(Path(folder) / "trace")
            session = _session(path, options)
            for batch in (batches[0], *batches):
                session.run(None, batch)
            return operators_of_trace(Path(session.end_profiling()).read_bytes(), len(batches))


def _session(path: Path, options: Any) -> Any:  # noqa: ANN401
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class _Session:
    """A session that returns all outputs."""

    def __init__(self, session: Any) -> None:  # noqa: ANN401
        self._session = session

    def run(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        outputs: Sequence[Array] = self._session.run(None, inputs)
        return outputs

    def close(self) -> None:
        self._session = None


def session_options(settings: RunSettings) -> Any:  # noqa: ANN401
    """Return the SessionOptions that `settings` stand for."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if settings.threads is not None:
        options.intra_op_num_threads = settings.threads
    if settings.spinning is not None:
        options.add_session_config_entry(
            "session.intra_op.allow_spinning", "1" if settings.spinning else "0"
        )
    if settings.graph == "basic":
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return options
