"""The models, each declared once: which modules of a `Backend`, and in which order."""

from collections.abc import Callable, Mapping
from typing import Final

from llama3_models.config import Hyperparameters

from llama3_exporter.decoders.backend import Backend
from llama3_exporter.decoders.decoder import Decoder
from llama3_exporter.decoders.llama import Llama

__all__ = ["DECODERS"]

DECODERS: Final[Mapping[str, Callable[[Hyperparameters, Backend], Decoder]]] = {
    "llama": Llama,
}
"""By the name of the architecture."""
