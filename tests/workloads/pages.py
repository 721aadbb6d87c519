"""Where is text on a page? PP-OCRv4's detector on squares of PDF pages.

Pages: the user guide of Debian's package python-reportlab-doc (BSD-3-Clause), the manual of
ngspice-doc (BSD-3-Clause and CC BY-SA 4.0) and the guides of graphviz-doc (EPL-1.0): prose, code,
tables, formulas and figures, rendered by the package pypdfium2 (BSD-3-Clause, Apache-2.0). `PAGES`
names the folder that holds their folders where they are not installed. Each item is a square
with text on it, no two of them of one page. They have no labels: a model is judged by its
agreement with the original, within 5 % of its map (`--task values`).

Model: rapidocr-onnxruntime 1.4.4, ch_PP-OCRv4_det, Apache-2.0; only its free height and width are
fixed here. `python -m tests.workloads.pages` prints its path.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.workloads.packages import cache_folder, member

FOLDER = Path(os.environ.get("PAGES", "/usr/share/doc"))

DOCUMENTS = (
    "python-reportlab-doc/reportlab-userguide.pdf",
    "ngspice-doc/manual.pdf.gz",
    "graphviz/pdf/*guide.pdf.gz",
)
"""Patterns of files in FOLDER, each of which gives as many items as the others."""

PACKAGES = "python-reportlab-doc ngspice-doc graphviz-doc"

REQUIREMENT = "rapidocr-onnxruntime==1.4.4"
MEMBER = "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"
VERSION = 1

EACH = 64
"""Items of a pattern."""

SIDE = 320
"""Height and width of an item, pixels: a multiple of 32."""

SCALE = 2.0
"""Pixels per point: 144 to the inch."""

LETTERS, TRIES = 60, 8
"""Least number of letters and digits in a square; squares that are tried on a page."""

SEED = 0


@cache
def items() -> dict[str, npt.NDArray[np.float32]]:
    """Return squares of pages in -1..1, blue first, x, float32 [n, 3, SIDE, SIDE].

    Source: rapidocr-onnxruntime 1.4.4, ch_ppocr_det/utils.py (normalize, with the mean and std of
    config.yaml) and utils/load_image.py (blue, green, red).
    """
    random = np.random.default_rng(SEED)
    squares = [x for pattern in DOCUMENTS for x in islice(_squares(pattern, random), EACH)]
    pixels = np.stack(squares).transpose(0, 3, 1, 2).astype(np.float32)
    pixels /= 127.5
    pixels -= 1.0
    return {"x": np.ascontiguousarray(pixels)}


def model() -> Path:
    """Return the network for squares as an ONNX file, made once per machine."""
    target = cache_folder(f"pages-{SIDE}-{VERSION}") / "model.onnx"
    if not target.exists():
        part = target.with_suffix(".part")
        _fix(member(REQUIREMENT, MEMBER), part)
        part.rename(target)
    return target


def _fix(source: Path, target: Path) -> None:
    """Write the graph with a height and width of SIDE; the number of items stays free."""
    import onnx

    network = onnx.load(source)
    for value in (*network.graph.input, *network.graph.output):
        batch, _, *sides = value.type.tensor_type.shape.dim
        batch.dim_param = "items"
        for side in sides:
            side.dim_value = SIDE
    onnx.save(network, target)


def _squares(pattern: str, random: np.random.Generator) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield a square with text, [SIDE, SIDE, 3], of each page that has one, in random order."""
    import pypdfium2

    paths = sorted(FOLDER.glob(pattern))
    if not paths:
        raise FileNotFoundError(f"there is no {FOLDER / pattern}: apt install {PACKAGES}")
    documents = [pypdfium2.PdfDocument(_content(path)) for path in paths]
    pages = [(document, number) for document in documents for number in range(len(document))]
    for chosen in random.permutation(len(pages)):
        document, number = pages[chosen]
        square = _with_text(document[number], random)
        if square is not None:
            yield square


def _with_text(page: Any, random: np.random.Generator) -> npt.NDArray[np.uint8] | None:
    """Return the first square of a page that has text enough, None where TRIES have not."""
    picture: npt.NDArray[np.uint8] = page.render(scale=SCALE).to_numpy()
    text, (height, width, _) = page.get_textpage(), picture.shape
    for _ in range(TRIES):
        top, left = random.integers((height - SIDE, width - SIDE))
        corners = np.array((left, height - top - SIDE, left + SIDE, height - top)) / SCALE
        if sum(map(str.isalnum, text.get_text_bounded(*corners))) >= LETTERS:
            return picture[top : top + SIDE, left : left + SIDE].copy()
    return None


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    return gzip.decompress(content) if path.suffix == ".gz" else content


if __name__ == "__main__":
    print(model())
