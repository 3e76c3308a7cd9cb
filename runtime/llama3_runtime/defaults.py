"""Default values, in a separate module because --help needs them without importing onnxruntime."""

from typing import Final

CHUNK_SIZE: Final = 512
"""Tokens of a prompt that are evaluated at a time."""
