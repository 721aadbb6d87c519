"""Magika: which type a file has, from its first and last 1,024 bytes.

Model: magika 1.0.3, standard_v3_3, Apache-2.0. Items: files with known extensions of this
machine's Python installation. The job is agreement with the original, so no labels are given.
"""

from __future__ import annotations

import sysconfig
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.workloads.packages import member

REQUIREMENT = "magika==1.0.3"
MEMBER = "magika/models/standard_v3_3/model.onnx"

ITEMS = 1700
PER_EXTENSION = 260
PART_BYTES, BLOCK_BYTES, PADDING = 1024, 4096, 256
EXTENSIONS = frozenset({
    ".a", ".bat", ".c", ".cfg", ".cmake", ".cpp", ".css", ".csv", ".exe", ".f90", ".gz", ".h",
    ".hpp", ".html", ".ini", ".ipynb", ".js", ".json", ".md", ".png", ".pxd", ".py", ".pyc",
    ".pyi", ".pyx", ".rst", ".sh", ".so", ".sql", ".svg", ".toml", ".txt", ".xml", ".yaml",
    ".yml", ".zip",
})  # fmt: skip


def model() -> Path:
    """Return the path of the ONNX file."""
    return member(REQUIREMENT, MEMBER)


def items() -> dict[str, npt.NDArray[np.int32]]:
    """Return the data as `joulewise optimize --data tests.workloads.file_types:items` takes it."""
    return {"bytes": np.stack([features(path.read_bytes()) for path in islice(_files(), ITEMS)])}


def features(content: bytes) -> npt.NDArray[np.int32]:
    """Return the model's input for one file: int32 [2048], bytes 0..255 and 256 for padding.

    Source: magika 1.0.3, config.min.json (beg_size, end_size, block_size, padding_token): white
    space is stripped from the outer ends, the beginning is padded right, the end padded left.
    """
    begin = content[:BLOCK_BYTES].lstrip()[:PART_BYTES]
    end = content[-BLOCK_BYTES:].rstrip()[-PART_BYTES:]
    row = np.full(2 * PART_BYTES, PADDING, dtype=np.int32)
    row[: len(begin)] = np.frombuffer(begin, np.uint8)
    row[2 * PART_BYTES - len(end) :] = np.frombuffer(end, np.uint8)
    return row


def _files() -> list[Path]:
    """Return files, at most PER_EXTENSION of each kind, in an order that mixes the kinds."""
    found: dict[str, list[Path]] = {}
    for root in (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")):
        for path in sorted(Path(root).rglob("*")):
            kind = found.setdefault(path.suffix.lower(), [])
            if path.suffix.lower() in EXTENSIONS and len(kind) < PER_EXTENSION and _usable(path):
                kind.append(path)
    ranked = [(rank / len(kind), path) for kind in found.values() for rank, path in enumerate(kind)]
    return [path for _, path in sorted(ranked)]


def _usable(path: Path) -> bool:
    return path.is_file() and 64 <= path.stat().st_size < 4 << 20


if __name__ == "__main__":
    print(model())
