"""TQ1_0 and TQ2_0 (for BitNet and similar models): 256 weights of -1, 0 or 1, times one float16.

The codes 0, 1, 2 fit in 4 bits with zero point 1. TQ2_0 has room for a code 3, which means 2; it is kept.
"""

import numpy as np

from llama3_exporter.formats.blocks import UInt8, UnpackedBlocks, float16_at, split_bits


def _trits(packed: UInt8, count: int) -> UInt8:
    """Return the `count` ternary digits of each byte, the highest digit of every byte first: [n, w] -> [n, count * w].

    A byte is the fraction 0.abcde in base 3, rounded up to 1/256. Multiplying it by 3 moves a digit in front of the
    point, and leaves the rest in the byte.
    """
    digits = np.empty((len(packed), count, packed.shape[1]), np.uint8)
    rest = packed
    for i in range(count):
        product = rest.astype(np.uint16) * np.uint16(3)
        digits[:, i] = product >> 8
        rest = product.astype(np.uint8)
    return digits.reshape(len(packed), -1)


def unpack_tq1_0(blocks: UInt8) -> UnpackedBlocks:
    """Unpack 32 and 16 bytes of five digits each, 4 bytes of four digits, a float16."""
    q = np.concatenate([_trits(blocks[:, :32], 5), _trits(blocks[:, 32:48], 5), _trits(blocks[:, 48:52], 4)], axis=1)
    return UnpackedBlocks(q, float16_at(blocks, 52))


def unpack_tq2_0(blocks: UInt8) -> UnpackedBlocks:
    """Unpack 64 bytes of 2-bit codes, a float16."""
    return UnpackedBlocks(split_bits(blocks[:, :64].reshape(-1, 2, 32), 2), float16_at(blocks, 64))
