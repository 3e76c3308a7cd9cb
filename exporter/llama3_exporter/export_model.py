"""An export from start to finish: declare the graph, place its weights, and publish everything at once."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from llama3_custom_ops import built_library
from llama3_models.config import Hyperparameters
from llama3_models.digests import fingerprint, sha256
from llama3_models.errors import Llama3Error
from llama3_models.exports import (
    GRAPH,
    MANIFEST,
    WASM_GRAPH,
    WEB_WEIGHTS,
    WEBGPU_GRAPH,
    WEIGHTS,
    Activations,
    Logits,
    Ops,
    Precision,
    Target,
    check_choice,
)
from llama3_models.gguf.file import GGUFFile
from llama3_models.lora import Adapter, Lora, Loras, parse_loras, read_adapters
from llama3_models.manifest import AdapterUse, ExportOptions, Manifest, Part, types_of
from llama3_models.tokenizer.vocabulary import NoTokenizerError, Vocabulary
from llama3_models.units import format_bytes

from llama3_exporter.contrib.backend import ContribBackend
from llama3_exporter.contrib.placed import PlacedTensors
from llama3_exporter.contrib.web import WasmBackend, WebGPUBackend
from llama3_exporter.contrib.weights_file import WeightsFile
from llama3_exporter.folder import (
    Content,
    OutputError,
    check_output,
    publish_file,
    publish_folder,
    remove_export,
    unnamed_file,
)
from llama3_exporter.graph import build_graph
from llama3_exporter.graph_file import serialized
from llama3_exporter.host_files import host_files, read_tokenizer, to_json, web_config
from llama3_exporter.native.backend import NativeBackend
from llama3_exporter.native.placement import graph_beside, place_gguf
from llama3_exporter.options import check_combination
from llama3_exporter.progress import Progress
from llama3_exporter.summary import ExportSummary
from llama3_exporter.tokenizers.graphs import tokenizer_graphs, what_differs
from llama3_exporter.tokenizers.read_back import check_tokenizer, why_unusable

__all__ = ["ExportSummary", "OutputError", "export", "export_native_graph", "remove_export"]

logger = logging.getLogger(__name__)

# ONNX Runtime's attention and ours count positions in 32 bits.
_MAX_POSITIONS = (1 << 31) - 1

# A protocol buffer is limited to 2 GiB, and the rest of a graph needs less than a megabyte.
_MAX_ADAPTER_BYTES = 2_000_000_000

_NO_LIBRARY = (
    "the library of native ops was not built; to run the graph, install a C++20 compiler and CMake, reinstall "
    "llama3-onnx, and export again with --force"
)

# A process can open 1,024 files by default, and the app that loads the model has others open.
_MAX_SHARDS = 500


# transformers.js loads at most 100 files, and browsers hold at most 2 GB in one array.
_MAX_WEB_SHARDS = 100
_WEB_SHARD_BYTES = 1_000_000_000
_MAX_WEB_FILE_BYTES = 2_000_000_000
_WASM_BYTES = 1 << 32


class _Graph(NamedTuple):
    """A graph of a contrib export: its path in the folder, the name of its first weights file, and its ops."""

    path: str
    weights: str
    backend: type[ContribBackend]


_GRAPHS: Mapping[Target, Sequence[_Graph]] = {
    "any": [_Graph(GRAPH, WEIGHTS, ContribBackend)],
    "web": [
        _Graph(graph, WEB_WEIGHTS[graph], backend)
        for graph, backend in ((WEBGPU_GRAPH, WebGPUBackend), (WASM_GRAPH, WasmBackend))
    ],
}


@dataclass(frozen=True)
class _Written:
    """The result of one kind of export. `ExportSummary` explains the sizes."""

    written_bytes: int
    memory_bytes: int
    kv_item_bytes: float
    warnings: tuple[str, ...] = ()
    downloads: Mapping[str, int] = field(default_factory=dict)
    wasm_memory_bytes: int | None = None


def export(
    model: str | Path,
    output: str | Path | None = None,
    *,
    ops: Ops = "contrib",
    target: Target = "any",
    activations: Activations | None = None,
    precision: Precision = "fp32",
    logits: Logits = "last",
    max_length: int | None = None,
    shard_size: int | None = None,
    pre_tokenizer: str | None = None,
    tokenizer_graph: bool = False,
    lora: Loras = (),
    copy: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> ExportSummary:
    """Export a GGUF to a folder that any ONNX Runtime app can load.

    Args:
        model: A .gguf file, or any part of a split one.
        output: Folder to create, whole or not at all. None (native ops only) writes a single file, NAME.onnx beside
            NAME.gguf.
        ops: `contrib`: ONNX Runtime's own ops on repacked weights. `native`: ours on the GGUF's own bytes, which are
            linked into the folder.
        target: `any`: one graph for any app. `web`: two graphs on the same weights, for WebGPU and WebAssembly, in the
            layout of transformers.js.
        activations: `int8`: linears quantize their input per block, as in llama.cpp. `float32`: they do not. None
            for `int8`, or `float32` with the target `web`.
        precision: `fp16`: float16 attention, KV cache and, if it loses nothing, linears (contrib, for CUDA).
        logits: Positions that get logits: `last`, `all`, or `selected` by the input `logits_to_keep`.
        max_length: Number of positions that the graph supports; None for the model's context length.
        shard_size: Maximum bytes of a weights file of a contrib export, for hosts that do not accept large files.
            A tensor is never split, even if it is larger. None for a single file, or 1 GB with the target `web`.
        pre_tokenizer: How to split text before tokenizing, by llama.cpp's name; None for what the GGUF says.
        tokenizer_graph: Add the tokenizer as two graphs of onnxruntime-extensions' ops.
        lora: LoRA adapters for the model, one or several: the path of a GGUF, or `FILE:SCALE`.
        copy: Copy the GGUF into the folder of a native export, even if a link is possible.
        force: Replace an earlier export. Anything else is never replaced.
        progress: Called with the bytes of the GGUF packed or copied so far, and their total.

    Raises:
        Llama3Error: the options contradict each other, the file is damaged or not a supported model, or the output
            cannot be written.
    """
    start = time.perf_counter()
    check_choice("ops", ops, Ops)
    check_choice("target", target, Target)
    if activations is not None:
        check_choice("activations", activations, Activations)
    check_choice("precision", precision, Precision)
    check_choice("logits", logits, Logits)
    check_combination(
        output=output,
        ops=ops,
        target=target,
        activations=activations,
        precision=precision,
        logits=logits,
        shard_size=shard_size,
        pre_tokenizer=pre_tokenizer,
        tokenizer_graph=tokenizer_graph,
        copy=copy,
    )
    if activations is None:
        activations = "float32" if target == "web" else "int8"
    loras = parse_loras(lora)
    if output is not None:
        output = Path(output)
        check_output(output, force=force)
    with GGUFFile.open(model) as file:
        config = Hyperparameters.from_gguf(file)
        options = ExportOptions(ops, activations, precision, logits, _positions(file, config, max_length), target)
        adapters = read_adapters(loras, file)
        _warn(adapters)
        vocabulary, no_tokenizer = read_tokenizer(file, pre_tokenizer)
        graphs, graph_warnings = _tokenizer_graphs(vocabulary, no_tokenizer, file) if tokenizer_graph else ({}, ())
        hosts: dict[str, bytes] = {}
        host_warnings: tuple[str, ...] = ()
        if output is not None:
            hosts, host_warnings = host_files(file, config, vocabulary, options.max_length, native=ops == "native")
        others = {**hosts, **graphs}
        if output is None:
            output = graph_beside(file, force=force)
            names = {part: part.name for part in file.parts}
            written = _write_native_graph(file, config, options, adapters, output, names)
        elif ops == "native":
            written = _export_native(
                file, config, options, adapters, output, others, copy=copy, force=force, progress=progress
            )
        else:
            written = _export_contrib(
                file, config, options, adapters, shard_size, output, others, force=force, progress=progress
            )
        other_tokens = None
        if vocabulary is not None and output.is_dir():
            no_tokenizer, other_tokens = check_tokenizer(output, vocabulary)
        elif vocabulary is not None:
            no_tokenizer = why_unusable(vocabulary)
        no_library = _NO_LIBRARY if ops == "native" and built_library() is None else None
        per_position = (
            2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * written.kv_item_bytes
        )
        return ExportSummary(
            output=output,
            source=file.path,
            source_bytes=file.size,
            written_bytes=written.written_bytes,
            types=types_of(file),
            max_length=options.max_length,
            kv_cache_bytes_per_position=int(per_position),
            memory_bytes=written.memory_bytes,
            downloads=written.downloads,
            wasm_memory_bytes=written.wasm_memory_bytes,
            seconds=time.perf_counter() - start,
            adapters=tuple((adapter.path.name, adapter.scale) for adapter in adapters),
            warnings=(
                *(vocabulary.warnings if vocabulary is not None else ()),
                *filter(None, (no_tokenizer, other_tokens, no_library)),
                *host_warnings,
                *written.warnings,
                *graph_warnings,
            ),
            runs=no_library is None,
            has_tokenizer=no_tokenizer is None,
        )


def export_native_graph(
    file: GGUFFile,
    path: Path,
    *,
    activations: Activations = "int8",
    logits: Logits = "last",
    max_length: int | None = None,
    loras: Sequence[Lora] = (),
) -> None:
    """Write a native graph alone, for a GGUF that stays where it is.

    The graph refers to the GGUF by its own name, not by the name of a link to it. To run the graph, set the session
    option `session.model_external_initializers_file_folder_path` to the GGUF's folder.

    Args:
        file: The GGUF.
        path: The .onnx file to write or replace.
        activations: See `export`.
        logits: See `export`.
        max_length: See `export`.
        loras: LoRA adapters for the model.

    Raises:
        Llama3Error: the file is not a supported model, or the graph cannot be written.
    """
    config = Hyperparameters.from_gguf(file)
    options = ExportOptions("native", activations, "fp32", logits, _positions(file, config, max_length))
    names = {part: part.resolve().name for part in file.parts}
    adapters = read_adapters(loras, file)
    _warn(adapters)
    _write_native_graph(file, config, options, adapters, path, names)


def _refuse_names_not_utf8(file: GGUFFile) -> None:
    """Refuse a GGUF whose file names are not UTF-8: a native graph contains them as text."""
    for part in file.parts:
        for name in {part.name, part.resolve().name}:
            try:
                name.encode()
            except UnicodeEncodeError:
                raise Llama3Error(
                    f"{part}: the name is not UTF-8, so a native graph cannot refer to it; rename the file, or use "
                    "--ops contrib"
                ) from None


def _write_native_graph(
    file: GGUFFile,
    config: Hyperparameters,
    options: ExportOptions,
    adapters: Sequence[Adapter],
    path: Path,
    names: Mapping[Path, str],
) -> _Written:
    _refuse_names_not_utf8(file)
    graph, _, kv_item_bytes = _native_graph(file, config, options, adapters, names)
    publish_file(path, graph)
    return _Written(len(graph), file.size + _adapter_bytes(adapters), kv_item_bytes)


def _native_graph(
    file: GGUFFile,
    config: Hyperparameters,
    options: ExportOptions,
    adapters: Sequence[Adapter],
    names: Mapping[Path, str],
) -> tuple[bytes, Manifest, float]:
    """Return the graph as a file, its manifest, and the bytes per number in its cache."""
    if (n_bytes := _adapter_bytes(adapters)) > _MAX_ADAPTER_BYTES:
        raise Llama3Error(
            f"{file.path}: the adapters total {format_bytes(n_bytes)}, but a native graph can hold only "
            f"{format_bytes(_MAX_ADAPTER_BYTES)}; use --ops contrib, which has no such limit"
        )
    backend = NativeBackend(file, config, options.activations, names, adapters)
    manifest = Manifest.of_gguf(file, options, _fingerprints(names), adapters=_uses(adapters))
    return serialized(build_graph(config, backend, options.logits), manifest), manifest, backend.kv_type.itemsize


def _export_contrib(
    file: GGUFFile,
    config: Hyperparameters,
    options: ExportOptions,
    adapters: Sequence[Adapter],
    shard_size: int | None,
    output: Path,
    others: Mapping[str, bytes],
    *,
    force: bool,
    progress: Progress | None,
) -> _Written:
    if output.resolve() in (part.resolve().parent for part in file.parts):
        raise OutputError(f"{output}: the GGUF is in this folder, which would be replaced")
    graphs = _GRAPHS[options.target]
    if shard_size is None and options.target == "web":
        shard_size = _WEB_SHARD_BYTES
    weights = WeightsFile(shard_size, graphs[0].weights)
    # In 8 bits, ONNX Runtime's float32 kernel unpacks the matrix at every call; two of 4 bits are 20 times faster.
    split = options.activations == "float32" and options.target == "any"
    nearest = options.target == "any"
    placed = PlacedTensors(config.weights(file), weights, split_8_bits=split, nearest_zero_points=nearest)
    backends = [graph.backend(file, config, placed, options, adapters) for graph in graphs]
    models = [build_graph(config, backend, options.logits) for backend in backends]
    most = _MAX_WEB_SHARDS if options.target == "web" else _MAX_SHARDS
    if len(weights.sizes) > most:
        raise Llama3Error(
            f"{output}: --shard-size splits {format_bytes(weights.size)} of weights into {len(weights.sizes)} files; "
            f"use a larger one, for at most {most} files"
        )
    with ThreadPoolExecutor(1) as pool, ExitStack() as stack:
        # Each checks that all of them fit: the ones before it are still empty.
        shards = {name: stack.enter_context(unnamed_file(output, weights.size)) for name in weights.sizes}
        digests = pool.submit(lambda: [Part(part.name, sha256=sha256(part)) for part in file.parts])
        done = 0

        def packed(n_bytes: int) -> None:
            nonlocal done
            done += n_bytes
            if progress is not None:
                progress(done, weights.source_bytes)

        own_digests = weights.write({name: shard.descriptor for name, shard in shards.items()}, packed)
        own = [
            Part(name, weights.sizes[name], own_digests[name], fingerprint(shard.descriptor))
            for name, shard in shards.items()
        ]
        manifest = Manifest.of_gguf(file, options, digests.result(), own, _uses(adapters))
        files: dict[str, Content] = dict(others)
        for graph, model in zip(graphs, models, strict=True):
            names = {name: graph.weights + name.removeprefix(weights.name) for name in shards}
            folder = Path(graph.path).parent
            of_graph = replace(manifest, weights=tuple(replace(part, name=names[part.name]) for part in own))
            files[graph.path] = serialized(model, of_graph, names)
            for name, shard in shards.items():
                own_name = str(folder / names[name])
                files[own_name] = shard.publish if graph is graphs[0] else _same_file(name)
        files[MANIFEST] = to_json(manifest.to_dict())
        if options.target == "web":
            files["config.json"] = web_config(
                others["config.json"], len(shards), unpacked_on_cpu=backends[1].memory_bytes <= _WASM_BYTES
            )
            del files["genai_config.json"]
        publish_folder(output, files, force=force)
    written = _Written(
        weights.size + _small_bytes(files),
        backends[0].memory_bytes,
        backends[0].kv_type.itemsize,
        tuple(_oversized(weights)),
    )
    return written if options.target == "any" else _for_web(written, files, weights, backends[1].memory_bytes)


def _for_web(written: _Written, files: Mapping[str, Content], weights: WeightsFile, wasm_bytes: int) -> _Written:
    """Add what visitors of a web page download, and what they need in WebAssembly."""
    small = {name: len(content) for name, content in files.items() if isinstance(content, bytes) and name != MANIFEST}
    graphs = {"WebGPU": small.pop(WEBGPU_GRAPH), "WebAssembly": small.pop(WASM_GRAPH)}
    downloads = {name: size + weights.size + sum(small.values()) for name, size in graphs.items()}
    warnings = written.warnings
    largest = max(weights.sizes.values())
    if largest > _MAX_WEB_FILE_BYTES:
        warnings += (
            f"browsers cannot load this model: they hold at most {format_bytes(_MAX_WEB_FILE_BYTES)} in one array, and "
            f"a weights file has {format_bytes(largest)}",
        )
    if wasm_bytes > _WASM_BYTES:
        warnings += (
            f"this model needs WebGPU: WebAssembly can address {format_bytes(_WASM_BYTES)}, and there it would need "
            f"about {format_bytes(wasm_bytes)}, with its weights in float32",
        )
    return replace(written, warnings=warnings, downloads=downloads, wasm_memory_bytes=wasm_bytes)


def _same_file(other: str) -> Callable[[Path], None]:
    """Create a file as another name of a file beside it, or as a copy."""

    def place(target: Path) -> None:
        try:
            target.hardlink_to(target.with_name(other))
        except OSError:
            shutil.copyfile(target.with_name(other), target)

    return place


def _oversized(weights: WeightsFile) -> list[str]:
    return [
        f"{name} has {format_bytes(size)}, more than --shard-size: it contains one tensor, and tensors are not split"
        for name, size in weights.sizes.items()
        if weights.shard_size is not None and size > weights.shard_size
    ]


def _export_native(
    file: GGUFFile,
    config: Hyperparameters,
    options: ExportOptions,
    adapters: Sequence[Adapter],
    output: Path,
    others: Mapping[str, bytes],
    *,
    copy: bool,
    force: bool,
    progress: Progress | None,
) -> _Written:
    _refuse_names_not_utf8(file)
    names = {part: part.name for part in file.parts}
    graph, manifest, kv_item_bytes = _native_graph(file, config, options, adapters, names)
    warnings: list[str] = []

    def placed(part: Path) -> Callable[[Path], None]:
        def place(target: Path) -> None:
            warning = place_gguf(part, target, copy=copy, progress=progress)
            if warning is not None:
                warnings.append(f"{part.name}: {warning}")

        return place

    files: dict[str, Content] = {
        GRAPH: graph,
        MANIFEST: to_json(manifest.to_dict()),
        **others,
    }
    for part in file.parts:
        if part.name in files:
            raise Llama3Error(f"{part}: a file of the export has the same name; rename the GGUF")
        files[part.name] = placed(part)
    publish_folder(output, files, force=force)
    return _Written(_small_bytes(files), file.size + _adapter_bytes(adapters), kv_item_bytes, tuple(warnings))


def _tokenizer_graphs(
    vocabulary: Vocabulary | None, no_tokenizer: str | None, file: GGUFFile
) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """Return the graphs by file name, and warnings about them."""
    if vocabulary is None:
        if no_tokenizer == str(NoTokenizerError(file.path)):
            raise Llama3Error(f"{file.path}: has no tokenizer; omit --tokenizer-graph")
        raise Llama3Error(f"{file.path}: cannot create a tokenizer graph ({no_tokenizer}); omit --tokenizer-graph")
    return tokenizer_graphs(vocabulary), what_differs(vocabulary)


def _positions(file: GGUFFile, config: Hyperparameters, max_length: int | None) -> int:
    if max_length is None:
        max_length = config.max_position_embeddings
        if max_length > _MAX_POSITIONS:
            raise Llama3Error(
                f"{file.path}: {config.architecture.name}.context_length is {max_length:,}, but a graph supports at "
                f"most {_MAX_POSITIONS:,} positions; use a smaller --max-length"
            )
    limit = min(config.max_position_embeddings, _MAX_POSITIONS)
    if not 1 <= max_length <= limit:
        raise Llama3Error(f"--max-length must be in 1 .. {limit} (the context of {file.path}), not {max_length}")
    return max_length


def _fingerprints(names: Mapping[Path, str]) -> list[Part]:
    return [Part(name, size=part.stat().st_size, fingerprint=fingerprint(part)) for part, name in names.items()]


def _uses(adapters: Sequence[Adapter]) -> list[AdapterUse]:
    return [AdapterUse(_printable(each.path.name), each.size, sha256(each.path), each.scale) for each in adapters]


def _printable(name: str) -> str:
    """Replace control codes in a file name, for terminals and for the manifest, which does not allow them."""
    return "".join(character if character.isprintable() else "?" for character in name)


def _adapter_bytes(adapters: Sequence[Adapter]) -> int:
    return sum(tensor.n_bytes for adapter in adapters for tensor in adapter.tensors)


def _warn(adapters: Sequence[Adapter]) -> None:
    for adapter in adapters:
        for warning in adapter.warnings:
            logger.warning("%s", warning)


def _small_bytes(files: dict[str, Content]) -> int:
    return sum(len(content) for content in files.values() if isinstance(content, bytes))
