"""The model, declared once: embedding, blocks of grouped attention and SwiGLU, final norm, head.

Quantization does not appear here. A `Backend` makes the modules that multiply by a weight of the GGUF, and the one
that attends over the KV cache. What the graph's inputs and outputs are called is `graph.py`'s concern.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import onnx_ir as ir
from llama3_models.config import Hyperparameters
from onnxscript import OpBuilder, nn


class Chunk(NamedTuple):
    """The tokens of one call: each row's real tokens come first, its padding after them."""

    ids: ir.Value  # int64 [batch, seq]
    length: ir.Value  # int64 [1]: seq
    tokens: ir.Value  # int64 [batch]: real tokens up to and with this chunk
    real: ir.Value  # int64 [batch]: those of this chunk, 0 to seq
    past_key: ir.Value  # [batch, kv_heads, past, head_dim]: of the first layer
    total_length: ir.Value  # int64 [1]: the mask's width


class LayerCache(NamedTuple):
    """Keys and values of one layer, [batch, kv_heads, positions, head_dim]."""

    key: ir.Value
    value: ir.Value


Positions = tuple[ir.Value, ...]
"""Inputs that every layer's attention op shares: the lengths of the rows, and what rotates queries and keys."""
Select = Callable[[OpBuilder, ir.Value], ir.Value]
"""Takes the rows of [batch, seq, n] that get logits: [batch, kept, n]."""


class Backend(Protocol):
    """How the GGUF's weights and the attention become ops. Names are the GGUF's, without `.weight`.

    Attributes:
        kv_type: Type of the KV cache, FLOAT or FLOAT16.
        domains: Domains of ops besides ONNX's and com.microsoft, with their versions.
    """

    kv_type: ir.DataType
    domains: Mapping[str, int]

    def linear(self, name: str, *, high_precision: bool = False) -> nn.Module:
        """A module x [.., K] -> [.., N], float32: x @ weight^T, plus the bias where the file has one.

        Where linears round x to int8, those of `high_precision` keep 15 bits of it.
        """

    def linears(self, names: Mapping[str, str], *, high_precision: bool = False) -> nn.Module:
        """A module x -> one output for each of `names`, which share their input; the keys name their weights."""

    def embedding(self, name: str) -> nn.Module:
        """A module ids [batch, seq] -> [batch, seq, hidden], float32. On the CPU an id without a row is an error."""

    def norm(self, name: str) -> nn.Module:
        """A module (x, branch) -> (RMS norm of x + branch, x + branch), as x; a branch of None adds nothing."""

    def swiglu(self) -> nn.Module:
        """A module (gate, up) -> silu(gate) * up."""

    def positions(self) -> nn.Module:
        """A module Chunk -> Positions, which every layer's attention shares."""

    def attention(self) -> nn.Module:
        """A module (q, k, v, LayerCache, Positions) -> (y, LayerCache): rotate, append to the cache, attend."""


class Llama(nn.Module):
    """Tokens of a chunk and every layer's cache -> logits of the selected rows, and the caches with the chunk."""

    def __init__(self, config: Hyperparameters, backend: Backend) -> None:
        super().__init__()
        self.embed_tokens = backend.embedding("token_embd")
        self.positions = backend.positions()
        self.layers = nn.ModuleList([Block(config, backend, i) for i in range(config.num_layers)])
        self.norm = backend.norm("output_norm")
        self.lm_head = backend.linear("token_embd" if config.tied else "output", high_precision=True)

    def forward(
        self, op: OpBuilder, chunk: Chunk, caches: Sequence[LayerCache], select: Select
    ) -> tuple[ir.Value, list[LayerCache]]:
        """Only the selected rows go on after the last layer's attention: nothing later looks at its neighbours."""
        positions = self.positions(op, chunk)
        x, branch = self.embed_tokens(op, chunk.ids), None  # [batch, seq, hidden]
        presents = []
        for i, (layer, past) in enumerate(zip(self.layers, caches, strict=True)):
            last = i == len(caches) - 1
            x, branch, present = layer(op, x, branch, past, positions, select if last else None)
            presents.append(present)
        x, _ = self.norm(op, x, branch)  # [batch, kept, hidden]
        return self.lm_head(op, x), presents


class Block(nn.Module):
    """Attention and SwiGLU, each on a normed input and added to the residual stream.

    The addition is left to the norm that follows (`x` is the stream, `branch` what has yet to join it), because one op
    does both.

    The linears nearest to the tokens and to the logits are the ones of high precision: what they round is not averaged
    by the rest of the model. On SmolLM2 that halves the distance from float32, and hardly costs time: the first q, k
    and v are small, and the last MLP and the head see only rows that get logits (docs/quantization.md).
    """

    def __init__(self, config: Hyperparameters, backend: Backend, index: int) -> None:
        super().__init__()
        block = f"blk.{index}."
        self.input_layernorm = backend.norm(f"{block}attn_norm")
        self.self_attn = Attention(backend, block, high_precision_input=index == 0)
        self.post_attention_layernorm = backend.norm(f"{block}ffn_norm")
        self.mlp = MLP(backend, block, high_precision=index == config.num_layers - 1)

    def forward(
        self,
        op: OpBuilder,
        x: ir.Value,
        branch: ir.Value | None,
        past: LayerCache,
        positions: Positions,
        select: Select | None,
    ) -> tuple[ir.Value, ir.Value, LayerCache]:
        """[batch, seq, hidden] -> the same, or [batch, kept, hidden] with `select`."""
        normed, x = self.input_layernorm(op, x, branch)
        attended, present = self.self_attn(op, normed, past, positions, select)
        if select is not None:
            x = select(op, x)
        normed, x = self.post_attention_layernorm(op, x, attended)
        return x, self.mlp(op, normed), present


class Attention(nn.Module):
    """Grouped-query attention over the cache."""

    def __init__(self, backend: Backend, block: str, *, high_precision_input: bool) -> None:
        super().__init__()
        names = {"q_proj": f"{block}attn_q", "k_proj": f"{block}attn_k", "v_proj": f"{block}attn_v"}
        self.qkv_proj = backend.linears(names, high_precision=high_precision_input)
        self.attend = backend.attention()
        self.o_proj = backend.linear(f"{block}attn_output")

    def forward(
        self, op: OpBuilder, x: ir.Value, past: LayerCache, positions: Positions, select: Select | None
    ) -> tuple[ir.Value, LayerCache]:
        """[batch, seq, hidden] -> the same, or [batch, kept, hidden] with `select`."""
        q, k, v = self.qkv_proj(op, x)  # [batch, seq, heads * head_dim]
        y, present = self.attend(op, q, k, v, past, positions)
        if select is not None:
            y = select(op, y)
        return self.o_proj(op, y), present


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, backend: Backend, block: str, *, high_precision: bool) -> None:
        super().__init__()
        names = {"gate_proj": f"{block}ffn_gate", "up_proj": f"{block}ffn_up"}
        self.gate_up_proj = backend.linears(names, high_precision=high_precision)
        self.swiglu = backend.swiglu()
        self.down_proj = backend.linear(f"{block}ffn_down", high_precision=high_precision)

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        """[batch, seq, hidden] -> [batch, seq, hidden]."""
        gate, up = self.gate_up_proj(op, x)
        return self.down_proj(op, self.swiglu(op, gate, up))
