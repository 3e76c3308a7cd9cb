"""What a user calls a model, a file or a name of the catalogue, as a file on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from llama3_models.errors import Llama3Error
from llama3_models.hub import catalogue, download


def locate_model(model: str, encoding: str | None = None) -> Path:
    """Give the GGUF file that `model` names, downloading it where it is a name of the catalogue.

    Args:
        model: A path, or a name of the catalogue. Whatever exists, ends in .gguf or has a slash is a path.
        encoding: Which of a catalogue model's files; None for its default one.

    Raises:
        Llama3Error: there is no such file or name, or it cannot be had.
    """
    path = Path(model)
    if path.exists() or path.suffix == ".gguf" or os.sep in model:
        if encoding is not None:
            raise Llama3Error(f"{model}: a file has its own encoding; leave --quantization-encoding {encoding} out")
        return path
    return download.fetch(catalogue.find(model), encoding)
