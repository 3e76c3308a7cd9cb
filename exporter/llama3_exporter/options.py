"""The rules for combining the options of an export."""

from __future__ import annotations

from pathlib import Path

from llama3_models.errors import UsageError
from llama3_models.exports import Activations, Logits, Ops, Precision, Target
from llama3_models.tokenizer.pre_tokenizers import check_pre_tokenizer


def check_combination(
    *,
    output: Path | str | None,
    ops: Ops,
    target: Target,
    activations: Activations | None,
    precision: Precision,
    logits: Logits,
    shard_size: int | None,
    pre_tokenizer: str | None,
    tokenizer_graph: bool,
    copy: bool,
) -> None:
    """Check that the options of an export can be combined, before any file is opened.

    Raises:
        UsageError: an option cannot have any effect.
    """
    check_pre_tokenizer(pre_tokenizer)
    if target == "web":
        _check_web(ops, activations, precision, logits, tokenizer_graph=tokenizer_graph)
    if output is None:
        if ops == "contrib":
            raise UsageError("missing --output: contrib ops repack the weights into a folder")
        if copy:
            raise UsageError("--copy needs a folder to copy the GGUF into; use --output FOLDER")
        if pre_tokenizer is not None:
            raise UsageError(
                "--pre-tokenizer is for the tokenizer files in a folder; use --output FOLDER, or pass it to llama3-run"
            )
        if tokenizer_graph:
            raise UsageError("--tokenizer-graph needs a folder; use --output FOLDER")
    if ops == "contrib" and copy:
        raise UsageError("--copy is only for --ops native: contrib ops repack the weights")
    if ops == "native" and shard_size is not None:
        raise UsageError("--shard-size is only for --ops contrib: native ops read the weights from the GGUF")
    if ops == "native" and precision == "fp16":
        raise UsageError("--precision fp16 is only for --ops contrib: native ops compute in float32 on the CPU")
    if shard_size is not None and shard_size < 1:
        raise UsageError(f"--shard-size of {shard_size} bytes is too small; use a larger one, or omit it")


def _check_web(
    ops: Ops, activations: Activations | None, precision: Precision, logits: Logits, *, tokenizer_graph: bool
) -> None:
    if ops == "native":
        raise UsageError("--target web needs --ops contrib: browsers cannot load other operators")
    if activations == "int8":
        raise UsageError("--target web needs --activations float32: WebGPU cannot round activations to int8")
    if precision == "fp16":
        raise UsageError("--target web needs --precision fp32: not every browser computes in float16")
    if logits == "selected":
        raise UsageError("--target web needs --logits last or all: transformers.js does not supply logits_to_keep")
    if tokenizer_graph:
        raise UsageError("--tokenizer-graph is not for --target web: browsers have no onnxruntime-extensions")
