"""PP-OCR angle classifier: is a line of text upright or upside down?

Model: rapidocr-onnxruntime 1.4.4, ch_ppocr_mobile_v2.0_cls, Apache-2.0. Items: lines of words
rendered with Pillow's own font, half of them turned by 180 degrees; the turn is the label.
"""

from __future__ import annotations

import keyword
import random
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from tests.workloads.packages import member

REQUIREMENT = "rapidocr-onnxruntime==1.4.4"
MEMBER = "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"

ITEMS, HEIGHT, WIDTH = 1700, 48, 192


def model() -> Path:
    """Return the path of the ONNX file."""
    return member(REQUIREMENT, MEMBER)


def items() -> dict[str, npt.NDArray[np.float32] | npt.NDArray[np.int64]]:
    """Return pictures [n, 3, 48, 192] in -1..1 and labels 0 (upright) or 1 (turned)."""
    generator = random.Random(0)
    words = sorted({*keyword.kwlist, *sys.stdlib_module_names})
    pictures, labels = [], []
    for number in range(ITEMS):
        picture = _line(generator, words)
        turned = number % 2
        pictures.append(np.rot90(picture, 2) if turned else picture)
        labels.append(turned)
    pixels = np.stack(pictures).transpose(0, 3, 1, 2).astype(np.float32)
    return {"x": np.ascontiguousarray(pixels / 127.5 - 1.0), "y": np.array(labels)}


def _line(generator: random.Random, words: list[str]) -> npt.NDArray[np.uint8]:
    ink, paper = generator.randrange(0, 100), generator.randrange(156, 256)
    image = Image.new("RGB", (WIDTH, HEIGHT), (paper, paper, paper))
    font = ImageFont.load_default(size=generator.randrange(18, 34))
    text = " ".join(generator.choices(words, k=generator.randrange(1, 4)))
    left, top = generator.randrange(0, 12), generator.randrange(2, 12)
    ImageDraw.Draw(image).text((left, top), text, fill=(ink, ink, ink), font=font)
    return np.asarray(image)


if __name__ == "__main__":
    print(model())
