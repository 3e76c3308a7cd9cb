"""The export for the model of a command line: a name, a GGUF, a folder, or nothing at all.

An encoding chooses which file to download. A file on this machine must have that encoding.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import llama3_custom_ops
from llama3_models.errors import Llama3Error, UsageError
from llama3_models.exports import Logits, Ops, Precision, check_choice, folder_of
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
    """Find the file or folder that a command line means, and download it if necessary.

    Args:
        model_path: A .gguf file, an export folder, or the .onnx in one.
        model: Also a path, or a name of the catalog, or a repository of the Hugging Face Hub. Without both, `version`
            and `encoding` choose a download.
        encoding: The encoding to download; None for the default.
        version: The Llama version to download, 3.1 by default.

    Raises:
        UsageError: `model_path` and `model` are both used.
        Llama3Error: There is no such model, or it cannot be downloaded.
    """
    if model_path is not None and model is not None:
        raise UsageError("--model-path and --model cannot be used together")
    if version is not None and (model_path is not None or model is not None):
        logger.warning("--version only chooses a download, so it has no effect; using %s", model_path or model)
    if model_path is not None:
        if not model_path.exists():
            raise Llama3Error(f"{model_path}: {nothing_there(model_path)}")
        return model_path
    meant = locate.read_name(model) if model is not None else catalogue.for_version(version or DEFAULT_VERSION)
    return locate.fetch(meant, encoding)


def check_loras(lora: Loras) -> None:
    """Check the texts of --lora before anything is downloaded.

    Raises:
        UsageError: A scale is not a number.
    """
    if lora:
        from llama3_models.lora import parse_loras

        parse_loras(lora)


def is_export(path: Path) -> bool:
    """Return whether a path from `find_model` is an export, not a GGUF."""
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
    """Find the export of a model, and export the model if necessary.

    Args:
        path: From `find_model`.
        encoding: The encoding that the weights must have; None accepts any.
        ops: The ops to export a GGUF with, which an export must already have; None uses native ops if they were built,
            and an export as it is.
        precision: The precision to export a GGUF with.
        logits: The logits to export a GGUF with.
        lora: LoRA adapters for a GGUF: one path or `FILE:SCALE`, or several.

    Raises:
        Llama3Error: The encoding or the ops are different, or the model cannot be exported.
    """
    if ops is not None:
        check_choice("ops", ops, Ops)
    if is_export(path):
        from llama3_models.manifest import Manifest

        if lora:
            raise Llama3Error(
                f"{path}: adapters cannot be added to an export; use its GGUF, or export that with llama3-export --lora"
            )
        folder = path if path.is_dir() else folder_of(path)
        if encoding is not None:
            _check_encoding(encoding, Manifest.of_folder(folder).types, path)
        if ops is not None:
            _check_ops(ops, folder, path)
        return Export(path)
    # Imported here because --help imports this module and should not wait for gguf.
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
    """Compare `ops` with the manifest in an export folder; a graph without one is not checked."""
    from llama3_models.manifest import Manifest, NotAnExportError

    try:
        found = Manifest.of_folder(folder).options.ops
    except NotAnExportError:
        return
    if found != ops:
        raise Llama3Error(f"{path}: an export with {found} ops, not {ops}; use its GGUF, or omit --ops")


def _check_encoding(encoding: Encoding, types: Mapping[str, TypeUse], path: Path) -> None:
    """Compare an encoding with the type of most of the bytes: a Q4_K_M file also contains Q6_K and F32."""
    found = max(types, key=lambda name: types[name].bytes, default="F32").lower().replace("f32", "float32")
    if found != encoding:
        raise Llama3Error(
            f"{path}: its weights are {found}, not {encoding}; omit --quantization-encoding, or use another file"
        )


def _best_ops() -> Ops:
    if llama3_custom_ops.built_library() is not None:
        return "native"
    logger.warning("the native ops were not built (no C++ compiler at installation?); using the slower contrib ops")
    return "contrib"
