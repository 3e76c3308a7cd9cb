"""Which options of an export go together."""

from __future__ import annotations

from pathlib import Path

from llama3_models.errors import UsageError
from llama3_models.exports import Ops, Precision
from llama3_models.tokenizer.pre_tokenizers import check_pre_tokenizer


def check_combination(
    *,
    output: Path | str | None,
    ops: Ops,
    precision: Precision,
    shard_size: int | None,
    pre_tokenizer: str | None,
    tokenizer_graph: bool,
    copy: bool,
) -> None:
    """Hold the options of an export against each other, before any file is looked at.

    Raises:
        UsageError: One of them cannot have an effect.
    """
    check_pre_tokenizer(pre_tokenizer)
    if output is None:
        if ops == "contrib":
            raise UsageError("missing --output: contrib ops repack the weights into a folder")
        if copy:
            raise UsageError("--copy is about the GGUF in a folder; give --output, too")
        if pre_tokenizer is not None:
            raise UsageError(
                "--pre-tokenizer is for the tokenizer's files in a folder; give --output, too, or give it to llama3-run"
            )
        if tokenizer_graph:
            raise UsageError("--tokenizer-graph needs a folder; give --output, too")
    if ops == "contrib" and copy:
        raise UsageError("--copy is for --ops native: contrib ops repack the weights")
    if ops == "native" and shard_size is not None:
        raise UsageError("--shard-size is for contrib ops: native ones read the weights in the GGUF")
    if ops == "native" and precision == "fp16":
        raise UsageError("--precision fp16 is for contrib ops: native ones compute on the CPU, in float32")
    if shard_size is not None and shard_size < 1:
        raise UsageError(f"--shard-size of {shard_size} bytes holds nothing; give a larger one, or none")
