"""Llama: neighboring elements of a head rotate."""

from __future__ import annotations

from llama3_exporter.decoders.backend import Backend
from llama3_exporter.decoders.decoder import Decoder, SelfAttention


class Llama(Decoder):
    """See `Decoder`."""

    def attention(self, backend: Backend, block: str, *, high_precision_input: bool) -> SelfAttention:
        """See `Decoder`."""
        return SelfAttention(backend, block, rotary_interleaved=True, high_precision_input=high_precision_input)
