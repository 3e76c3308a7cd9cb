"""Turns a GGUF file into an ONNX graph that computes exactly the file's weights."""

from llama3_exporter.export_model import ExportSummary, export

__all__ = ["ExportSummary", "export"]
