"""Runs an exported graph on ONNX Runtime: from a prompt to text."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama3_runtime.generator import Generator
    from llama3_runtime.sampling.params import SamplingParams
    from llama3_runtime.text.tokenizer import Tokenizer

__all__ = ["Generator", "SamplingParams", "Tokenizer"]

_MODULES = {"Generator": "generator", "SamplingParams": "sampling.params", "Tokenizer": "text.tokenizer"}


def __getattr__(name: str) -> Any:
    # Late, so that a command's --help does not wait for onnxruntime.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
