"""The building blocks of layers.

No matrix is ever whole in float32: a slice of its rows is dequantized, multiplied and dropped, so an 8B model needs
only about 100 MB besides the mapped file and its logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from llama3_models.config import Hyperparameters
from llama3_models.gguf.file import GGUFTensor
from llama3_models.lora import Adapter

Floats = npt.NDArray[np.float32]

# 32 MB of float32 at a time; dequantizing needs a few times that for its own steps.
_ELEMENTS_PER_SLICE = 1 << 23
# Scores are computed for this many queries at a time, so memory grows only linearly with the prompt.
_QUERIES_PER_BLOCK = 128


class Angles(NamedTuple):
    """Cosine and sine of each pair's angle, both [n, rotary_dim / 2], times the attention factor."""

    cos: Floats
    sin: Floats

    @classmethod
    def of_positions(cls, n: int, h: Hyperparameters) -> Angles:
        """Compute the angles of positions 0 to n - 1."""
        angles = np.outer(np.arange(n), h.inverse_frequencies)
        cos, sin = (h.attention_factor * of_angle(angles) for of_angle in (np.cos, np.sin))
        return cls(cos.astype(np.float32), sin.astype(np.float32))


class Layer(NamedTuple):
    """The weights of one layer, whose names begin with `prefix`, and the adapters of the model."""

    weights: Mapping[str, GGUFTensor]
    prefix: str
    h: Hyperparameters
    adapters: Sequence[Adapter] = ()

    def linear(self, name: str, x: Floats) -> Floats:
        """Multiply by a weight, [n, K] -> [n, N]; see the function `linear`."""
        return linear(self.weights, self.prefix + name, x, self.adapters)

    def norm(self, name: str, x: Floats) -> Floats:
        """Apply RMS norm over the last axis."""
        return rms_norm(x, self.weights[f"{self.prefix}{name}.weight"], self.h.rms_norm_eps)

    def heads(self, name: str, x: Floats) -> Floats:
        """Apply a linear and split its output into heads, [n, hidden] -> [heads, n, head_dim]."""
        return self.linear(name, x).reshape(len(x), -1, self.h.head_dim).swapaxes(0, 1)

    def swiglu(self, x: Floats) -> Floats:
        """Apply the MLP, [n, hidden] -> [n, hidden]."""
        return self.linear("ffn_down", silu(self.linear("ffn_gate", x)) * self.linear("ffn_up", x))


def linear(weights: Mapping[str, GGUFTensor], name: str, x: Floats, adapters: Sequence[Adapter] = ()) -> Floats:
    """Multiply x [n, K] by the matrix NAME.weight [N, K], transposed.

    If there is a NAME.scale [1], it multiplies the product. Then the products of adapters and NAME.bias [N] are added,
    if there are any.
    """
    weight, scale, bias = weights[f"{name}.weight"], weights.get(f"{name}.scale"), weights.get(f"{name}.bias")
    num_rows, row_size = weight.shape
    y = np.empty((len(x), num_rows), dtype=np.float32)
    step = max(1, _ELEMENTS_PER_SLICE // row_size)
    for start in range(0, num_rows, step):
        rows = slice(start, start + step)
        y[:, rows] = x @ weight.dequantize(rows).T
    if scale is not None:
        y *= scale.dequantize()
    for adapter in adapters:
        if name in adapter.weights:
            a, b, factor = adapter.weights[name].a, adapter.weights[name].b, adapter.weights[name].factor
            y += np.float32(factor) * (x @ a.dequantize().T @ b.dequantize().T)
    return y if bias is None else y + bias.dequantize()


def embedding(weights: Mapping[str, GGUFTensor], ids: npt.NDArray[np.int64], adapters: Sequence[Adapter]) -> Floats:
    """Return rows of the embedding, [n, hidden], plus what adapters add: B times the row of A."""
    x = weights["token_embd.weight"].dequantize(ids)
    for adapter in adapters:
        if "token_embd" in adapter.weights:
            added = adapter.weights["token_embd"]
            x = x + np.float32(added.factor) * (added.a.dequantize(ids) @ added.b.dequantize().T)
    return x


def rms_norm(x: Floats, weight: GGUFTensor, eps: float) -> Floats:
    """Divide x by the root of the mean square of its last axis, and multiply by the weight."""
    mean_square = np.mean(np.square(x), axis=-1, keepdims=True, dtype=np.float64)
    return np.asarray((x / np.sqrt(mean_square + eps)).astype(np.float32) * weight.dequantize())


def rotate_neighbours(x: Floats, angles: Angles) -> Floats:
    """Apply RoPE to the pairs (0, 1), (2, 3), ...: the order in which a Llama GGUF stores the rows of Q and K.

    x is [heads, n, head_dim]; elements past twice the width of the angles stay as they are.
    """
    rotary_dim = 2 * angles.cos.shape[-1]
    even, odd = x[..., 0:rotary_dim:2], x[..., 1:rotary_dim:2]
    rotated = x.copy()
    rotated[..., 0:rotary_dim:2] = even * angles.cos - odd * angles.sin
    rotated[..., 1:rotary_dim:2] = even * angles.sin + odd * angles.cos
    return rotated


def rotate_halves(x: Floats, angles: Angles) -> Floats:
    """Apply RoPE to the pairs (0, d / 2), (1, d / 2 + 1), ... of the d elements that rotate; otherwise as above."""
    half = angles.cos.shape[-1]
    first, second = x[..., :half], x[..., half : 2 * half]
    rotated = x.copy()
    rotated[..., :half] = first * angles.cos - second * angles.sin
    rotated[..., half : 2 * half] = first * angles.sin + second * angles.cos
    return rotated


def causal_attention(q: Floats, k: Floats, v: Floats) -> Floats:
    """Attend from q [heads, n, head_dim] to k and v [kv_heads, n, head_dim]; the result is [n, heads * head_dim].

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


def silu(x: Floats) -> Floats:
    """Multiply x by its sigmoid."""
    with np.errstate(over="ignore"):  # far below zero exp(-x) is inf, and x / inf is the right limit
        return np.asarray(x / (1 + np.exp(-x)))
