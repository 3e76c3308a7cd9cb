"""The whole model: embedding, the layers of its architecture, norm, head.

It is meant to be checked by reading, like the equations of a paper. So each architecture's layer is written out in
full, whatever it shares with others. The tests compare it with llama.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np

from llama3_models.config import Hyperparameters
from llama3_models.errors import Llama3Error
from llama3_models.gguf.file import GGUFFile
from llama3_models.lora import Adapter
from llama3_models.reference import llama, qwen2, qwen3
from llama3_models.reference.layers import Angles, Floats, Layer, embedding, linear, rms_norm

LayerFunction: TypeAlias = Callable[[Layer, Floats, Angles], Floats]

LAYERS: Final[Mapping[str, LayerFunction]] = {"llama": llama.layer, "qwen2": qwen2.layer, "qwen3": qwen3.layer}
"""Each architecture's layer by its name: (weights, input [n, hidden], angles of the positions) -> output."""


def forward(file: GGUFFile, ids: Sequence[int], *, adapters: Sequence[Adapter] = (), last_only: bool = False) -> Floats:
    """Run `ids` through the model of `file`, without a cache.

    Args:
        file: A model that `Hyperparameters.from_gguf` accepts.
        ids: The tokens, at least one; the first is at position 0.
        adapters: LoRA adapters of the file.
        last_only: Compute the head only for the last token.

    Returns:
        Logits, float32 [len(ids), vocab_size], or [1, vocab_size] with `last_only`.

    Raises:
        Llama3Error: the file is not such a model, or an id is outside its vocabulary.
    """
    h = Hyperparameters.from_gguf(file)
    tokens = np.asarray(ids, dtype=np.int64)
    if tokens.size == 0 or tokens.min() < 0 or tokens.max() >= h.vocab_size:
        raise Llama3Error(f"{file.path}: expected one or more token ids from 0 to {h.vocab_size - 1}")
    weights = h.weights(file)
    angles = Angles.of_positions(len(tokens), h)

    x = embedding(weights, tokens, adapters)  # [n, hidden]
    for index in range(h.num_hidden_layers):
        x = LAYERS[h.architecture.name](Layer(weights, f"blk.{index}.", h, adapters), x, angles)

    if last_only:
        x = x[-1:]
    x = rms_norm(x, weights["output_norm.weight"], h.rms_norm_eps)
    return linear(weights, "token_embd" if h.tie_word_embeddings else "output", x, adapters)
