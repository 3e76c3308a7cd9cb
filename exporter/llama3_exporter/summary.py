"""What an export tells of itself when it is done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llama3_models.exports import DEFAULT_MAX_LENGTH
from llama3_models.manifest import TypeUse
from llama3_models.units import format_bytes


@dataclass(frozen=True)
class ExportSummary:
    """What an export wrote, and how long it took (seconds). Sizes are in bytes.

    `output` is the folder, or the graph beside its GGUF; `written_bytes` leaves out what was only linked.
    `adapters` are the names of LoRA adapters with their scales.
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
    adapters: tuple[tuple[str, float], ...] = ()
    warnings: tuple[str, ...] = ()

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
        cache, usual = self.kv_cache_bytes_per_position, min(DEFAULT_MAX_LENGTH, self.max_length)
        lines = [
            f"{self.source.name} ({format_bytes(self.source_bytes)}) -> {self.output} "
            f"({format_bytes(self.written_bytes)} written) in {self.seconds:.1f} s",
            f"  weights  {self.parameters / 1e6:,.1f} M in {tensors} tensors, {self.bits_per_weight:.2f} bits each",
            f"  types    {types}",
            f"  context  {self.max_length:,} positions; the KV cache takes {format_bytes(cache)} for each "
            f"({format_bytes(cache * usual)} for {usual:,})",
            f"  memory   about {format_bytes(self.memory_bytes)} to run, without the KV cache",
        ]
        lines += [f"  adapter  {name}, scale {scale:g}" for name, scale in self.adapters]
        return "\n".join([*lines, *(f"  note     {warning}" for warning in self.warnings)])
