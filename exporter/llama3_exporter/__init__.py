"""The exporter, which turns a GGUF file into an ONNX graph that computes with exactly the weights in the file."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama3_exporter.export_model import ExportSummary, export

__all__ = ["ExportSummary", "export"]


def __getattr__(name: str) -> Any:
    # Imported late: --help should not wait for onnx.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.export_model"), name)
