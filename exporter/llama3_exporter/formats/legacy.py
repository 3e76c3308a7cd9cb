"""Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL: blocks of 32 weights, each with its own float16 scale."""

import numpy as np
from gguf import quants

from llama3_exporter.formats.blocks import UInt8, UnpackedBlocks, float16_at, look_up, split_bits


def _nibbles(packed: UInt8) -> UInt8:
    """Split sixteen bytes: low nibbles are weights 0 to 15, high nibbles 16 to 31. [n, 16] -> [n, 32]."""
    return split_bits(packed[:, None, :], 4)


def _fifth_bits(packed: UInt8) -> UInt8:
    """Split four bytes into one bit per weight, with the value 16. [n, 4] -> [n, 32]."""
    return np.unpackbits(packed, axis=1, bitorder="little") << np.uint8(4)


def unpack_q4_0(blocks: UInt8) -> UnpackedBlocks:
    """Unpack a scale, 16 bytes of nibbles."""
    return UnpackedBlocks(_nibbles(blocks[:, 2:]), float16_at(blocks, 0))


def unpack_q4_1(blocks: UInt8) -> UnpackedBlocks:
    """Unpack a scale, an offset, 16 bytes of nibbles; the offset is added, so the minimum is its negative."""
    return UnpackedBlocks(_nibbles(blocks[:, 4:]), float16_at(blocks, 0), -float16_at(blocks, 2))


def unpack_q5_0(blocks: UInt8) -> UnpackedBlocks:
    """Unpack a scale, 4 bytes of fifth bits, 16 bytes of nibbles."""
    return UnpackedBlocks(_nibbles(blocks[:, 6:]) | _fifth_bits(blocks[:, 2:6]), float16_at(blocks, 0))


def unpack_q5_1(blocks: UInt8) -> UnpackedBlocks:
    """Unpack a scale, an offset, 4 bytes of fifth bits, 16 bytes of nibbles."""
    q = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks[:, 4:8])
    return UnpackedBlocks(q, float16_at(blocks, 0), -float16_at(blocks, 2))


def unpack_q8_0(blocks: UInt8) -> UnpackedBlocks:
    """Unpack a scale, 32 signed bytes; the zero point 128 makes them unsigned."""
    return UnpackedBlocks(blocks[:, 2:] ^ np.uint8(0x80), float16_at(blocks, 0))


def unpack_iq4_nl(blocks: UInt8) -> UnpackedBlocks:
    """Unpack a scale, 16 bytes of nibbles that choose from 16 unevenly spaced values."""
    return UnpackedBlocks(look_up(quants.IQ4_NL.kvalues, _nibbles(blocks[:, 2:])), float16_at(blocks, 0))
