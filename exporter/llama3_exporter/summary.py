"""The summary that an export prints when it is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from llama3_models.exports import DEFAULT_MAX_LENGTH
from llama3_models.manifest import TypeUse
from llama3_models.terminal import WIDTH, shell_word, wrapped
from llama3_models.units import format_bytes

EXAMPLE_PROMPT: Final = "I believe"


@dataclass(frozen=True)
class ExportSummary:
    """The result of an export. Sizes are in bytes, and times in seconds.

    `output` is the folder, or the graph beside its GGUF; `written_bytes` does not count files that were only linked.
    `adapters` are the names and scales of the LoRA adapters.
    `memory_bytes` is what ONNX Runtime needs for the weights on a CPU, including its copies of float weights.
    `downloads` are the bytes that a visitor of a web page downloads, by the kind of graph, and `wasm_memory_bytes` what
    WebAssembly needs for the weights; both only for the target `web`.
    `runs` is whether this installation can run the graph, and `has_tokenizer` whether llama3-run can use the export's
    own tokenizer. The warnings say why not.
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
    downloads: Mapping[str, int] = field(default_factory=dict)
    wasm_memory_bytes: int | None = None
    adapters: tuple[tuple[str, float], ...] = ()
    warnings: tuple[str, ...] = ()
    runs: bool = True
    has_tokenizer: bool = True

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(use.parameters for use in self.types.values())

    @property
    def bits_per_weight(self) -> float:
        """Bits per weight in the GGUF: its tensors' bytes, without metadata."""
        return 8 * sum(use.bytes for use in self.types.values()) / self.parameters

    def how_to_run(self) -> str:
        """Return a command that runs the export, or a sentence that says what is needed first."""
        command = f"llama3-run --model-path {shell_word(str(self.output))}"
        if not self.runs:
            return "To run it, first build the library of native ops (see the note above)."
        if not self.has_tokenizer:
            return f"To run it, add the model's tokenizer:  {command} --tokenizer-path FILE"
        if self.max_length <= len(EXAMPLE_PROMPT) + 1:  # at most one token per byte, and the first token
            return f"To run it, use a prompt of fewer than {self.max_length} tokens:  {command} --prompt TEXT"
        return f'Run it:  {command} --prompt "{EXAMPLE_PROMPT}"'

    def lines(self) -> list[str]:
        """Return the summary, in at most 80 columns except for long names."""
        tensors = sum(use.tensors for use in self.types.values())
        types = ", ".join(f"{name} {format_bytes(use.bytes)} ({use.tensors})" for name, use in self.types.items())
        cache, usual = self.kv_cache_bytes_per_position, min(DEFAULT_MAX_LENGTH, self.max_length)
        read = f"{self.source.name} ({format_bytes(self.source_bytes)})"
        wrote = f"-> {self.output} ({format_bytes(self.written_bytes)} written) in {self.seconds:.1f} s"
        both = f"{read} {wrote}"
        size = f"{self.parameters / 1e6:,.1f} M in {tensors} tensors, {self.bits_per_weight:.2f} bits each"
        room = f"each {format_bytes(cache)} in the KV cache ({format_bytes(cache * usual)} for {usual:,})"
        downloads = ", ".join(f"{format_bytes(size)} for {name}" for name, size in self.downloads.items())
        wasm = [] if self.wasm_memory_bytes is None else [f"{format_bytes(self.wasm_memory_bytes)} in WebAssembly"]
        memory = ", ".join([f"about {format_bytes(self.memory_bytes)} to run", *wasm, "without the KV cache"])
        return [
            *([both] if len(both) <= WIDTH else [read, f"  {wrote}"]),
            f"  weights  {size}",
            *wrapped("  types    ", types, after_commas=True),
            *wrapped("  context  ", f"{self.max_length:,} positions, {room}"),
            f"  memory   {memory}",
            *([f"  visitors download {downloads}"] if downloads else []),
            *(f"  adapter  {name}, scale {scale:g}" for name, scale in self.adapters),
            *(line for warning in self.warnings for line in wrapped("  note     ", warning)),
        ]
