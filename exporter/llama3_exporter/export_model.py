"""From a GGUF to an export folder: plan the graph, write the weights once, then everything else beside them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import onnx_ir as ir
from llama3_models.errors import Llama3Error
from llama3_models.gguf_file import GGUFFile
from llama3_models.hyperparameters import Hyperparameters
from llama3_models.units import format_bytes

from llama3_exporter import host_files, weights_file
from llama3_exporter.contrib import Activations, ContribBackend, Precision
from llama3_exporter.folder import FACTS, PRODUCER, check_output, publish_folder, unnamed_file
from llama3_exporter.graph import Logits, build_graph
from llama3_exporter.weights_file import WeightsFile

GRAPH = "model.onnx"

Ops: TypeAlias = Literal["contrib"]
_BACKENDS: dict[Ops, type[ContribBackend]] = {"contrib": ContribBackend}


@dataclass(frozen=True)
class TypeUse:
    """How much of a model one GGML type holds."""

    tensors: int
    parameters: int
    bytes: int


@dataclass(frozen=True)
class ExportSummary:
    """What an export wrote, and how long it took (seconds). Sizes are in bytes.

    `memory_bytes` is what ONNX Runtime holds of the weights on a CPU, copies of float weights included.
    """

    folder: Path
    source: Path
    source_bytes: int
    export_bytes: int
    types: dict[str, TypeUse]
    max_length: int
    kv_cache_bytes_per_position: int
    memory_bytes: int
    seconds: float

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
        return (
            f"{self.source.name} ({format_bytes(self.source_bytes)}) -> {self.folder} "
            f"({format_bytes(self.export_bytes)}) in {self.seconds:.1f} s\n"
            f"  weights  {self.parameters / 1e6:,.1f} M in {tensors} tensors, {self.bits_per_weight:.2f} bits each\n"
            f"  types    {types}\n"
            f"  context  {self.max_length:,} positions; the KV cache takes {format_bytes(cache)} for each "
            f"({format_bytes(cache * min(512, self.max_length))} for {min(512, self.max_length)})\n"
            f"  memory   about {format_bytes(self.memory_bytes)} to run, without the KV cache"
        )


def export(
    model: str | Path,
    output: str | Path,
    *,
    ops: Ops = "contrib",
    activations: Activations = "int8",
    precision: Precision = "fp32",
    logits: Logits = "last",
    max_length: int | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ExportSummary:
    """Export a GGUF to a folder that any ONNX Runtime app loads.

    Args:
        model: A .gguf file, or any part of a split one.
        output: The folder to make. It appears whole, or not at all.
        ops: How weights and attention become ops; `contrib`: ONNX Runtime's own.
        activations: `int8`: linears quantize their input by blocks, as llama.cpp's do. `float32`: they do not.
        precision: `fp16`: attention, KV cache and the linears that lose nothing by it are float16 (for CUDA).
        logits: Which positions get logits: `last`, `all`, or `selected` by the input `logits_to_keep`.
        max_length: Positions that the rotary tables reach; None for the model's context length.
        force: Replace an earlier export. Folders that hold anything else are never replaced.
        progress: Called with the bytes of the GGUF that are packed, and their total.

    Raises:
        Llama3Error: the file is no Llama that we support, is damaged, or the output cannot be written.
    """
    start = time.perf_counter()
    output = Path(output)
    check_output(output, force=force)
    with GGUFFile.open(model) as file:
        config = Hyperparameters.from_gguf(file)
        if max_length is None:
            max_length = config.context_length
        elif not 1 <= max_length <= config.context_length:
            raise Llama3Error(
                f"max-length {max_length} is not in 1 .. {config.context_length}, the context of {file.path}"
            )
        weights = WeightsFile()
        backend = _BACKENDS[ops](
            file, config, weights, activations=activations, precision=precision, max_length=max_length
        )
        graph = ir.to_proto(build_graph(config, backend, backend.kv_type, logits)).SerializeToString()
        hosts = host_files.host_files(file, config, max_length)
        types = _types(file)

        with ThreadPoolExecutor(1) as pool, unnamed_file(output, weights.size) as data:
            digests = pool.submit(_digests, file)
            done = 0

            def packed(n_bytes: int) -> None:
                nonlocal done
                done += n_bytes
                if progress is not None:
                    progress(done, weights.source_bytes)

            weights.write(data.descriptor, packed)
            options = {
                "ops": ops,
                "activations": activations,
                "precision": precision,
                "logits": logits,
                "max_length": max_length,
            }
            facts = {
                "producer": PRODUCER,
                "version": host_files.exporter_version(),
                "source": {"name": file.path.name, "size": file.size, "parts": digests.result()},
                "options": options,
                "types": {name: vars(use) for name, use in types.items()},
            }
            files = {GRAPH: graph, weights_file.NAME: data, FACTS: host_files.to_json(facts), **hosts}
            publish_folder(output, files)
            export_bytes = weights.size + sum(len(content) for content in files.values() if isinstance(content, bytes))

        kv_bytes = 2 * config.num_layers * config.num_key_value_heads * config.head_dim * backend.kv_type.itemsize
        return ExportSummary(
            folder=output,
            source=file.path,
            source_bytes=file.size,
            export_bytes=export_bytes,
            types=types,
            max_length=max_length,
            kv_cache_bytes_per_position=int(kv_bytes),
            memory_bytes=weights.size + backend.float_copies_bytes,
            seconds=time.perf_counter() - start,
        )


def _types(file: GGUFFile) -> dict[str, TypeUse]:
    """How many tensors, weights and bytes each GGML type has, largest first."""
    uses: dict[str, TypeUse] = {}
    for tensor in file.tensors.values():
        use = uses.get(tensor.type.name, TypeUse(0, 0, 0))
        parameters = 1
        for dim in tensor.shape:
            parameters *= dim
        uses[tensor.type.name] = TypeUse(use.tensors + 1, use.parameters + parameters, use.bytes + tensor.n_bytes)
    return dict(sorted(uses.items(), key=lambda item: -item[1].bytes))


def _digests(file: GGUFFile) -> list[dict[str, str]]:
    """Name and SHA-256 of every file of the model, by which a later run knows that nothing changed."""
    digests = []
    for part in file.parts:
        digest = hashlib.sha256()
        with part.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        digests.append({"name": part.name, "sha256": digest.hexdigest()})
    return digests
