"""The local path of a model that a user names: by a path, a name of the catalog, or a repository of the Hub."""

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
    """Return the file or folder that `model` means, and download it if it is a name or a repository.

    Args:
        model: A path, a name of the catalog, or a repository.
        encoding: The encoding of a model of the catalog; None for its default.

    Raises:
        Llama3Error: the model does not exist or cannot be downloaded, or `encoding` is used without a name.
    """
    meant = read_name(model)
    if isinstance(meant, Path) and encoding is not None:
        raise Llama3Error(f"{model}: a file has its own encoding; omit --quantization-encoding {encoding}")
    return fetch(meant, encoding)


def names_a_model(text: str) -> bool:
    """Return whether a text that is not a path can only mean a model."""
    return repository.parse(text) is not None or any(text.lower() == model.name for model in catalogue.all_models())


def read_name(model: str) -> Path | repository.Repository | catalogue.Model:
    """Return what `model` means, without a network.

    Anything that exists is a path. So is a text that ends in .gguf or .onnx, or whose folder exists. Of the
    rest, ORG/REPO[:TAG] is a repository of the Hugging Face Hub, and a text without a slash is a name of the catalog.

    Raises:
        Llama3Error: there is no such path or no such name.
    """
    path = Path(model)
    on_hub = repository.parse(model)
    if exists(model):
        if on_hub is not None and path.is_dir():
            notice(f"Using the folder {model}; for the repository of the same name, use hf.co/{model}")
        return path
    is_path = model.lower().endswith(_ENDINGS) or is_folder(path.parent)
    if on_hub is not None and (on_hub.named_hub or on_hub.tag is not None or not is_path):
        return on_hub
    if os.sep not in model and not model.lower().endswith(_ENDINGS):
        return catalogue.find(model)
    hint = "" if on_hub is None else f" (for a Hugging Face repository, use hf.co/{on_hub})"
    raise Llama3Error(f"{model}: {nothing_there(path)}{hint}")


def fetch(meant: Path | repository.Repository | catalogue.Model, encoding: str | None = None) -> Path:
    """Return the path of what `read_name` found, and download it if it is not in the cache.

    Raises:
        Llama3Error: it cannot be downloaded, or `encoding` is used with a repository.
    """
    if isinstance(meant, Path):
        return meant
    if isinstance(meant, catalogue.Model):
        return download.fetch(meant, encoding)
    if encoding is not None:
        raise Llama3Error(
            f"{meant}: --quantization-encoding {encoding} is not for repositories; "
            f"omit it, and choose a file as in {meant.name}:Q4_K_M"
        )
    try:
        return repository.fetch(meant)
    except Llama3Error as error:
        if meant.named_hub or meant.tag is not None:
            raise
        raise Llama3Error(f"{error} (and there is no file or folder {meant})") from error
