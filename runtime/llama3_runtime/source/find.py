"""From what a command line says of a model to an export: a name, a GGUF, a folder, or nothing at all.

An encoding chooses a download; of a file that is given it is a claim, which has to hold.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import llama3_custom_ops
from llama3_models.errors import Llama3Error, UsageError
from llama3_models.exports import Logits, Ops, Precision, check_choice
from llama3_models.gguf.file_kinds import nothing_there
from llama3_models.hub import catalogue, locate
from llama3_models.hub.catalogue import Encoding

from llama3_runtime.source.export_cache import Export, cached_export

if TYPE_CHECKING:
    from llama3_models.lora import Loras
    from llama3_models.manifest import TypeUse

Version = Literal["3.0", "3.1"]

DEFAULT_VERSION: Version = "3.1"

logger = logging.getLogger(__name__)


def find_model(
    *,
    model_path: Path | None = None,
    model: str | None = None,
    encoding: Encoding | None = None,
    version: Version | None = None,
) -> Path:
    """Finds the file or folder that a command line means; downloads it where that has to be.

    Args:
        model_path: A .gguf file, an export folder, or the .onnx in one.
        model: A path as well, a name of the catalogue, or a repository of the Hugging Face Hub. With neither, `version`
            and `encoding` choose a download.
        encoding: Which of its encodings to download; None for its default.
        version: Which Llama to download, 3.1 by default.

    Raises:
        UsageError: `model_path` and `model` are both given.
        Llama3Error: There is no such model, or it cannot be had.
    """
    if model_path is not None and model is not None:
        raise UsageError("--model-path and --model exclude each other")
    if version is not None and (model_path is not None or model is not None):
        logger.warning("--version chooses a download; %s is used whatever it says", model_path or model)
    if model_path is not None:
        if not model_path.exists():
            raise Llama3Error(f"{model_path}: {nothing_there(model_path)}")
        return model_path
    meant = locate.read_name(model) if model is not None else catalogue.for_version(version or DEFAULT_VERSION)
    return locate.fetch(meant, encoding)


def check_loras(lora: Loras) -> None:
    """Refuse what cannot be read as adapters, before anything is downloaded.

    Raises:
        UsageError: a scale is not a number.
    """
    if lora:
        from llama3_models.lora import parse_loras

        parse_loras(lora)


def is_export(path: Path) -> bool:
    """Whether a path that `find_model` gave is an export and not a GGUF."""
    return path.is_dir() or path.suffix == ".onnx"


def find_export(
    path: Path,
    *,
    encoding: Encoding | None = None,
    ops: Ops | None = None,
    precision: Precision = "fp32",
    logits: Logits = "last",
    lora: Loras = (),
) -> Export:
    """Finds the export of a model; exports it first where that has to be.

    Args:
        path: From `find_model`.
        encoding: How the weights must be encoded; None takes what is there.
        ops: What a GGUF is exported with, and an export must have; None for native ops where they were built, and for
            an export as it is.
        precision: What a GGUF is exported with.
        logits: What a GGUF is exported with.
        lora: LoRA adapters of a GGUF: the path of one or `FILE:SCALE`, or several such.

    Raises:
        Llama3Error: Its encoding or its ops are others, or it cannot be exported.
    """
    if ops is not None:
        check_choice("ops", ops, Ops)
    if is_export(path):
        from llama3_models.manifest import Manifest

        if lora:
            raise Llama3Error(
                f"{path}: an export, to which no adapter can be added; give its GGUF, or export that with "
                "llama3-export --lora"
            )
        folder = path if path.is_dir() else path.parent
        if encoding is not None:
            _check_encoding(encoding, Manifest.of_folder(folder).types, path)
        if ops is not None:
            _check_ops(ops, folder, path)
        return Export(path)
    # Late, since the commands' --help imports this module and need not wait for gguf.
    from llama3_models.gguf.file import GGUFFile
    from llama3_models.gguf.model_kinds import refuse_other_kinds
    from llama3_models.lora import parse_loras
    from llama3_models.manifest import types_of

    loras = parse_loras(lora)

    with GGUFFile.open(path) as file:
        refuse_other_kinds(file)
        if encoding is not None:
            _check_encoding(encoding, types_of(file), path)
        return cached_export(file, ops or _best_ops(), precision, logits, loras)


def _check_ops(ops: Ops, folder: Path, path: Path) -> None:
    """Compares the ops asked for with what an export says of its own; a graph that stands alone says nothing here."""
    from llama3_models.manifest import Manifest, NotAnExportError

    try:
        found = Manifest.of_folder(folder).options.ops
    except NotAnExportError:
        return
    if found != ops:
        raise Llama3Error(f"{path}: an export with {found} ops; give the GGUF for {ops} ones, or leave --ops out")


def _check_encoding(encoding: Encoding, types: Mapping[str, TypeUse], path: Path) -> None:
    """Compares an encoding with the type that most of the bytes have: a Q4_K_M file also holds Q6_K and F32."""
    found = max(types, key=lambda name: types[name].bytes, default="F32").lower().replace("f32", "float32")
    if found != encoding:
        raise Llama3Error(
            f"{path}: its weights are {found}, not {encoding}; leave --quantization-encoding out, or give another file"
        )


def _best_ops() -> Ops:
    if llama3_custom_ops.built_library() is not None:
        return "native"
    logger.warning("the native ops were not built (no C++ compiler at installation?); the slower stock ops serve")
    return "contrib"
