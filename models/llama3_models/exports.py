"""What the exporter writes and the runtime looks for: the names in an export, and the choices that it was made by."""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias, get_args

from llama3_models.errors import Llama3Error

GRAPH: Final = "model.onnx"
"""The graph in an export folder."""

WEIGHTS: Final = "model.onnx.data"
"""The weights of a contrib export; where there are several files, each later one's name ends in its number."""

MANIFEST: Final = "llama3.json"
"""What an export says of itself, as a file in its folder."""

METADATA_KEY: Final = "llama3"
"""Under which the graph's own metadata have the same manifest (`manifest.py`)."""

DEFAULT_MAX_LENGTH: Final = 512
"""Positions of a KV cache, unless told otherwise: enough for a short text, whatever the model's context."""

Ops: TypeAlias = Literal["contrib", "native"]
"""ONNX Runtime's own ops over repacked weights, or ours over the GGUF's bytes."""

Activations: TypeAlias = Literal["int8", "float32"]
"""Whether linears quantize their input by blocks, as llama.cpp's do, or not at all."""

Precision: TypeAlias = Literal["fp32", "fp16"]
"""`fp16`: attention, KV cache and the linears that lose nothing by it compute in float16 (contrib, for CUDA)."""

Logits: TypeAlias = Literal["last", "all", "selected"]
"""Which positions get logits: the last real one of a row, all, or as many last ones as the input `logits_to_keep`."""


def check_choice(name: str, value: object, choices: Any) -> None:
    """Refuse a value that its type, one of the above or another Literal, does not have.

    Raises:
        Llama3Error: the value is not among the choices.
    """
    if value not in get_args(choices):
        raise Llama3Error(f"{name} must be one of {', '.join(get_args(choices))}, not {str(value)[:40]!r}")
