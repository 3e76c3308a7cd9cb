"""What a user calls a model, a file or a name of the catalogue, as a file on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from llama3_models.errors import Llama3Error
from llama3_models.hub import catalogue, download


def is_name(model: str) -> bool:
    """Whether a model of the catalogue is meant: what exists, has a slash or ends in .gguf or .onnx is a path."""
    exists = os.path.exists(model)  # noqa: PTH110 (Path.exists raises for a text too long for a path)
    is_path = exists or model.lower().endswith((".gguf", ".onnx")) or os.sep in model
    return not is_path


def locate_model(model: str, encoding: str | None = None) -> Path:
    """Give the GGUF file that `model` names, downloading it where it is a name of the catalogue.

    Args:
        model: A path, or a name of the catalogue.
        encoding: Which of a catalogue model's files; None for its default one.

    Raises:
        Llama3Error: there is no such name, its file cannot be downloaded, or a file is given an encoding.
    """
    if is_name(model):
        return download.fetch(catalogue.find(model), encoding)
    if encoding is not None:
        raise Llama3Error(f"{model}: a file has its own encoding; leave --quantization-encoding {encoding} out")
    return Path(model)
