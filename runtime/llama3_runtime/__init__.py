"""Text generation with exported graphs on ONNX Runtime."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama3_models.errors import Llama3Error

    from llama3_runtime.generator import Generation, GenerationResult, Generator
    from llama3_runtime.loading import load
    from llama3_runtime.sampling.params import SamplingParams
    from llama3_runtime.sequence import FinishReason, Piece
    from llama3_runtime.text.tokenizer import Tokenizer

__all__ = [
    "FinishReason",
    "Generation",
    "GenerationResult",
    "Generator",
    "Llama3Error",
    "Piece",
    "SamplingParams",
    "Tokenizer",
    "load",
]

_MODULES = {
    "FinishReason": "llama3_runtime.sequence",
    "Generation": "llama3_runtime.generator",
    "GenerationResult": "llama3_runtime.generator",
    "Generator": "llama3_runtime.generator",
    "Llama3Error": "llama3_models.errors",
    "Piece": "llama3_runtime.sequence",
    "SamplingParams": "llama3_runtime.sampling.params",
    "Tokenizer": "llama3_runtime.text.tokenizer",
    "load": "llama3_runtime.loading",
}


def __getattr__(name: str) -> Any:
    # Imported only when used: --help must not wait for onnxruntime.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
