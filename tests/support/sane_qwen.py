"""A small Qwen2 and a small Qwen3 that write letters, and the texts that llama.cpp generates with them.

Their weights are like those of `sane_llama`, in float32, so exports and llama.cpp differ by only 1e-5 per logit. They
have four query heads per key-value head, and Qwen3's heads are longer than `hidden_size / num_heads`, as in Qwen3-0.6B,
4B and 32B.

Import this module after `pytest.importorskip("llama_cpp")`: it needs the package.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import numpy as np
from llama3_exporter import export
from llama3_models.exports import Ops

from tests.support import llama_cpp_oracle
from tests.support.llama_gguf import Architecture, qwen2_vocabulary, write_llama_gguf
from tests.support.sane_llama import sane_weights

# They differ in length. The text after one of them ends within NEW_TOKENS with Qwen2, after another one with Qwen3.
PROMPTS = ("a quiet road", "birds sing at dawn", "trees grow slowly in the cold")
NEW_TOKENS = 32
_END = "<|im_end|>"
_LEAST_MARGIN = 0.02  # between the two highest logits

_VOCAB_SIZE = 1024
_LOGIT_DEVIATION = 4.0
_END_GAIN = 1.5  # makes some texts end after some tens of tokens


class SaneQwen:
    """A model in `folder`, its exports, and the greedy text of each prompt.

    Attributes:
        gguf: The model's file.
        prompts: The ids of each of `PROMPTS`.
        new: The `NEW_TOKENS` ids that follow each prompt, including an end token and the ids after it.
        texts: The text that follows each prompt, up to its end.
    """

    def __init__(self, folder: Path, architecture: Architecture) -> None:
        self.gguf = _write(folder / f"{architecture}.gguf", architecture)
        self.prompts = dict(zip(PROMPTS, llama_cpp_oracle.tokenize(self.gguf, PROMPTS), strict=True))
        self.new = {prompt: self._greedy(ids) for prompt, ids in self.prompts.items()}
        self.texts = {prompt: _text(self.until_end(prompt)) for prompt in PROMPTS}
        self.exported = cache(self._export)

    def until_end(self, prompt: str) -> list[int]:
        """Return the ids that follow a prompt, up to but without the end token, if there is one."""
        end = qwen2_vocabulary()[0].index(_END)
        new = self.new[prompt]
        return new[: new.index(end)] if end in new else new

    def _greedy(self, ids: list[int]) -> list[int]:
        new = llama_cpp_oracle.greedy(self.gguf, ids, NEW_TOKENS)
        logits = llama_cpp_oracle.logits(self.gguf, [*ids, *new])[len(ids) - 1 : -1]
        second, first = np.sort(logits, axis=-1)[:, -2:].T
        assert (first - second).min() > _LEAST_MARGIN, "choose another prompt: two tokens are about equally probable"
        return new

    def _export(self, ops: Ops) -> Path:
        """Make an export with float32 activations, in several files."""
        folder = self.gguf.with_name(f"{self.gguf.stem}-{ops}")
        shard_size = 16_000_000 if ops == "contrib" else None
        return export(self.gguf, folder, ops=ops, activations="float32", shard_size=shard_size).output


def _write(path: Path, architecture: Architecture) -> Path:
    gains = np.zeros((_VOCAB_SIZE, 1), np.float32)
    for token_id, token in enumerate(qwen2_vocabulary()[0]):
        if token == _END:
            gains[token_id] = _END_GAIN
        elif re.fullmatch("Ġ?[a-z]+", token):
            gains[token_id] = 1  # all other tokens have logits of zero, far below the highest
    rng = np.random.default_rng(31)

    def weights(name: str, shape: tuple[int, ...]) -> np.ndarray | None:
        values = sane_weights(name, shape, rng, tied=False, logit_deviation=_LOGIT_DEVIATION)
        return values * gains if name == "output.weight" and values is not None else values

    return write_llama_gguf(
        path,
        architecture=architecture,
        hidden_size=512,
        num_layers=3,
        num_heads=8,
        num_kv_heads=2,
        head_dim=96 if architecture == "qwen3" else None,
        intermediate_size=1024,
        vocab_size=_VOCAB_SIZE,
        context_length=4096,
        rope_theta=1_000_000.0,
        tokenizer="qwen2",
        weights=weights,
    )


def _text(ids: list[int]) -> str:
    """Decode tokens of letters and spaces."""
    return "".join(qwen2_vocabulary()[0][token_id] for token_id in ids).replace("Ġ", " ")
