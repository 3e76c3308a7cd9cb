"""The computation of a GGUF in plain numpy float32: the oracle that exports are compared with."""

from llama3_models.reference.model import forward

__all__ = ["forward"]
