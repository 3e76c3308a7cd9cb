"""What a user calls a model as a path on this machine: a path, a name of the catalogue, or a repository of the Hub."""

from __future__ import annotations

import os
from pathlib import Path

from llama3_models.errors import Llama3Error
from llama3_models.gguf.file_kinds import nothing_there
from llama3_models.hub import catalogue, download, repository
from llama3_models.regular_files import exists, is_folder
from llama3_models.terminal import notice

_ENDINGS = (".gguf", ".onnx")


def locate_model(model: str, encoding: str | None = None) -> Path:
    """Give the file or folder that `model` names, downloading it where it is a name or a repository.

    Args:
        model: A path, a name of the catalogue, or a repository.
        encoding: Which of a catalogue model's files; None for its default one.

    Raises:
        Llama3Error: there is no such model, its file cannot be downloaded, or it is no name and is given an encoding.
    """
    meant = read_name(model)
    if isinstance(meant, Path) and encoding is not None:
        raise Llama3Error(f"{model}: a file has its own encoding; leave --quantization-encoding {encoding} out")
    return fetch(meant, encoding)


def names_a_model(text: str) -> bool:
    """Whether a text that is not a path can only be meant as a model."""
    return repository.parse(text) is not None or any(text.lower() == model.name for model in catalogue.all_models())


def read_name(model: str) -> Path | repository.Repository | catalogue.Model:
    """Say what `model` means, without a network.

    What exists is a path, and so is what ends in .gguf or .onnx or lies in a folder that exists. Of the rest,
    ORG/REPO[:TAG] is a repository of the Hugging Face Hub, and a text without a slash a name of the catalogue.

    Raises:
        Llama3Error: there is no such path or no such name.
    """
    path = Path(model)
    on_hub = repository.parse(model)
    if exists(model):
        if on_hub is not None and path.is_dir():
            notice(f"Using the folder {model}; for the repository of that name write hf.co/{model}")
        return path
    is_path = model.lower().endswith(_ENDINGS) or is_folder(path.parent)
    if on_hub is not None and (on_hub.named_hub or on_hub.tag is not None or not is_path):
        return on_hub
    if os.sep not in model and not model.lower().endswith(_ENDINGS):
        return catalogue.find(model)
    hint = "" if on_hub is None else f" (for a repository of the hub write hf.co/{on_hub})"
    raise Llama3Error(f"{model}: {nothing_there(path)}{hint}")


def fetch(meant: Path | repository.Repository | catalogue.Model, encoding: str | None = None) -> Path:
    """Give the path of what `read_name` found, downloading it if the cache does not hold it.

    Raises:
        Llama3Error: it cannot be downloaded, or a repository is given an encoding.
    """
    if isinstance(meant, Path):
        return meant
    if isinstance(meant, catalogue.Model):
        return download.fetch(meant, encoding)
    if encoding is not None:
        raise Llama3Error(
            f"{meant}: the name of a repository says which file, such as {meant.name}:Q4_K_M; "
            f"leave --quantization-encoding {encoding} out"
        )
    try:
        return repository.fetch(meant)
    except Llama3Error as error:
        if meant.named_hub or meant.tag is not None:
            raise
        raise Llama3Error(f"{error} (and no file or folder is called {meant} here)") from error
