"""What goes to an optimiser and what comes back: files, and a few words of JSON about them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Asked", "Made"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What an optimiser gets.

    Args:
        model: path of the original, an ONNX file.
        calibrate: folder of the items to calibrate with (`joulewise.workload.store`).
        validate: folder of the items on which it may look at the quality; those that joulewise
            searches on.
        output: an empty folder, for what it makes.
        batch_items: items per inference call.
        metric: how answers are judged, as a bundle names it.
        margin: largest acceptable loss of quality, as a fraction.
        train: folder of the items to learn from, None where there are none.
        epochs: how often it may go over them.
    """

    model: str
    calibrate: str
    validate: str
    output: str
    batch_items: int
    metric: str
    margin: float
    train: str | None = None
    epochs: int = 0


@dataclass(frozen=True, kw_only=True)
class Made:
    """What it gives back.

    Args:
        main: path of the file to open.
        runtime: registry name of the runtime that opens it.
        versions: package -> version, of those that made it.
    """

    main: str
    runtime: str
    versions: dict[str, str]
