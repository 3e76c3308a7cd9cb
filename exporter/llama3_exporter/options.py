"""What can be chosen about an export; every choice is written into the graph's metadata."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Ops: TypeAlias = Literal["contrib", "native"]
"""ONNX Runtime's own ops over repacked weights, or ours over the GGUF's bytes."""

Activations: TypeAlias = Literal["int8", "float32"]
"""Whether linears quantize their input by blocks, as llama.cpp's do, or not at all."""

Precision: TypeAlias = Literal["fp32", "fp16"]
"""`fp16`: attention, KV cache and the linears that lose nothing by it compute in float16 (contrib, for CUDA)."""

Logits: TypeAlias = Literal["last", "all", "selected"]
"""Which positions get logits: the last real one of a row, all, or as many last ones as the input `logits_to_keep`."""


@dataclass(frozen=True)
class ExportOptions:
    """The choices of one export; `max_length` is how many positions the graph can reach."""

    ops: Ops
    activations: Activations
    precision: Precision
    logits: Logits
    max_length: int
