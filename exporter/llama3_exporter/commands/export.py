"""The command `llama3-export`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from llama3_models.cli import command_line
from llama3_models.cli.arguments import MaybePath
from llama3_models.cli.command_line import check_ranges
from llama3_models.errors import Llama3Error, UsageError
from llama3_models.exports import Activations, Logits, Ops, Precision, Target
from llama3_models.hub.catalogue import Encoding
from llama3_models.hub.listing import MODEL_PAGES
from llama3_models.hub.locate import locate_model
from llama3_models.terminal import notice, show, wrapped

from llama3_exporter.options import check_combination

_SIZE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?) ?(MB|GB)")


def llama3_export(
    model: str,
    *,
    output: Path | None = None,
    ops: Ops = "contrib",
    target: Target = "any",
    activations: Activations | None = None,
    precision: Precision = "fp32",
    logits: Logits = "last",
    max_length: int | None = None,
    shard_size: str | None = None,
    quantization_encoding: Encoding | None = None,
    pre_tokenizer: str | None = None,
    tokenizer_graph: bool = False,
    lora: tuple[MaybePath, ...] = (),
    verify: bool = False,
    copy: bool = False,
    force: bool = False,
) -> int:
    """Turn a GGUF into a folder that any ONNX Runtime app can load.

    The graph computes with exactly the weights of the GGUF, however they are quantized.

    Args:
        model: A .gguf file (any part of a split one), a name from --list-models such as smollm2-135m, or a Hugging Face
            Hub repository as ORG/REPO or ORG/REPO:Q4_K_M.
        output: Folder to create; required with --ops contrib. (default with native: only NAME.onnx, beside NAME.gguf)
        ops: contrib uses ONNX Runtime's own operators and repacked weights, and runs in any app. native uses our
            operators and the GGUF's own bytes: faster, nothing is copied, CPU only.
        target: any is one graph for any app. web is for browsers and transformers.js: two graphs on the same weights,
            for WebGPU and WebAssembly.
        activations: int8 is fast and rounds like llama.cpp; float32 is exact and slower. (default: int8, or float32
            with --target web)
        precision: fp16 is for CUDA: float16 attention, KV cache and, if it loses nothing, linear layers.
        logits: Positions to compute logits for: the last one, all, or as many as the input logits_to_keep says.
        max_length: Longest sequence that the graph supports. (default: the model's context)
        shard_size: Maximum size of a weights file, such as 500MB or 2GB, for hosts that do not accept large files.
            (default: one file of any size, or 1GB with --target web)
        quantization_encoding: Encoding to download, for a name from --list-models. (default: q4_k, if there is one)
        pre_tokenizer: How to split text before tokenizing: a name from llama.cpp, such as llama-bpe or deepseek-llm.
            (default: as the GGUF says)
        tokenizer_graph: Add tokenizer.onnx and detokenizer.onnx, for hosts that have onnxruntime-extensions but no
            tokenizer library.
        lora: Add a LoRA adapter in GGUF, as FILE or FILE:SCALE. It is not merged into the weights.
        verify: Compare the graph with a float32 reference of the GGUF, and fail if they differ.
        copy: Copy the GGUF into the folder of a native export, even if a link is possible.
        force: Replace an earlier export.

    Examples:
        llama3-export Llama-3.1-8B-Instruct-Q4_K_M.gguf --output llama
        llama3-export smollm2-135m --output smollm2 --verify
        llama3-export Llama-3.1-8B-Instruct-Q4_K_M.gguf --ops native
    """
    shard_bytes = None if shard_size is None else _bytes(shard_size)
    check_combination(
        output=output,
        ops=ops,
        target=target,
        activations=activations,
        precision=precision,
        logits=logits,
        shard_size=shard_bytes,
        pre_tokenizer=pre_tokenizer,
        tokenizer_graph=tokenizer_graph,
        copy=copy,
    )
    check_ranges({"max-length": (max_length, 1)})
    if lora:
        from llama3_models.lora import parse_loras

        parse_loras(lora)  # before anything is downloaded
    gguf = locate_model(model, quantization_encoding)
    # Heavy imports come after the command line has been checked.
    from llama3_exporter.export_model import export
    from llama3_exporter.progress import byte_progress

    with byte_progress("exporting") as progress:
        summary = export(
            gguf,
            output,
            ops=ops,
            target=target,
            activations=activations,
            precision=precision,
            logits=logits,
            max_length=max_length,
            shard_size=shard_bytes,
            pre_tokenizer=pre_tokenizer,
            tokenizer_graph=tokenizer_graph,
            lora=lora,
            copy=copy,
            force=force,
            progress=progress,
        )
    show(*summary.lines())
    if verify:
        _verify(summary.output, gguf, lora, precision)
    show("", summary.how_to_run())
    return 0


def _bytes(shard_size: str) -> int:
    match = _SIZE.fullmatch(shard_size)
    if match is None:
        raise UsageError(f"--shard-size: expected a size such as 500MB or 2GB, not {shard_size!r}")
    return round(float(match[1]) * {"MB": 1e6, "GB": 1e9}[match[2]])


def _verify(output: Path, gguf: Path, lora: Sequence[str], precision: Precision) -> None:
    from llama3_exporter.verify import verify

    notice("Verifying against a float32 reference of the GGUF ...")
    result = verify(output, gguf, lora=lora)
    show(
        *wrapped("  graph    ", result.graph.describe(), after_commas=True),
        *wrapped("  weights  ", result.weights.describe(), after_commas=True),
    )
    if not result.passed:
        advice = "please report this" if precision == "fp32" else "float16 may be too coarse, so try --precision fp32"
        raise Llama3Error(f"{output}: the graph differs from {gguf} by more than the bound; {advice}")


def main() -> int:
    """Run the console script."""
    return command_line.run(llama3_export, name="llama3-export", pages=MODEL_PAGES, meant=lambda _: "output")
