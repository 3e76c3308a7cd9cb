"""The structure that all decoders share: embedding, blocks of attention and SwiGLU, final norm, head.

Quantization does not appear here: a `Backend` makes the modules that multiply by the GGUF's weights, and the one that
attends over the KV cache. `graph.py` names the graph's inputs and outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeAlias

import onnx_ir as ir
from llama3_models.config import Hyperparameters
from onnxscript import OpBuilder, nn

from llama3_exporter.decoders.backend import Backend, Chunk, LayerCache, Linear, Module, Positions

Select: TypeAlias = Callable[[OpBuilder, ir.Value], ir.Value]
"""The choice of the rows that get logits: [batch, seq, n] -> [batch, kept, n]."""
DecoderCall: TypeAlias = Module[[Chunk, Sequence[LayerCache], Select], tuple[ir.Value, list[LayerCache]]]
"""See `Decoder`."""
BlockCall: TypeAlias = Module[
    [ir.Value, "ir.Value | None", LayerCache, Positions, "Select | None"], tuple[ir.Value, ir.Value, LayerCache]
]
"""See `Block`."""
SelfAttentionCall: TypeAlias = Module[[ir.Value, LayerCache, Positions, "Select | None"], tuple[ir.Value, LayerCache]]
"""See `SelfAttention`."""


class Decoder(nn.Module, ABC):
    """Tokens of a chunk and the caches of all layers -> logits of the selected rows, and the caches with the chunk."""

    def __init__(self, config: Hyperparameters, backend: Backend) -> None:
        super().__init__()
        self.embed_tokens = backend.embedding("token_embd")
        self.positions = backend.positions()
        last = config.num_hidden_layers - 1
        blocks = []
        for i in range(config.num_hidden_layers):
            attention = self.attention(backend, f"blk.{i}.", high_precision_input=i == 0)
            blocks.append(Block(backend, f"blk.{i}.", attention, high_precision_mlp=i == last))
        self.layers = nn.ModuleList([*blocks])
        self.blocks: Sequence[BlockCall] = blocks  # the same, because the items of a ModuleList have no type
        self.norm = backend.norm("output_norm")
        self.lm_head = backend.linear("token_embd" if config.tie_word_embeddings else "output", high_precision=True)

    @abstractmethod
    def attention(self, backend: Backend, block: str, *, high_precision_input: bool) -> SelfAttention:
        """Make the attention of one layer, whose weights have names that begin with `block`."""

    def forward(
        self, op: OpBuilder, chunk: Chunk, caches: Sequence[LayerCache], select: Select
    ) -> tuple[ir.Value, list[LayerCache]]:
        """Compute the logits. After the last layer's attention nothing mixes rows, so only the selected ones remain."""
        positions = self.positions(op, chunk)
        x, branch = self.embed_tokens(op, chunk.ids), None  # [batch, seq, hidden]
        presents = []
        for i, (layer, past) in enumerate(zip(self.blocks, caches, strict=True)):
            last = i == len(caches) - 1
            x, branch, present = layer(op, x, branch, past, positions, select if last else None)
            presents.append(present)
        x, _ = self.norm(op, x, branch)  # [batch, kept, hidden]
        return self.lm_head(op, x), presents


class Block(nn.Module):
    """Attention and SwiGLU, each on a normalized input and added to the residual stream.

    The next norm does the addition (of `branch` to the stream `x`), because one op does both.

    The linears nearest to the tokens and to the logits use high precision: the rest of the model does not average out
    their rounding. On SmolLM2 that halves the divergence from float32, at a small cost: the first q, k and v are small,
    and the last MLP and the head only see rows that get logits (docs/quantization.md).
    """

    def __init__(self, backend: Backend, block: str, attention: SelfAttention, *, high_precision_mlp: bool) -> None:
        super().__init__()
        self.input_layernorm = backend.norm(f"{block}attn_norm")
        self.self_attn: SelfAttentionCall = attention
        self.post_attention_layernorm = backend.norm(f"{block}ffn_norm")
        self.mlp: Linear = MLP(backend, block, high_precision=high_precision_mlp)

    def forward(
        self,
        op: OpBuilder,
        x: ir.Value,
        branch: ir.Value | None,
        past: LayerCache,
        positions: Positions,
        select: Select | None,
    ) -> tuple[ir.Value, ir.Value, LayerCache]:
        """Compute [batch, seq, hidden] -> the same, or [batch, kept, hidden] with `select`."""
        normed, x = self.input_layernorm(op, x, branch)
        attended, present = self.self_attn(op, normed, past, positions, select)
        if select is not None:
            x = select(op, x)
        normed, x = self.post_attention_layernorm(op, x, attended)
        return x, self.mlp(op, normed), present


class SelfAttention(nn.Module):
    """Grouped-query attention over the cache."""

    def __init__(self, backend: Backend, block: str, *, rotary_interleaved: bool, high_precision_input: bool) -> None:
        super().__init__()
        names = {"q_proj": f"{block}attn_q", "k_proj": f"{block}attn_k", "v_proj": f"{block}attn_v"}
        self.qkv_proj = backend.linears(names, high_precision=high_precision_input)
        self.attend = backend.attention(rotary_interleaved=rotary_interleaved)
        self.o_proj = backend.linear(f"{block}attn_output")

    def forward(
        self, op: OpBuilder, x: ir.Value, past: LayerCache, positions: Positions, select: Select | None
    ) -> tuple[ir.Value, LayerCache]:
        """Compute [batch, seq, hidden] -> the same, or [batch, kept, hidden] with `select`."""
        q, k, v = self.project(op, x)
        y, present = self.attend(op, q, k, v, past, positions)
        if select is not None:
            y = select(op, y)
        return self.o_proj(op, y), present

    def project(self, op: OpBuilder, x: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Compute q [batch, seq, heads * head_dim], k and v [batch, seq, kv_heads * head_dim], not yet rotated."""
        q, k, v = self.qkv_proj(op, x)
        return q, k, v


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, backend: Backend, block: str, *, high_precision: bool) -> None:
        super().__init__()
        names = {"gate_proj": f"{block}ffn_gate", "up_proj": f"{block}ffn_up"}
        self.gate_up_proj = backend.linears(names, high_precision=high_precision)
        self.swiglu = backend.swiglu()
        self.down_proj = backend.linear(f"{block}ffn_down", high_precision=high_precision)

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        """Compute [batch, seq, hidden] -> [batch, seq, hidden]."""
        gate, up = self.gate_up_proj(op, x)
        return self.down_proj(op, self.swiglu(op, gate, up))
