"""What was chosen about an export; all of it is written into the graph's metadata."""

from __future__ import annotations

from dataclasses import dataclass

from llama3_models.exports import Activations, Logits, Ops, Precision


@dataclass(frozen=True)
class ExportOptions:
    """The choices of one export; `max_length` is how many positions the graph can reach."""

    ops: Ops
    activations: Activations
    precision: Precision
    logits: Logits
    max_length: int
