"""What a GGUF computes, in plain numpy float32: the oracle that exports are held against."""

from llama3_models.reference.model import forward

__all__ = ["forward"]
