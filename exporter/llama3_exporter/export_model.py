"""From a GGUF to an export: declare the graph, place its weights, and publish all of it at once."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llama3_models.digests import fingerprint, sha256
from llama3_models.errors import Llama3Error
from llama3_models.gguf_file import GGUFFile
from llama3_models.hyperparameters import Hyperparameters
from llama3_models.units import format_bytes

from llama3_exporter import weights_file
from llama3_exporter.contrib import ContribBackend
from llama3_exporter.facts import TypeUse, facts_of, serialized, types_of
from llama3_exporter.folder import FACTS, Content, check_output, publish_folder, unnamed_file
from llama3_exporter.gguf_placement import graph_beside, place_gguf
from llama3_exporter.graph import build_graph
from llama3_exporter.host_files import host_files, to_json
from llama3_exporter.native import NativeBackend
from llama3_exporter.options import Activations, ExportOptions, Logits, Ops, Precision
from llama3_exporter.weights_file import WeightsFile

GRAPH = "model.onnx"

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ExportSummary:
    """What an export wrote, and how long it took (seconds). Sizes are in bytes.

    `output` is the folder, or the graph beside its GGUF; `written_bytes` leaves out what was only linked.
    `memory_bytes` is what ONNX Runtime holds of the weights on a CPU, copies of float weights included.
    """

    output: Path
    source: Path
    source_bytes: int
    written_bytes: int
    types: dict[str, TypeUse]
    max_length: int
    kv_cache_bytes_per_position: int
    memory_bytes: int
    seconds: float
    remarks: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(use.parameters for use in self.types.values())

    @property
    def bits_per_weight(self) -> float:
        """Bits per weight in the GGUF: its tensors' bytes, without metadata."""
        return 8 * sum(use.bytes for use in self.types.values()) / self.parameters

    def describe(self) -> str:
        """The summary as a few lines of text."""
        tensors = sum(use.tensors for use in self.types.values())
        types = ", ".join(f"{name} {format_bytes(use.bytes)} ({use.tensors})" for name, use in self.types.items())
        cache = self.kv_cache_bytes_per_position
        lines = [
            f"{self.source.name} ({format_bytes(self.source_bytes)}) -> {self.output} "
            f"({format_bytes(self.written_bytes)} written) in {self.seconds:.1f} s",
            f"  weights  {self.parameters / 1e6:,.1f} M in {tensors} tensors, {self.bits_per_weight:.2f} bits each",
            f"  types    {types}",
            f"  context  {self.max_length:,} positions; the KV cache takes {format_bytes(cache)} for each "
            f"({format_bytes(cache * min(512, self.max_length))} for {min(512, self.max_length)})",
            f"  memory   about {format_bytes(self.memory_bytes)} to run, without the KV cache",
        ]
        return "\n".join([*lines, *(f"  note     {remark}" for remark in self.remarks)])


def export(
    model: str | Path,
    output: str | Path | None = None,
    *,
    ops: Ops = "contrib",
    activations: Activations = "int8",
    precision: Precision = "fp32",
    logits: Logits = "last",
    max_length: int | None = None,
    copy: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> ExportSummary:
    """Export a GGUF to a folder that an ONNX Runtime app loads.

    Args:
        model: A .gguf file, or any part of a split one.
        output: The folder to make, whole or not at all. None, with native ops, makes one file, NAME.onnx beside
            NAME.gguf.
        ops: `contrib`: ONNX Runtime's own ops over repacked weights. `native`: ours over the GGUF's bytes, which are
            linked into the folder.
        activations: `int8`: linears quantize their input by blocks, as llama.cpp's do. `float32`: they do not.
        precision: `fp16`: attention, KV cache and the linears that lose nothing by it are float16 (contrib, for CUDA).
        logits: Which positions get logits: `last`, `all`, or `selected` by the input `logits_to_keep`.
        max_length: Positions that the graph can reach; None for the model's context length.
        copy: Copy the GGUF into the folder of a native export, where a link would do.
        force: Replace an earlier export. Whatever else is there is never replaced.
        progress: Called with the bytes of the GGUF that are packed or copied, and their total.

    Raises:
        Llama3Error: the file is no Llama that we support, is damaged, or the output cannot be written.
    """
    start = time.perf_counter()
    if output is None and ops == "contrib":
        raise Llama3Error("contrib ops repack the weights: give a folder for them, --output DIR")
    if ops == "native" and precision != "fp32":
        raise Llama3Error("native ops run on the CPU, in float32 with a float16 KV cache; fp16 is for contrib ops")
    if copy and (ops == "contrib" or output is None):
        raise Llama3Error("copy is about the GGUF in the folder of a native export; leave it out")
    if output is not None:
        check_output(Path(output), force=force)
    with GGUFFile.open(model) as file:
        config = Hyperparameters.from_gguf(file)
        options = ExportOptions(ops, activations, precision, logits, _positions(file, config, max_length))
        if ops == "contrib":
            assert output is not None
            summary = _export_contrib(file, config, options, Path(output), force=force, progress=progress)
        elif output is not None:
            summary = _export_native(file, config, options, Path(output), copy=copy, force=force, progress=progress)
        else:
            summary = export_native_graph(
                file,
                graph_beside(file, force=force),
                activations=activations,
                logits=logits,
                max_length=max_length,
            )
    return replace(summary, seconds=time.perf_counter() - start)


def export_native_graph(
    file: GGUFFile,
    path: Path,
    *,
    activations: Activations = "int8",
    logits: Logits = "last",
    max_length: int | None = None,
    resolve_links: bool = False,
) -> ExportSummary:
    """Write a native graph alone, whose weights stay where they are.

    It runs beside the GGUF, or wherever the session option `session.model_external_initializers_file_folder_path`
    names the GGUF's folder.

    Args:
        file: The GGUF.
        path: The .onnx file to write, or to replace.
        activations: See `export`.
        logits: See `export`.
        max_length: See `export`.
        resolve_links: Call the GGUF by the name of the file that a link leads to.

    Raises:
        Llama3Error: the file is no Llama that we support.
    """
    start = time.perf_counter()
    config = Hyperparameters.from_gguf(file)
    options = ExportOptions("native", activations, "fp32", logits, _positions(file, config, max_length))
    names = {part: part.resolve().name if resolve_links else part.name for part in file.parts}
    backend = NativeBackend(file, config, options.activations, names)
    graph = serialized(build_graph(config, backend, options.logits), facts_of(file, options, _fingerprints(names)))
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(graph)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return _summary(file, config, options, path, backend.kv_type.itemsize, len(graph), file.size, start)


def _export_contrib(
    file: GGUFFile,
    config: Hyperparameters,
    options: ExportOptions,
    output: Path,
    *,
    force: bool,
    progress: Progress | None,
) -> ExportSummary:
    start = time.perf_counter()
    weights = WeightsFile()
    backend = ContribBackend(file, config, weights, options)
    model = build_graph(config, backend, options.logits)
    hosts, remarks = host_files(file, config, options.max_length)
    with ThreadPoolExecutor(1) as pool, unnamed_file(output, weights.size) as data:
        digests = pool.submit(lambda: [{"name": part.name, "sha256": sha256(part)} for part in file.parts])
        done = 0

        def packed(n_bytes: int) -> None:
            nonlocal done
            done += n_bytes
            if progress is not None:
                progress(done, weights.source_bytes)

        weights.write(data.descriptor, packed)
        facts = facts_of(file, options, digests.result())
        files: dict[str, Content] = {
            GRAPH: serialized(model, facts),
            weights_file.NAME: data.publish,
            FACTS: to_json(facts),
            **hosts,
        }
        publish_folder(output, files, force=force)
    memory = weights.size + backend.float_copies_bytes
    written = weights.size + _small_bytes(files)
    summary = _summary(file, config, options, output, backend.kv_type.itemsize, written, memory, start)
    return replace(summary, remarks=remarks)


def _export_native(
    file: GGUFFile,
    config: Hyperparameters,
    options: ExportOptions,
    output: Path,
    *,
    copy: bool,
    force: bool,
    progress: Progress | None,
) -> ExportSummary:
    start = time.perf_counter()
    names = {part: part.name for part in file.parts}
    backend = NativeBackend(file, config, options.activations, names)
    facts = facts_of(file, options, _fingerprints(names))
    model = build_graph(config, backend, options.logits)
    hosts, host_remarks = host_files(file, config, options.max_length)
    remarks = list(host_remarks)

    def placed(part: Path) -> Callable[[Path], None]:
        def place(target: Path) -> None:
            remark = place_gguf(part, target, copy=copy, progress=progress)
            if remark is not None:
                remarks.append(f"{part.name}: {remark}")

        return place

    files: dict[str, Content] = {
        GRAPH: serialized(model, facts),
        FACTS: to_json(facts),
        **hosts,
        **{part.name: placed(part) for part in file.parts},
    }
    publish_folder(output, files, force=force)
    summary = _summary(file, config, options, output, backend.kv_type.itemsize, _small_bytes(files), file.size, start)
    return replace(summary, remarks=tuple(remarks))


def _positions(file: GGUFFile, config: Hyperparameters, max_length: int | None) -> int:
    if max_length is None:
        return config.context_length
    if not 1 <= max_length <= config.context_length:
        raise Llama3Error(f"max-length {max_length} is not in 1 .. {config.context_length}, the context of {file.path}")
    return max_length


def _fingerprints(names: Mapping[Path, str]) -> list[dict[str, Any]]:
    return [
        {"name": name, "size": part.stat().st_size, "fingerprint": fingerprint(part)} for part, name in names.items()
    ]


def _small_bytes(files: dict[str, Content]) -> int:
    return sum(len(content) for content in files.values() if isinstance(content, bytes))


def _summary(
    file: GGUFFile,
    config: Hyperparameters,
    options: ExportOptions,
    output: Path,
    kv_item_bytes: float,
    written_bytes: int,
    memory_bytes: int,
    start: float,
) -> ExportSummary:
    per_position = 2 * config.num_layers * config.num_key_value_heads * config.head_dim * kv_item_bytes
    return ExportSummary(
        output=output,
        source=file.path,
        source_bytes=file.size,
        written_bytes=written_bytes,
        types=types_of(file),
        max_length=options.max_length,
        kv_cache_bytes_per_position=int(per_position),
        memory_bytes=memory_bytes,
        seconds=time.perf_counter() - start,
    )
