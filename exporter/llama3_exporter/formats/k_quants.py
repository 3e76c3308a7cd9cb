"""Q2_K to Q6_K: super-blocks of 256 weights, whose sub-blocks have small integer scales times one float16.

The product of a float16 (11 significant bits) and an integer of up to 8 bits is exact in float32, the type of
MatMulNBits's scales.
"""

import numpy as np

from llama3_exporter.formats.blocks import Float32, UInt8, UnpackedBlocks, float16_at, split_bits


def unpack_q2_k(blocks: UInt8) -> UnpackedBlocks:
    """Unpack 16 bytes of scale and minimum nibbles, 64 bytes of 2-bit codes, two float16; sub-blocks of 16."""
    scales_and_minima = blocks[:, :16]
    q = split_bits(blocks[:, 16:80].reshape(-1, 2, 32), 2)
    scale = float16_at(blocks, 80) * (scales_and_minima & 15).astype(np.float32)
    minimum = float16_at(blocks, 82) * (scales_and_minima >> 4).astype(np.float32)
    return UnpackedBlocks(q, scale, minimum)


def unpack_q3_k(blocks: UInt8) -> UnpackedBlocks:
    """Unpack 32 bytes of third bits, 64 bytes of 2-bit codes, 12 bytes of 6-bit scales, a float16; sub-blocks of 16.

    ggml subtracts 4 if the third bit is *not* set. The same is the code with its third bit, minus 4.
    """
    q = split_bits(blocks[:, 32:96].reshape(-1, 2, 32), 2)
    q |= split_bits(blocks[:, None, :32], 1) << 2
    scale = split_bits(blocks[:, None, 96:104], 4)  # [n, 16]
    scale |= split_bits(blocks[:, None, 104:108], 2) << 4
    return UnpackedBlocks(q, float16_at(blocks, 108) * (scale.view(np.int8) - np.int8(32)).astype(np.float32))


def _six_bit_scales(blocks: UInt8) -> tuple[Float32, Float32]:
    """Return the eight scales and minima at the head of a Q4_K or Q5_K block, times their float16. Each is [n, 8].

    They are twelve bytes, read as three words of four bytes. The low 6 bits of each byte are scales 0 to 3 in the first
    word, and minima 0 to 3 in the second. The nibbles of the third word are the low bits of scales and minima 4 to 7;
    their two high bits are the highest of each byte in the first two words.
    """
    words = np.ascontiguousarray(blocks[:, 4:16]).view(np.uint32)  # [n, 3]
    packed = np.empty((len(blocks), 4), np.uint32)
    packed[:, 0] = words[:, 0] & 0x3F3F3F3F
    packed[:, 1] = (words[:, 2] & 0x0F0F0F0F) | ((words[:, 0] >> 2) & 0x30303030)
    packed[:, 2] = words[:, 1] & 0x3F3F3F3F
    packed[:, 3] = ((words[:, 2] >> 4) & 0x0F0F0F0F) | ((words[:, 1] >> 2) & 0x30303030)
    factors = packed.view(np.uint8).astype(np.float32)  # [n, 16]
    return float16_at(blocks, 0) * factors[:, :8], float16_at(blocks, 2) * factors[:, 8:]


def unpack_q4_k(blocks: UInt8) -> UnpackedBlocks:
    """Unpack two float16, 12 bytes of 6-bit scales and minima, 128 bytes of nibbles; sub-blocks of 32."""
    return UnpackedBlocks(split_bits(blocks[:, 16:].reshape(-1, 4, 32), 4), *_six_bit_scales(blocks))


def unpack_q5_k(blocks: UInt8) -> UnpackedBlocks:
    """Unpack blocks like Q4_K's, with 32 bytes of fifth bits before the nibbles."""
    q = split_bits(blocks[:, 48:].reshape(-1, 4, 32), 4)
    q |= split_bits(blocks[:, None, 16:48], 1) << 4
    return UnpackedBlocks(q, *_six_bit_scales(blocks))


def unpack_q6_k(blocks: UInt8) -> UnpackedBlocks:
    """Unpack 128 bytes of nibbles, 64 bytes of two high bits, 16 signed scales, a float16; sub-blocks of 16."""
    q = split_bits(blocks[:, :128].reshape(-1, 2, 64), 4)
    q |= split_bits(blocks[:, 128:192].reshape(-1, 2, 32), 2) << 4
    return UnpackedBlocks(q, float16_at(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32))
