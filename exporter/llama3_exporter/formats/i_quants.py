"""IQ1_S to IQ4_XS: super-blocks of 256 weights. In most types, a point of a grid encodes eight or four weights.

All grid values are small integers, so a weight is a scale times a signed byte. The grids come from the gguf package.
Scales are odd multiples of a fraction of one float16, exact in float32.
"""

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import quants

from llama3_exporter.formats.blocks import Float32, UInt8, UnpackedBlocks, float16_at, look_up, split_bits

_Integers = npt.NDArray[np.integer[Any]]
EIGHTH, QUARTER = np.float32(1 / 8), np.float32(1 / 4)


@cache
def _grid(name: str) -> UInt8:
    """Return the points of a type's grid, [points, weights per point]; the negative values of IQ1 wrap around."""
    quant = getattr(quants, name)
    quant.init_grid()  # the package contains a compact form
    points: UInt8 = quant.grid[0, 0].astype(np.int8).view(np.uint8)
    return points


def _signed_points(name: str, index: _Integers, signs: UInt8) -> UInt8:
    """Look up grid points, negate the weights whose bit of `signs` (a byte per eight weights) is set, and add 128."""
    q = np.take(_grid(name), index, axis=0).reshape(len(index), -1)
    negative = np.unpackbits(signs, axis=1, bitorder="little")
    q ^= -negative  # with the 1 added below: two's complement
    q += negative
    q ^= 0x80
    return q


def _four_fields(words: _Integers, bits: int) -> _Integers:
    """Return the low four fields of each word, the lowest first: [n, words] -> [n, 4 * words]."""
    fields = words[:, :, None] >> np.arange(0, 4 * bits, bits, dtype=words.dtype) & ((1 << bits) - 1)
    return fields.reshape(len(words), -1)


def _sign_bytes(sevens: _Integers) -> UInt8:
    """Expand 7 bits to the signs of eight weights: the eighth makes the number of negative ones even."""
    return np.take(np.frombuffer(quants.IQ2_XXS.ksigns, np.uint8), sevens)


def _odd_multiples(unit: Float32, half: _Integers) -> Float32:
    """Compute the scales unit * (2 half + 1): [n, 1] and [n, sub-blocks] -> [n, sub-blocks]."""
    return unit * (half.astype(np.float32) * 2 + 1)


def unpack_iq2_xxs(blocks: UInt8) -> UnpackedBlocks:
    """Unpack a float16, then per 32 weights four grid indices of 8 bits, four signs of 7 bits, a scale of 4 bits."""
    words = blocks[:, 2:].view(np.uint32).reshape(-1, 8, 2)
    index = np.ascontiguousarray(words[:, :, 0]).view(np.uint8)
    signs = _sign_bytes(_four_fields(words[:, :, 1], 7))
    scale = _odd_multiples(float16_at(blocks, 0) * EIGHTH, words[:, :, 1] >> 28)
    return UnpackedBlocks(_signed_points("IQ2_XXS", index, signs), scale)


def unpack_iq2_xs(blocks: UInt8) -> UnpackedBlocks:
    """Unpack a float16, 32 words of a 9-bit grid index and 7 bits of signs, 16 scales of 4 bits; sub-blocks of 16."""
    words = blocks[:, 2:66].view(np.uint16)
    signs = _sign_bytes(words >> 9)
    scale = _odd_multiples(float16_at(blocks, 0) * EIGHTH, split_bits(blocks[:, 66:, None], 4))
    return UnpackedBlocks(_signed_points("IQ2_XS", words & 511, signs), scale)


def unpack_iq2_s(blocks: UInt8) -> UnpackedBlocks:
    """Unpack a float16, 32 grid indices, 32 sign bytes, two more bits per index, 16 scales of 4 bits."""
    index = blocks[:, 2:34] | split_bits(blocks[:, 66:74, None], 2).astype(np.uint16) << 8
    scale = _odd_multiples(float16_at(blocks, 0) * EIGHTH, split_bits(blocks[:, 74:, None], 4))
    return UnpackedBlocks(_signed_points("IQ2_S", index, blocks[:, 34:66]), scale)


def unpack_iq3_xxs(blocks: UInt8) -> UnpackedBlocks:
    """Unpack a float16, 64 grid indices of four weights each, then per 32 weights four signs and a scale of 4 bits."""
    words = blocks[:, 66:].view(np.uint32)
    scale = _odd_multiples(float16_at(blocks, 0) * QUARTER, words >> 28)
    return UnpackedBlocks(_signed_points("IQ3_XXS", blocks[:, 2:66], _sign_bytes(_four_fields(words, 7))), scale)


def unpack_iq3_s(blocks: UInt8) -> UnpackedBlocks:
    """Unpack a float16, 64 grid indices of four weights each, a ninth bit per index, 32 sign bytes, 8 scales of 4 bits.

    The grid contains odd numbers up to 15. With their signs they are 2 q - 15, and q fits in 4 bits.
    """
    index = blocks[:, 2:66] | split_bits(blocks[:, 66:74, None], 1).astype(np.uint16) << 8
    scale = _odd_multiples(float16_at(blocks, 0), split_bits(blocks[:, 106:, None], 4))
    q = _signed_points("IQ3_S", index, blocks[:, 74:106])  # offset by 128
    return UnpackedBlocks((q - np.uint8(128 - 15)) >> np.uint8(1), scale * np.float32(2), scale * np.float32(15))


def unpack_iq1_s(blocks: UInt8) -> UnpackedBlocks:
    """Unpack a float16, 32 grid indices, then per 32 weights 3 more bits for four indices, a scale of 3 bits, a shift.

    The grid contains -1, 0 and 1. The shift moves all of them up or down by an eighth, so it is part of the minimum.
    """
    words = blocks[:, 34:].view(np.uint16)
    index = blocks[:, 2:34] | _four_fields(words, 3) << 8
    q = np.take(_grid("IQ1_S"), index, axis=0).reshape(len(blocks), -1)
    scale = _odd_multiples(float16_at(blocks, 0), words >> 12 & 7)
    shift = np.copysign(EIGHTH, words.view(np.int16).astype(np.float32))
    return UnpackedBlocks(q + np.uint8(1), scale, scale * (1 - shift))


def unpack_iq1_m(blocks: UInt8) -> UnpackedBlocks:
    """Unpack 32 grid indices, for each a nibble of 3 more bits and a shift, 16 scales of 3 bits; sub-blocks of 16.

    The float16 is split over the highest nibbles of the four words of scales. A shift moves 8 weights, so a sub-block
    can have one up and one down: the codes are eighths, offset by 128.
    """
    nibbles = split_bits(blocks[:, 32:48, None], 4)
    words = blocks[:, 48:].view(np.uint16)
    pieces = words >> 12 << np.array([0, 4, 8, 12], np.uint16)
    unit = np.bitwise_or.reduce(pieces, axis=1, keepdims=True).view(np.float16).astype(np.float32)
    index = blocks[:, :32] | (nibbles & 7).astype(np.uint16) << 8
    eighths = np.take(_grid("IQ1_M"), index, axis=0) << np.uint8(3)
    eighths += np.where(nibbles >= 8, np.uint8(128 - 1), np.uint8(128 + 1))[:, :, None]
    return UnpackedBlocks(eighths.reshape(len(blocks), -1), _odd_multiples(unit * EIGHTH, _four_fields(words, 3)))


def unpack_iq4_xs(blocks: UInt8) -> UnpackedBlocks:
    """Unpack a float16, high and low bits of eight 6-bit scales, 128 bytes of nibbles for IQ4_NL's codebook."""
    high_bits = blocks[:, 2:4].view(np.uint16) >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    scale = split_bits(blocks[:, 4:8, None], 4).astype(np.int16) | (high_bits << 4).astype(np.int16)
    q = split_bits(blocks[:, 8:].reshape(-1, 8, 16), 4)
    return UnpackedBlocks(look_up(quants.IQ4_NL.kvalues, q), float16_at(blocks, 0) * (scale - 32).astype(np.float32))
