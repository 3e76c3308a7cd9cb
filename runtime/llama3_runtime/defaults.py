"""What holds unless a caller says otherwise; apart, since a command's --help needs it and not onnxruntime."""

from typing import Final

CHUNK_SIZE: Final = 512
"""Tokens of a prompt that go through the graph at once."""
