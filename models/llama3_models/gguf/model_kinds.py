"""GGUFs that can be read but are not models: what each is called, and what to do with it instead.

The keys are those that llama.cpp's converters and tools write: `general.type` since 2024, and before that a special
architecture or special tensor names.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llama3_models.errors import Llama3Error
from llama3_models.gguf.file import GGUFFile
from llama3_models.gguf.part import quoted


class OtherKind(NamedTuple):
    """A kind of GGUF that is not a model.

    Attributes:
        name: The usual name, with its article.
        advice: What to do with it, or what to use instead.
    """

    name: str
    advice: str


_ADAPTER = OtherKind("a LoRA adapter", "use the model that it was made for, and this file with --lora")
_IMATRIX = OtherKind("an importance matrix (imatrix)", "it is for llama-quantize: use the model's own GGUF")
_MMPROJ = OtherKind(
    "the vision or audio part of a model (mmproj)", "use the GGUF of the model itself, usually in the same folder"
)
_CONTROL_VECTOR = OtherKind("a control vector", "it is not supported: use the model's own GGUF")
_VOCABULARY = OtherKind(
    "a vocabulary without weights", "use it with --tokenizer-path, and a GGUF that has weights as the model"
)
_EMPTY = OtherKind("a header without tensors", "use a GGUF that has weights")


def other_kind(file: GGUFFile) -> OtherKind | None:
    """Return the kind of a GGUF that is not a model; None for a model, supported or not."""
    metadata = file.metadata
    said = _text(metadata.get("general.type"))
    architecture = _text(metadata.get("general.architecture"))
    names = [*file.tensors, *file.unread]
    if said == "adapter" or any(name.endswith((".lora_a", ".lora_b")) for name in names):
        adapter_type = _text(metadata.get("adapter.type")) or "lora"
        if adapter_type != "lora":
            return OtherKind(f"an adapter of type {quoted(adapter_type)}", "it is not supported: use a model")
        return _ADAPTER
    if said == "imatrix" or any(name.endswith(".in_sum2") for name in names):
        return _IMATRIX
    if architecture == "controlvector":
        return _CONTROL_VECTOR
    if said == "mmproj" or architecture in ("clip", "mmproj"):
        return _MMPROJ
    if not names:
        return _VOCABULARY if "tokenizer.ggml.model" in metadata else _EMPTY
    return None


def refuse_other_kinds(file: GGUFFile) -> None:
    """Refuse a GGUF that is not a model.

    Raises:
        Llama3Error: it is an adapter, a vocabulary, or another of the kinds above.
    """
    if (kind := other_kind(file)) is not None:
        raise Llama3Error(f"{file.path}: {kind.name}, not a model; {kind.advice}")


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
