"""A GGUF's bytes, piece by piece, so a test can get any of them wrong.

This follows the specification and does not use the gguf package, which refuses to write hostile files.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64, FLOAT64 = range(13)
F32, F16, Q4_0, Q8_0, Q4_K = 0, 1, 2, 8, 12


def string(text: str | bytes, length: int | None = None) -> bytes:
    """Return a string after its length, or after a wrong `length`."""
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def array(item_type: int, count: int, items: bytes = b"") -> bytes:
    """Return the value of an array that claims to have `count` items."""
    return struct.pack("<IQ", item_type, count) + items


@dataclass
class RawTensor:
    """A tensor's description; `dimensions` are in the file's order, the innermost first."""

    name: str | bytes
    dimensions: tuple[int, ...]
    type: int = F32
    offset: int = 0
    n_dims: int | None = None

    def pieces(self) -> list[bytes]:
        n_dims = len(self.dimensions) if self.n_dims is None else self.n_dims
        numbers = [struct.pack("<Q", dimension) for dimension in self.dimensions]
        return [string(self.name), struct.pack("<I", n_dims), *numbers, struct.pack("<IQ", self.type, self.offset)]


@dataclass
class RawGGUF:
    """A small GGUF, valid unless a test changes it."""

    version: int = 3
    alignment: int = 32
    metadata: list[tuple[str | bytes, int, bytes]] = field(
        default_factory=lambda: [
            ("general.architecture", STRING, string("llama")),
            ("llama.block_count", UINT32, struct.pack("<I", 2)),
            ("a.flag", BOOL, b"\1"),
            ("a.double", FLOAT64, struct.pack("<d", 0.5)),
            ("some.strings", ARRAY, array(STRING, 3, string("ab") + string("") + string("ç"))),
            ("some.numbers", ARRAY, array(INT16, 3, struct.pack("<3h", -1, 2, 3))),
            ("some.nested", ARRAY, array(ARRAY, 2, array(UINT8, 2, b"\1\2") + array(STRING, 1, string("x")))),
        ]
    )
    tensors: list[RawTensor] = field(
        default_factory=lambda: [
            RawTensor("first", (32, 2), Q8_0, 0),
            RawTensor("second", (8,), F32, 96),
            RawTensor("third", (64, 1, 2), F16, 128),
        ]
    )
    n_tensors: int | None = None
    n_metadata: int | None = None
    data: bytes = bytes(range(128)) * 3

    def pieces(self) -> list[bytes]:
        """Return the file, split between its fields."""
        pieces = [
            b"GGUF",
            struct.pack("<I", self.version),
            struct.pack("<Q", len(self.tensors) if self.n_tensors is None else self.n_tensors),
            struct.pack("<Q", len(self.metadata) if self.n_metadata is None else self.n_metadata),
        ]
        for key, value_type, value in self.metadata:
            pieces += [string(key), struct.pack("<I", value_type), value]
        for tensor in self.tensors:
            pieces += tensor.pieces()
        size = sum(map(len, pieces))
        return [*pieces, bytes(-size % self.alignment), self.data]

    def write(self, path: Path) -> Path:
        path.write_bytes(b"".join(self.pieces()))
        return path
