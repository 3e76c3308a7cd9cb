"""What a GGUF computes, in plain numpy float32: the oracle that exports are held against.

Written to be checked by reading, like the equations of a paper, over `GGUFTensor.dequantize`. No matrix is ever whole
in float32: a slice of its rows is dequantized, multiplied and dropped, so an 8B model needs about 100 MB beside the
mapped file and its logits. The tests hold it against llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from llama3_models.config import Hyperparameters
from llama3_models.errors import Llama3Error
from llama3_models.gguf.file import GGUFFile, GGUFTensor

Floats = npt.NDArray[np.float32]

# 32 MB of float32 at a time; dequantizing needs a few times that for its own steps.
_ELEMENTS_PER_SLICE = 1 << 23
# Scores exist for so many queries at a time, which keeps long prompts linear in memory.
_QUERIES_PER_BLOCK = 128


def forward(file: GGUFFile, ids: Sequence[int], *, last_only: bool = False) -> npt.NDArray[np.float32]:
    """Run `ids` through the model of `file`, without a cache.

    Args:
        file: A Llama that `Hyperparameters.from_gguf` accepts.
        ids: The tokens, at least one; the first stands at position 0.
        last_only: Compute the head for the last token alone.

    Returns:
        Logits, float32 [len(ids), vocab_size], or [1, vocab_size] with `last_only`.

    Raises:
        Llama3Error: the file is no such Llama, or an id is outside of its vocabulary.
    """
    h = Hyperparameters.from_gguf(file)
    tokens = np.asarray(ids, dtype=np.int64)
    if tokens.size == 0 or tokens.min() < 0 or tokens.max() >= h.vocab_size:
        raise Llama3Error(f"{file.path}: expected one or more token ids from 0 to {h.vocab_size - 1}")
    weights = file.tensors
    angles = np.outer(np.arange(len(tokens)), h.inverse_frequencies)
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)  # [n, rope_dim / 2]

    x = weights["token_embd.weight"].dequantize(tokens)  # [n, hidden]
    for layer in range(h.num_layers):
        block = f"blk.{layer}."
        a = _rms_norm(x, weights[block + "attn_norm.weight"], h.rms_norm_eps)
        q = _rotate(_heads(_linear(weights, block + "attn_q", a), h.head_dim), cos, sin)  # [heads, n, head_dim]
        k = _rotate(_heads(_linear(weights, block + "attn_k", a), h.head_dim), cos, sin)  # [kv_heads, n, head_dim]
        v = _heads(_linear(weights, block + "attn_v", a), h.head_dim)
        x = x + _linear(weights, block + "attn_output", _causal_attention(q, k, v))

        m = _rms_norm(x, weights[block + "ffn_norm.weight"], h.rms_norm_eps)
        gate, up = _linear(weights, block + "ffn_gate", m), _linear(weights, block + "ffn_up", m)
        x = x + _linear(weights, block + "ffn_down", _silu(gate) * up)

    if last_only:
        x = x[-1:]
    x = _rms_norm(x, weights["output_norm.weight"], h.rms_norm_eps)
    return _linear(weights, "token_embd" if h.tied else "output", x)


def _linear(weights: Mapping[str, GGUFTensor], name: str, x: Floats) -> Floats:
    """Multiply x [n, K] with the matrix NAME.weight [N, K], transposed, and add NAME.bias [N] where there is one."""
    weight, bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")
    num_rows, row_size = weight.shape
    y = np.empty((len(x), num_rows), dtype=np.float32)
    step = max(1, _ELEMENTS_PER_SLICE // row_size)
    for start in range(0, num_rows, step):
        rows = slice(start, start + step)
        y[:, rows] = x @ weight.dequantize(rows).T
    return y if bias is None else y + bias.dequantize()


def _rms_norm(x: Floats, weight: GGUFTensor, eps: float) -> Floats:
    mean_square = np.mean(np.square(x), axis=-1, keepdims=True, dtype=np.float64)
    return (x / np.sqrt(mean_square + eps)).astype(np.float32) * weight.dequantize()


def _heads(x: Floats, head_dim: int) -> Floats:
    """[n, heads * head_dim] -> [heads, n, head_dim]."""
    return x.reshape(len(x), -1, head_dim).swapaxes(0, 1)


def _rotate(x: Floats, cos: Floats, sin: Floats) -> Floats:
    """RoPE over neighbouring pairs (0, 1), (2, 3), ...: the order in which a Llama GGUF stores the rows of Q and K.

    x is [heads, n, head_dim]; elements past twice the width of cos and sin [n, rope_dim / 2] stay as they are.
    """
    rope_dim = 2 * cos.shape[-1]
    even, odd = x[..., 0:rope_dim:2], x[..., 1:rope_dim:2]
    rotated = x.copy()
    rotated[..., 0:rope_dim:2] = even * cos - odd * sin
    rotated[..., 1:rope_dim:2] = even * sin + odd * cos
    return rotated


def _causal_attention(q: Floats, k: Floats, v: Floats) -> Floats:
    """Attend from q [heads, n, head_dim] over k and v [kv_heads, n, head_dim]; [n, heads * head_dim] comes out.

    Each key-value head serves heads / kv_heads consecutive query heads.
    """
    num_heads, n, head_dim = q.shape
    q = (q / np.float32(np.sqrt(head_dim))).reshape(len(k), -1, n, head_dim)  # [kv_heads, group, n, head_dim]
    output = np.empty_like(q)
    for start in range(0, n, _QUERIES_PER_BLOCK):
        stop = min(start + _QUERIES_PER_BLOCK, n)
        scores = q[:, :, start:stop] @ k[:, None, :stop].swapaxes(-1, -2)  # [kv_heads, group, block, stop]
        future = np.arange(stop) > np.arange(start, stop)[:, None]
        scores[..., future] = -np.inf
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        output[:, :, start:stop] = scores @ v[:, None, :stop]
    return output.reshape(num_heads, n, head_dim).swapaxes(0, 1).reshape(n, num_heads * head_dim)


def _silu(x: Floats) -> Floats:
    with np.errstate(over="ignore"):  # exp(-x) is inf far below zero, and x / inf the right limit
        return np.asarray(x / (1 + np.exp(-x)))
