"""Qwen3: each head of q and k is normalized, then its two halves rotate."""

from __future__ import annotations

import onnx_ir as ir
from onnxscript import OpBuilder

from llama3_exporter.decoders.backend import Backend
from llama3_exporter.decoders.decoder import Decoder, SelfAttention


class Qwen3(Decoder):
    """See `Decoder`."""

    def attention(self, backend: Backend, block: str, *, high_precision_input: bool) -> SelfAttention:
        """See `Decoder`."""
        return NormedAttention(backend, block, high_precision_input=high_precision_input)


class NormedAttention(SelfAttention):
    """See `SelfAttention`."""

    def __init__(self, backend: Backend, block: str, *, high_precision_input: bool) -> None:
        super().__init__(backend, block, rotary_interleaved=False, high_precision_input=high_precision_input)
        self.q_norm = backend.head_norm(f"{block}attn_q_norm")
        self.k_norm = backend.head_norm(f"{block}attn_k_norm")

    def project(self, op: OpBuilder, x: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        """See `SelfAttention`."""
        q, k, v = super().project(op, x)
        return self.q_norm(op, q), self.k_norm(op, k), v
