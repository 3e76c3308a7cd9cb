"""`load`: a Generator from the name of a model, a GGUF or an export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llama3_models.errors import Llama3Error
from llama3_models.hub.catalogue import Encoding
from llama3_models.tokenizer.pre_tokenizers import check_pre_tokenizer

from llama3_runtime.generator import Generator
from llama3_runtime.model import ModelOptions
from llama3_runtime.source.find import find_model
from llama3_runtime.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llama3_models.exports import Ops
    from llama3_models.lora import Loras
    from typing_extensions import Unpack


def load(
    model: str | Path,
    *,
    encoding: Encoding | None = None,
    ops: Ops | None = None,
    tokenizer: Tokenizer | str | Path | None = None,
    pre_tokenizer: str | None = None,
    lora: Loras = (),
    **options: Unpack[ModelOptions],
) -> Generator:
    """Load a model by name or path, downloading or exporting it first if needed.

    Args:
        model: A .gguf file, an export folder or the .onnx in one, a name from --list-models, or ORG/REPO[:Q4_K_M] for
            a repository of the Hugging Face Hub. An existing path wins; a `Path` is always a path.
        encoding: For a name, the encoding to download (None: the default). For a path, the encoding that the weights
            must have (None: any).
        ops: For a GGUF, the ops to export it with for the CPU (None: native, if they were built). For an export, the
            ops that it must have (None: any).
        tokenizer: A tokenizer other than the model's, or the path of its .gguf, tokenizer.json or tokenizer.model.
        pre_tokenizer: How text is split, by the name that GGUFs use for it; None follows the tokenizer's file.
        lora: LoRA adapters for a GGUF: a path, `FILE:SCALE`, or a list of these.
        options: See `Model.from_folder`: provider, threads, max_length, chunk_size.

    Raises:
        Llama3Error: there is no such model, or it cannot be downloaded, exported, loaded or run.
    """
    if not isinstance(model, str | Path):
        raise TypeError(f"a model is a name or a path, not {type(model).__name__}")
    if not str(model):
        raise Llama3Error("the model is an empty string; use a name, a .gguf file or an export folder")
    check_pre_tokenizer(pre_tokenizer)  # before a download
    path = model if isinstance(model, Path) else find_model(model=model, encoding=encoding)
    return Generator.from_folder(
        path, encoding=encoding, ops=ops, tokenizer=tokenizer, pre_tokenizer=pre_tokenizer, lora=lora, **options
    )
