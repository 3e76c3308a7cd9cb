"""Qwen2: the two halves of a head rotate. The linears add the biases of q, k and v."""

from __future__ import annotations

from llama3_exporter.decoders.backend import Backend
from llama3_exporter.decoders.decoder import Decoder, SelfAttention


class Qwen2(Decoder):
    """See `Decoder`."""

    def attention(self, backend: Backend, block: str, *, high_precision_input: bool) -> SelfAttention:
        """See `Decoder`."""
        return SelfAttention(backend, block, rotary_interleaved=False, high_precision_input=high_precision_input)
