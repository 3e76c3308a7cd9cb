"""The models, each declared once as a sequence of a `Backend`'s modules."""

from collections.abc import Callable, Mapping
from typing import Final

from llama3_models.config import Hyperparameters

from llama3_exporter.decoders.backend import Backend
from llama3_exporter.decoders.decoder import DecoderCall
from llama3_exporter.decoders.llama import Llama
from llama3_exporter.decoders.qwen2 import Qwen2
from llama3_exporter.decoders.qwen3 import Qwen3

__all__ = ["DECODERS"]

DECODERS: Final[Mapping[str, Callable[[Hyperparameters, Backend], DecoderCall]]] = {
    "llama": Llama,
    "qwen2": Qwen2,
    "qwen3": Qwen3,
}
"""The decoder of each architecture, by its name."""
