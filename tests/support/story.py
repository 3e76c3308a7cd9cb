"""A small model that tells one story, whatever the prompt: each token of it is by far the most probable.

The residual stream only carries the last token's embedding, and the head maps each token to its successor. So the
correct output is known without running anything.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from llama3_runtime import Tokenizer

from tests.support.llama_gguf import write_llama_gguf

TOKENS = tuple(bytes([byte]) for byte in "bcd\N{GRINNING FACE}\nUser:x".encode())
STORY = b"".join(TOKENS).decode()
_SIZES = {"hidden_size": 384, "vocab_size": 320, "num_heads": 8, "num_kv_heads": 2}


def write_story_gguf(path: Path, *, endless: bool = False, context_length: int = 512, text: str = STORY) -> Path:
    """Write a model that tells `text`, whose bytes are all different, and then ends, or starts again if `endless`.

    If a prompt's last token is in the story, the story continues from there.
    """
    write_llama_gguf(path, context_length=context_length, **_SIZES)  # for the ids of its tokens
    tokenizer = Tokenizer.from_path(path)
    ids = {tokenizer.token_bytes(token): token for token in reversed(range(tokenizer.vocab_size))}
    story = [ids[bytes([byte])] for byte in text.encode()]
    followers = np.full(_SIZES["vocab_size"], story[0])
    followers[story] = [*story[1:], story[0] if endless else min(tokenizer.eog_ids)]
    # There are more dimensions than tokens, so a linear map can set the successor's logit to 40 and all others to 0.
    embeddings = np.random.default_rng(0).standard_normal((_SIZES["vocab_size"], _SIZES["hidden_size"]))
    embeddings /= np.sqrt(np.mean(embeddings**2, axis=1, keepdims=True))  # as after the norm
    head = 40 * np.eye(_SIZES["vocab_size"])[followers].T @ np.linalg.pinv(embeddings).T

    def weights(name: str, shape: tuple[int, ...]) -> np.ndarray | None:
        if name.endswith(("attn_output.weight", "ffn_down.weight")):
            return np.zeros(shape, np.float32)
        if name.endswith("norm.weight"):
            return np.ones(shape, np.float32)
        if name == "token_embd.weight":
            return embeddings.astype(np.float32)
        if name == "output.weight":
            return head.astype(np.float32)
        return None

    return write_llama_gguf(path, context_length=context_length, weights=weights, **_SIZES)
